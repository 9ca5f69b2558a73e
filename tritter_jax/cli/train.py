"""tritter train: a run from a configuration file."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tritter_jax.cli.output import JsonOption, emit, err


def train(
    config: Annotated[Path | None, typer.Option(help="The run's configuration (TOML); the defaults without.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: --set training.steps=50. May be repeated.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Short for --set data.train=...")] = None,
    out: Annotated[Path | None, typer.Option(help="Short for --set output.directory=...")] = None,
    json: JsonOption = False,
) -> None:
    """Train a model; goes on where the run directory's last checkpoint was saved.

    Example: tritter train --set model.size=test --data builtin:prose --set training.steps=100
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tritter_jax.train.config import RunConfig
    from tritter_jax.train.loop import Report
    from tritter_jax.train.loop import train as run
    from tritter_jax.train.setup import prepare

    changes = list(change or [])
    changes += [f"data.train='{data}'"] if data else []
    changes += [f"output.directory='{out}'"] if out else []
    settings = RunConfig.load(config, changes) if config else RunConfig.parse({}, changes)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err()) as bars:
        reading = bars.add_task("tokenising", total=None, note="", visible=False)

        def tokenised(done: int, total: int) -> None:
            bars.update(reading, completed=done, total=total, visible=done < total)

        ready = prepare(settings, progress=tokenised)
        task = bars.add_task("compiling", total=settings.training.steps, note="")

        def report(at: Report) -> None:
            held_out = "" if at.held_out_loss is None else f", held out {at.held_out_loss:.4f}"
            bars.update(
                task,
                description="training",
                completed=at.step,
                note=f"loss {at.loss:.4f}{held_out}, {at.tokens_per_second:,.0f} tokens/s",
            )

        done = run(ready, report=report)

    result: dict[str, Any] = {
        "checkpoint": str(done.checkpoint),
        "step": done.step,
        "loss": done.loss,
        "held_out_loss": done.held_out_loss,
        "best_loss": done.best_loss,
        "tokens_seen": done.tokens_seen,
        "stopped": done.stopped,
        "input_share": done.input_share,
    }

    def render(console: Console) -> None:
        if done.stopped:
            console.print(f"stopped early: {done.stopped}")
        held_out = "" if done.held_out_loss is None else f", held out {done.held_out_loss:.4f}"
        console.print(f"step {done.step}: loss {done.loss:.4f}{held_out}, {done.tokens_seen:,} tokens seen")
        console.print(f"wrote {done.checkpoint}", markup=False)

    emit(result, json, render)
