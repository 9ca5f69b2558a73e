"""tritter fisher: what a model needs to keep what it knows, measured on the data that it knows."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tritter_jax.cli.arguments import MAX_SEED, check_dtype, source_path
from tritter_jax.cli.output import JsonOption, emit, err


def fisher(
    path: Annotated[str, typer.Argument(help="A checkpoint, or a size: the newest one here.")],
    data: Annotated[str, typer.Option(help="What the model was trained on: a file, directory, glob, builtin:prose.")],
    samples: Annotated[int, typer.Option(help="Number of rows to measure on.", min=1)] = 10_000,
    estimator: Annotated[
        str, typer.Option(help="sampled: labels drawn from the model, unbiased; empirical: true labels, row by row.")
    ] = "sampled",
    draws: Annotated[int, typer.Option(help="Label draws a batch, for less noise.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="A new checkpoint; without, it is written into this one.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows at a time.", min=1)] = 8,
    sequence_length: Annotated[int, typer.Option(help="Tokens scored in a row.", min=1)] = 256,
    dtype: Annotated[str, typer.Option(help="Stored as float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Seed of rows and draws.", min=0, max=MAX_SEED)] = 0,
    json: JsonOption = False,
) -> None:
    """Measure the diagonal of the Fisher information, for elastic weight consolidation, and store it with its anchor.

    Example: tritter fisher runs/run/tritter-52M-200.tprog --data builtin:prose --samples 1000
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from tprog.commit import refuse_taken
    from tprog.reader import is_checkpoint, open_checkpoint

    from tritter_jax.continual import Progress
    from tritter_jax.train.fisher import measure_fisher

    checkpoint = open_checkpoint(source_path(path))
    if out is not None:
        refuse_taken(out, overwrite=False, is_ours=is_checkpoint, source=checkpoint.path)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=err()) as bars:
        task = bars.add_task("compiling", total=samples, note="")

        def report(at: Progress) -> None:
            bars.update(task, description="measuring", completed=at.rows, note=f"change {at.change:.2e}")

        done = measure_fisher(
            checkpoint,
            data,
            out,
            samples=samples,
            estimator=estimator,
            draws=draws,
            batch_size=batch_size,
            sequence_length=sequence_length,
            seed=seed,
            stored=check_dtype(dtype) or dtype,
            report=report,
        )
    result: dict[str, Any] = {
        "path": str(done.path),
        "samples": done.samples,
        "tokens": done.tokens,
        "relative_change": done.change,
        "ewc_config": done.ewc_config,
    }

    def render(console: Console) -> None:
        console.print(
            f"{estimator} Fisher information over {done.samples:,} rows, {done.tokens:,} tokens; "
            f"the last batch changed it by {done.change:.1e}"
        )
        console.print(f"wrote {done.path}", markup=False)

    emit(result, json, render)
