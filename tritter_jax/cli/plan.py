"""tritter plan: what an expansion would do, without doing it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from tprog import ModelConfig, UsageError, count_parameters, load_config, named_size, size_label
from tprog.locate import hub_source, is_size, perhaps_a_directory, user_path
from tprog.sizes import count_bytes

from tritter_jax.cli import completion
from tritter_jax.cli.arguments import (
    MAX_SEED,
    check_dtype,
    layer_list,
    output_file,
    plan_record,
    source_path,
    target_for,
)
from tritter_jax.cli.output import emit, err, human_bytes, ranges, table

if TYPE_CHECKING:
    from tprog.reader import Checkpoint

    from tritter_jax.growth import Plan

From = Annotated[
    str,
    typer.Option(
        "--from",
        help="A .tprog, a Hugging Face directory, org/name on the Hub, a config.json, or a size (the most trained).",
        autocompletion=completion.sources,
    ),
]
To = Annotated[
    str,
    typer.Option(
        "--to",
        help="A named size, a config.json, or a plan that `tritter plan --save` wrote.",
        autocompletion=completion.sizes,
    ),
]
Depth = Annotated[
    str,
    typer.Option(
        help="How new layers begin: identity (they change nothing), copy, solar (two cut copies of the stack), "
        "stack (the whole stack several times).",
        autocompletion=completion.strategies("depth"),
    ),
]
Positions = Annotated[
    str,
    typer.Option(
        help="Where new layers go: uniform (LLaMA Pro's rule), spread, middle, top, importance, "
        "expendable, or auto: uniform where it fits, else spread; expendable for an inexact --depth after `analyze`.",
        autocompletion=completion.strategies("positions"),
    ),
]
Layers = Annotated[str | None, typer.Option(help="The layers to copy, such as 13-18 or 3,5,7-9, instead of a rule.")]
Width = Annotated[
    str,
    typer.Option(help="How axes are widened: duplicate or fresh.", autocompletion=completion.strategies("width")),
]
Split = Annotated[
    str,
    typer.Option(
        help="How copies share what they pass on: uneven, even or first.",
        autocompletion=completion.strategies("split"),
    ),
]
Noise = Annotated[
    float | None,
    typer.Option(help="Noise on copies of this signal-to-noise ratio in dB, where it changes nothing.", metavar="DB"),
]
Everywhere = Annotated[
    bool, typer.Option("--noise-everywhere", help="Lay the noise on all new entries; the function changes.")
]
Inexact = Annotated[
    bool, typer.Option("--allow-inexact", help="Grow also where ternary rounding or inner norms let it not be exact.")
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of whatever is drawn; default 0, but noise needs one.", min=0, max=MAX_SEED)
]
DType = Annotated[str | None, typer.Option(help="Stored dtype of the result; default the source's.")]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact-shape",
        help="Take the named size's own heads, head_dim, layers and feed-forward size, or refuse; by default they "
        "are fitted to the source.",
    ),
]


def plan(
    source: From,
    target: To,
    depth: Depth = "identity",
    positions: Positions = "auto",
    layers: Layers = None,
    width: Width = "duplicate",
    split: Split = "uneven",
    noise: Noise = None,
    noise_everywhere: Everywhere = False,
    allow_inexact: Inexact = False,
    seed: Seed = None,
    dtype: DType = None,
    exact_shape: Exact = False,
    save: Annotated[Path | None, typer.Option(help="Write the plan to a file that --to takes.")] = None,
) -> None:
    """Show what comes from where, sizes before and after, and what is guaranteed. Writes nothing.

    Examples:
        tritter plan --from 3B --to 7B
        tritter plan --from org/model --to 7B --positions top --save plan.json
        tritter plan --from config.json --to 3B --exact-shape
    """
    from tprog.jsonio import write_json

    from tritter_jax.growth import describe, load_strategies, plan_to_record

    if save is not None:
        if save.exists():
            raise UsageError(save, expected="a new file", got="one that exists", remedy="Choose another name.")
        output_file(save)
    load_strategies()
    config, scores = _source(source)
    made = planned(
        config,
        target,
        dtype,
        scores,
        exact_shape=exact_shape,
        depth=depth,
        positions=positions,
        layers=layer_list(layers),
        width=width,
        split=split,
        noise=noise,
        noise_everywhere=noise_everywhere,
        allow_inexact=allow_inexact,
        seed=seed,
    )
    if save is not None:
        write_json(save, plan_to_record(made))
    warn_of_copies(made, scores)
    emit(describe(made), lambda console: print_plan(console, made))


DEFAULTS: dict[str, Any] = {"depth": "identity", "positions": "auto", "width": "duplicate", "split": "uneven"}
"""What the options that choose a growth are when they are left out; the others are None or false."""


def planned(
    config: ModelConfig,
    target: str | ModelConfig,
    dtype: str | None,
    scores: list[float] | None,
    *,
    exact_shape: bool = False,
    **choices: Any,
) -> "Plan":
    """The plan that a target and options ask for, or the one that the target is.

    Raises:
        UsageError: options beside a stored plan, or an exact shape of what is no named size.
        GrowthError: there is no such growth, or the plan is for another model.
    """
    from dataclasses import replace

    from tritter_jax.growth import make_plan, stored_plan

    if isinstance(target, ModelConfig):
        if exact_shape:
            raise UsageError(
                "--exact-shape", expected="a named size after --to", got="the stored recommendation",
                remedy="Name the size with --to, or leave --exact-shape out.",
            )  # fmt: skip
        goal = replace(target, dtype=check_dtype(dtype) or config.dtype)
        return _effective(make_plan(config, goal, scores=scores, **choices), choices)
    record = plan_record(target)
    if record is None:
        convert = True if dtype else None
        goal = target_for(config, target, dtype, exact_shape=exact_shape)
        return _effective(make_plan(config, goal, scores=scores, convert=convert, **choices), choices)
    chosen = [name for name, value in choices.items() if value not in (DEFAULTS.get(name), False)]
    chosen += [name for name, value in (("dtype", dtype), ("exact_shape", exact_shape)) if value]
    if chosen:
        option = f"--{chosen[0].replace('_', '-')}"
        raise UsageError(
            option, expected="none beside a stored plan, which holds every choice", got=f"{option} and {target}",
            remedy="Leave it out, or make a new plan.",
        )  # fmt: skip
    return stored_plan(record, config)


def _effective(made: "Plan", choices: dict[str, Any]) -> "Plan":
    """The plan, where every choice takes part in it.

    Raises:
        UsageError: one is of layers or axes that do not grow, of a rule beside layers that are named, or of draws
            where nothing is drawn.
    """
    chosen = {name for name, value in choices.items() if value not in (DEFAULTS.get(name), False)}
    widened = any(axis.name not in ("layers", "vocab") for axis, _ in made.maps)
    drawn = made.noise is not None or any(along.fill == "random" and along.fresh.any() for _, along in made.maps)
    for name, has_effect, expected in (
        ("depth", made.new_layers, "a target of more layers"),
        ("positions", made.new_layers, "a target of more layers"),
        ("positions", choices["layers"] is None, "none beside --layers, which says where"),
        ("width", widened, "a target that is wider"),
        ("split", widened, "a target that is wider"),
        ("seed", drawn, "something to be drawn: --noise, or --width fresh"),
    ):
        if name in chosen and not has_effect:
            raise UsageError(
                f"--{name}", expected=expected, got=choices[name],
                remedy=f"Leave --{name} out: it would have no effect.",
            )  # fmt: skip
    return made


def recommended(checkpoint: "Checkpoint") -> tuple[ModelConfig, list[int] | None]:
    """The size and the layers to copy that progressive.json recommends.

    Raises:
        UsageError: it recommends nothing, or nothing that can be followed.
    """
    from tritter_jax.analysis import recommended_target

    stored = checkpoint.progressive.recommended_expansion
    if stored is None:
        raise UsageError(
            "--to", expected=f"a target, or a recommendation stored in {checkpoint.path}", got="neither",
            remedy="Say --to SIZE, or let `tritter recommend` store one.",
        )  # fmt: skip
    return recommended_target(checkpoint.config, stored), stored.layer_duplication_indices or None


def _source(text: str) -> tuple[ModelConfig, list[float] | None]:
    """Configuration and layer scores of a checkpoint, or the configuration of a config.json or a named size alone."""
    from dataclasses import replace

    from tprog.reader import open_checkpoint, read_description

    from tritter_jax.growth.expand import stored_scores

    if (source := hub_source(text)) is not None:
        from tprog.hub import peek

        with perhaps_a_directory(text):
            config, progressive = read_description(peek(source))
        analysis = progressive.layer_analysis
        return config, analysis.importance_scores if analysis else None
    if (path := user_path(text)).suffix == ".json" and path.is_file():
        return load_config(path), None
    try:
        checkpoint = open_checkpoint(source_path(text))
    except UsageError:
        if is_size(text):
            return replace(named_size(text), dtype="bfloat16"), None
        raise
    return checkpoint.config, stored_scores(checkpoint)


def warn_of_copies(made: "Plan", scores: list[float] | None) -> None:
    """Say what new layers that act at once are likely to cost, as far as the layers' importance was measured."""
    from math import inf, log1p

    if made.guarantee.exact or not made.new_layers:
        return
    copied = sorted({made.stack.source[layer] for layer in made.new_layers})
    said = f"warning: --depth {made.depth} changes the function: it repeats layers {ranges(copied)}"
    if scores is None or len(scores) != made.source.num_layers:
        said += "; `tritter analyze` measures which layers matter least, and they are then chosen"
    else:
        worst = max(copied, key=scores.__getitem__)
        rise = -log1p(-scores[worst]) if scores[worst] < 1 else inf
        said += f", of which layer {worst} matters most: without it the loss rises by {rise:.2f} nats a token"
    err().print(said, markup=False)


