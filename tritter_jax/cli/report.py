"""tritter report: a checkpoint's past in one file of HTML."""

from pathlib import Path
from typing import Annotated

import typer

from tritter_jax.cli.arguments import output_file, own_path
from tritter_jax.cli.output import JsonOption, emit


def report(
    path: Annotated[str, typer.Argument(help="A run directory, a checkpoint, or a size: the newest one here.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("report.html"),
    before: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier run, whose losses come before this one's; oldest first. May be repeated."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a page on a model's size, lineage, growth, losses and layers, which opens without a network.

    Example: tritter report runs/expanded --before runs/small -o report.html
    """
    output_file(out)
    from tprog import UsageError

    from tritter_jax.report import collect, write_report
    from tritter_jax.train.metrics import read_metrics
    from tritter_jax.train.subject import open_subject

    earlier = []
    for run in before or []:
        earlier.append(read_metrics(run))
        if not earlier[-1]:
            raise UsageError(
                run, expected="a run directory with a metrics.jsonl", got="none", remedy="Leave out this --before."
            )
    facts = collect(open_subject(own_path(path)), earlier)
    write_report(facts, out)
    emit(
        {"path": str(out), "bytes": out.stat().st_size, "growths": len(facts.growths)},
        json,
        lambda console: console.print(f"wrote {out}", markup=False),
    )
