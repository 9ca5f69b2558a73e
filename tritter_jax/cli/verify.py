"""tritter verify: whether a checkpoint is whole."""

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from tprog.errors import MOST_FINDINGS
from tprog.printable import cut, printable

from tritter_jax.cli.arguments import Source, own_path, source_path
from tritter_jax.cli.output import emit, human_bytes
from tritter_jax.cli.progress import stages


def verify(
    path: Source,
    repair_index: Annotated[
        bool,
        typer.Option("--repair-index", help="Rebuild the index from the weights files first."),
    ] = False,
    checksums: Annotated[bool, typer.Option(help="Hash the files that progressive.json lists.")] = True,
    finite: Annotated[bool, typer.Option(help="Look at every value for NaN and infinity.")] = True,
) -> None:
    """Check checksums, names, shapes, dtypes, values and JSON; lists everything that is wrong at once.

    Example: tritter verify tritter-3B-0.tprog
    """
    from tprog import verify as checks
    from tprog.index_repair import repair_index as repair_index_of

    directory = own_path(path) if repair_index else source_path(path)
    with stages() as stage:
        if repair_index:
            stage("rebuilding the index")
            repair_index_of(directory)
        stage("verifying")
        report = checks.verify(directory, checksums=checksums, finite=finite)

    def render(console: Console) -> None:
        for finding in report.findings[:MOST_FINDINGS]:
            console.print(Text.assemble((printable(finding.file), "red"), f": {finding.problem}"))
        for line in cut((), 0, max(0, report.wrong - MOST_FINDINGS)):
            console.print(line)
        seen = f"{report.files} files, {human_bytes(report.nbytes)}, {report.tensors} tensors, "
        seen += f"{report.checksums} checksums"
        verdict = "nothing wrong" if report.ok else f"{report.wrong:,} things wrong"
        console.print(f"{printable(report.path)}: {verdict} in {seen}")

    result = {
        "path": str(report.path),
        "ok": report.ok,
        "findings": [{"file": finding.file, "problem": finding.problem} for finding in report.findings],
        "left_out": report.left_out,
        "files": report.files,
        "bytes": report.nbytes,
        "tensors": report.tensors,
        "checksums": report.checksums,
    }
    emit(result, render)
    if not report.ok:
        raise typer.Exit(1)