def print_plan(console: Console, made: "Plan") -> None:
    """A plan for a person."""
    from tritter_jax.growth.carry import unknown_fisher

    before, after = made.source, made.target
    view = table("", size_label(before), size_label(after), "what is new", numbers=(1, 2))
    maps = {axis.name: along for axis, along in made.maps}
    for title, name, axis in (
        ("layers", "num_layers", "layers"),
        ("hidden size", "hidden_size", "hidden"),
        ("query heads", "num_heads", "heads"),
        ("kv heads", "num_kv_heads", "kv_heads"),
        ("feed-forward", "intermediate_size", "mlp"),
        ("vocabulary", "vocab_size", "vocab"),
    ):
        note = ""
        if axis in maps:
            fresh = int(maps[axis].fresh.sum())
            copies = int(maps[axis].new.sum()) - fresh
            note = " and ".join(f"{n:,} {what}" for n, what in ((copies, "copies"), (fresh, "fresh")) if n)
        if axis == "layers" and made.new_layers:
            sources = ranges([made.stack.source[i] for i in made.new_layers])
            how = "copies" if made.depth == "copy" else f"{made.depth} copies"
            note = f"layers {ranges(made.new_layers)}, {how} of old {sources}"
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
    if unknown := unknown_fisher(made):
        console.print(
            f"Fisher information, where there is any: the old one tells nothing of {unknown:,} new "
            "entries; they get the median of their kind, or what --refresh-fisher measures"
        )
    promise = made.guarantee
    console.print(f"function: {'exact' if promise.exact else 'NOT exact'}: {promise.reason}")
    console.print(f"gradients: {promise.gradients}")
