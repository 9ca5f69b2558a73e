"""tritter demo: the whole job on a small model, and the proof that the function is unchanged."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tritter_jax.cli.arguments import MAX_SEED
from tritter_jax.cli.output import JsonOption, emit, stages, table


def demo(
    out: Annotated[Path | None, typer.Option(help="Keep both checkpoints in this directory.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and tokens.", min=0, max=MAX_SEED - 1)] = 0,
    json: JsonOption = False,
) -> None:
    """Build a small model, grow it in depth and width, and compare it in JAX and in transformers.

    Needs no network and no accelerator.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as temporary, stages() as stage:
        stage("starting")
        from tritter_jax.demo import run_demo

        directory = out or Path(temporary)
        outcome = run_demo(directory, seed=seed, progress=stage)

    def render(console: Console) -> None:
        from tritter_jax.cli.plan import print_plan

        print_plan(console, outcome.plan)
        view = table("compared on the same tokens", "largest relative difference", "bound", "", numbers=(1, 2))
        for row in outcome.rows:
            verdict = "[green]as it should be[/green]" if row.holds else "[red]NOT as it should be[/red]"
            view.add_row(row.title, f"{row.difference:.1e}", f"{row.relation} {row.bound:.0e}", verdict)
        console.print(view)
        for note in outcome.notes:
            console.print(note)
        if out:
            console.print(f"Both checkpoints are in {out}.", markup=False)

    emit(outcome.as_json(), json, render)
    if not all(row.holds for row in outcome.rows):
        raise typer.Exit(1)
