"""tritter expand: a checkpoint into a larger one that computes the same function."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from tprog import size_label
from tprog.layout import EWC, HOOKS, SHARD_SIZE, TRAINING

from tritter_jax.cli.arguments import byte_count, layer_list, source_path, target_for
from tritter_jax.cli.output import JsonOption, emit, stages
from tritter_jax.cli.plan import Depth, DType, From, Layers, Positions, Seed, Split, To, Width, print_plan


def expand(
    source: From,
    target: To,
    out: Annotated[
        Path | None, typer.Option(help="The .tprog to write; default {model}-{size}-{step}.tprog here.")
    ] = None,
    depth: Depth = "identity",
    positions: Positions = "auto",
    layers: Layers = None,
    width: Width = "duplicate",
    split: Split = "uneven",
    seed: Seed = 0,
    dtype: DType = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare both models before the result is put in place.")
    ] = True,
    shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = f"{SHARD_SIZE // 10**9}GB",
    trust_hooks: Annotated[
        bool, typer.Option("--trust-hooks", help="Run the source's expansion_hooks.py, which may add strategies.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")] = False,
    json: JsonOption = False,
) -> None:
    """Grow a checkpoint in depth and width; the result computes the same function.

    Example: tritter expand --from 3B --to 7B
    """
    limit, chosen = byte_count(shard_size), layer_list(layers)
    with stages() as stage:
        stage("starting")
        from tprog.commit import refuse_taken
        from tprog.hooks import run_hooks
        from tprog.layout import default_name
        from tprog.reader import is_checkpoint, open_checkpoint

        from tritter_jax.growth import describe, load_strategies
        from tritter_jax.growth.expand import expand as run

        load_strategies()
        checkpoint = open_checkpoint(source_path(source))
        run_hooks(checkpoint, trust=trust_hooks)
        wanted = target_for(checkpoint.config, target, dtype)
        steps = checkpoint.progressive.steps
        destination = out or Path(default_name(checkpoint.path, size_label(wanted), steps))
        refuse_taken(destination, overwrite=overwrite, is_ours=is_checkpoint, source=checkpoint.path)
        done = run(
            checkpoint,
            destination,
            wanted,
            verify=verify,
            overwrite=overwrite,
            shard_size=limit,
            progress=stage,
            depth=depth,
            positions=positions,
            layers=chosen,
            width=width,
            split=split,
            seed=seed,
            convert=True if dtype else None,
        )
    left = [name for name in (TRAINING, EWC, HOOKS) if (checkpoint.path / name).exists()]
    result: dict[str, Any] = {
        "source": str(checkpoint.path),
        "path": str(done.path),
        "plan": describe(done.plan),
        "measured_drift": done.drift.as_json() if done.drift else None,
        "left_behind": left,
    }

    def render(console: Console) -> None:
        print_plan(console, done.plan)
        console.print(f"wrote {done.path}", markup=False)
        if done.drift is None:
            console.print("not verified (--no-verify)")
        else:
            console.print(
                f"largest relative difference of the logits: {done.drift.max_relative:.2e} over "
                f"{done.drift.tokens} tokens (tolerance {done.plan.guarantee.tolerance:.0e} in "
                f"{done.plan.guarantee.dtype})"
            )
            if done.drift.before_rounding is not None:
                console.print(f"before rounding to {done.plan.guarantee.dtype}: {done.drift.before_rounding:.2e}")
        for name in left:
            console.print(f"[yellow]left behind:[/yellow] {name} of the source was not taken along")

    emit(result, json, render)
