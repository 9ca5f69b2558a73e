"""What the command line prints: results on standard output, progress and errors on standard error."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tprog import TritterError

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def out() -> Console:
    """The console of results."""
    return _console(sys.stdout)


def err() -> Console:
    """The console of progress and errors."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    """Off a terminal nothing is wrapped: a file or a pipe has no width."""
    wide = None if stream.isatty() else 160
    return Console(file=stream, highlight=False, soft_wrap=wide is not None, width=wide)


def emit(result: Mapping[str, Any], as_json: bool, render: Callable[[Console], None]) -> None:
    """Print a result, for a program or for a person."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        render(out())


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """A spinner that names the stage at hand, with the time each took; on no terminal, a line a stage.

    Example:
        >>> with stages() as stage:
        ...     stage("growing")
    """
    import time

    console = err()
    running: list[tuple[str, float]] = []

    def finish() -> None:
        if running:
            name, since = running.pop()
            console.print(f"[dim]{name}: {time.perf_counter() - since:.1f} s[/dim]")

    with console.status("") as status:

        def stage(name: str) -> None:
            finish()
            running.append((name, time.perf_counter()))
            status.update(f"{name} ...")

        yield stage
        finish()


def print_error(error: TritterError) -> None:
    """An error as one paragraph, its findings below it."""
    console = err()
    message, *findings = str(error).split("\n")
    console.print(f"[bold red]error:[/bold red] {_escape(message)}")
    for finding in findings[:20]:
        console.print(_escape(finding))
    if len(findings) > 20:
        console.print(f"  and {len(findings) - 20} more")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def table(*columns: str, title: str | None = None, numbers: tuple[int, ...] = ()) -> Table:
    """A table in the project's one style; `numbers` are the columns aligned to the right."""
    from rich import box

    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 2, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        result.add_column(column, justify="right" if i in numbers else "left", no_wrap=i in numbers or i == 0)
    return result


def human_bytes(count: int) -> str:
    """A number of bytes in decimal units.

    Example:
        >>> human_bytes(4_250_000_000)
        '4.25 GB'
    """
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def ranges(numbers: tuple[int, ...] | list[int]) -> str:
    """Whole numbers with runs shortened.

    Example:
        >>> ranges([4, 9, 13, 14, 15])
        '4, 9, 13-15'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
