"""tritter report: a checkpoint's past in one file of HTML."""

from pathlib import Path
from typing import Annotated

import typer
from tprog.locate import hub_source, perhaps_a_directory

from tritter_jax.cli import completion
from tritter_jax.cli.arguments import output_file, source_path
from tritter_jax.cli.output import emit


def report(
    path: Annotated[
        str,
        typer.Argument(
            help="A run directory, a checkpoint, org/name on the Hub, or a size: the most trained one here.",
            autocompletion=completion.sources,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("report.html"),
    before: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier run, whose losses come before this one's; oldest first. May be repeated."),
    ] = None,
) -> None:
    """Write a page on a model's size, lineage, growth, losses and layers, which opens without a network.

    Of a model of the Hub it tells what its progressive.json says; nothing else is fetched.

    Examples:
        tritter report runs/expanded --before runs/small -o report.html
        tritter report org/model
    """
    output_file(out)
    from dataclasses import replace

    from tprog import UsageError

    from tritter_jax.report import collect, write_report
    from tritter_jax.train.metrics import read_metrics
    from tritter_jax.train.subject import described_subject, open_subject

    earlier = []
    for run in before or []:
        earlier.append(read_metrics(run))
        if not earlier[-1]:
            raise UsageError(
                run, expected="a run directory with a metrics.jsonl", got="none", remedy="Leave out this --before."
            )
    if (source := hub_source(path)) is not None:
        from tprog.hub import peek

        with perhaps_a_directory(path):
            subject = described_subject(peek(source))
        facts = replace(collect(subject, earlier), name=str(source))
    else:
        facts = collect(open_subject(source_path(path)), earlier)
    write_report(facts, out)
    emit(
        {"path": str(out), "bytes": out.stat().st_size, "growths": len(facts.growths)},
        lambda console: console.print(f"wrote {out}", markup=False),
    )
