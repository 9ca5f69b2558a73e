"""tritter plan: what an expansion would do, without doing it."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from tprog import ModelConfig, UsageError, count_parameters, named_size, size_label
from tprog.sizes import count_bytes

from tritter_jax.cli.arguments import MAX_SEED, is_size, layer_list, source_path, target_for
from tritter_jax.cli.output import JsonOption, emit, human_bytes, ranges, table

if TYPE_CHECKING:
    from tritter_jax.growth import Plan

From = Annotated[
    str,
    typer.Option("--from", help="A .tprog, a Hugging Face directory, or a size: the newest *-{size}-*.tprog here."),
]
To = Annotated[str, typer.Option("--to", help="A named size, or a config.json.")]
Depth = Annotated[str, typer.Option(help="How new layers begin: identity (they change nothing).")]
Positions = Annotated[
    str, typer.Option(help="Where new layers go: uniform (LLaMA Pro's rule), spread, or auto: the first that fits.")
]
Layers = Annotated[str | None, typer.Option(help="The layers to copy, such as 13-18, instead of a rule.")]
Width = Annotated[str, typer.Option(help="How axes are widened: duplicate or fresh.")]
Split = Annotated[str, typer.Option(help="How copies share what they pass on: uneven, even or first.")]
Seed = Annotated[int, typer.Option(help="Seed of whatever is drawn.", min=0, max=MAX_SEED)]
DType = Annotated[str | None, typer.Option(help="Stored dtype of the result; default the source's.")]


def plan(
    source: From,
    target: To,
    depth: Depth = "identity",
    positions: Positions = "auto",
    layers: Layers = None,
    width: Width = "duplicate",
    split: Split = "uneven",
    seed: Seed = 0,
    dtype: DType = None,
    json: JsonOption = False,
) -> None:
    """Show what comes from where, sizes before and after, and what is guaranteed. Writes nothing.

    Example: tritter plan --from 3B --to 7B
    """
    from tritter_jax.growth import describe, load_strategies, make_plan

    load_strategies()
    config = _source_config(source)
    made = make_plan(
        config,
        target_for(config, target, dtype),
        depth=depth,
        positions=positions,
        layers=layer_list(layers),
        width=width,
        split=split,
        seed=seed,
        convert=True if dtype else None,
    )
    emit(describe(made), json, lambda console: print_plan(console, made))


def _source_config(text: str) -> ModelConfig:
    """The configuration of a checkpoint or, where none of a named size is at hand, of the size itself."""
    from dataclasses import replace

    from tprog.reader import open_checkpoint

    try:
        return open_checkpoint(source_path(text)).config
    except UsageError:
        if is_size(text):
            return replace(named_size(text), dtype="bfloat16")
        raise


def print_plan(console: Console, made: "Plan") -> None:
    """A plan for a person."""
    before, after = made.source, made.target
    view = table("", size_label(before), size_label(after), "what is new", numbers=(1, 2))
    maps = {axis.name: along for axis, along in made.maps}
    for title, name, axis in (
        ("layers", "num_layers", "layers"),
        ("hidden size", "hidden_size", "hidden"),
        ("query heads", "num_heads", "heads"),
        ("kv heads", "num_kv_heads", "kv_heads"),
        ("feed-forward", "intermediate_size", "mlp"),
    ):
        note = ""
        if axis in maps:
            fresh = int(maps[axis].fresh.sum())
            copies = int(maps[axis].new.sum()) - fresh
            note = " and ".join(f"{n:,} {what}" for n, what in ((copies, "copies"), (fresh, "fresh")) if n)
        if axis == "layers" and made.new_layers:
            sources = ranges([made.stack.source[i] for i in made.new_layers])
            note = f"layers {ranges(made.new_layers)}, {made.depth} copies of old {sources}"
        view.add_row(title, f"{getattr(before, name):,}", f"{getattr(after, name):,}", note)
    counts = [count_parameters(config) for config in (before, after)]
    view.add_row("parameters", *(f"{count:,}" for count in counts), f"x {counts[1] / counts[0]:.2f}")
    view.add_row(
        "weights",
        human_bytes(count_bytes(before)),
        human_bytes(count_bytes(after)),
        f"{before.dtype} -> {after.dtype}",
    )
    console.print(view)
    promise = made.guarantee
    console.print(f"function: {'exact' if promise.exact else 'NOT exact'}: {promise.reason}")
    console.print(f"gradients: {promise.gradients}")
