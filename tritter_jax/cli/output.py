"""What the command line prints: results on standard output, progress and errors on standard error."""

import json
import sys
import time
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


class Stages:
    """What is being done: a spinner, or a bar of bytes with the time left; on no terminal, lines.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")
        self._bar: Any = None
        self._running: tuple[str, float] | None = None
        self._told = 0

    def __call__(self, name: str) -> None:
        """The stage of that name begins."""
        self.finish()
        self._running = (name, time.perf_counter())
        self._told = 0
        self._status.update(f"{name} ...")
        self._status.start()

    def advance(self, done: int, total: int) -> None:
        """That many bytes of the stage at hand are done."""
        name, since = self._running or ("", time.perf_counter())
        if not self._console.is_terminal:
            tenths = 10 * done // max(total, 1)
            if self._told < tenths < 10:
                left = (time.perf_counter() - since) * (total - done) / done
                self._console.print(f"{name}: {10 * tenths} % of {human_bytes(total)}, {left:.0f} s left")
                self._told = tenths
            return
        if self._bar is None:
            self._status.stop()
            self._bar = _byte_bar(self._console)
            self._bar.add_task(name, total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

    def stop(self) -> None:
        """Show nothing any more."""
        self._status.stop()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def finish(self) -> None:
        """The stage at hand is done; how long it took stays in view."""
        self.stop()
        if self._running is not None:
            name, since = self._running
            self._running = None
            self._console.print(f"[dim]{name}: {time.perf_counter() - since:.1f} s[/dim]")


def _byte_bar(console: Console) -> Any:
    # Imported here, because `tritter --help` must not wait for it.
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )


@contextmanager
def stages() -> Iterator[Stages]:
    """The stages of a command on standard error, with the time each took.

    Example:
        >>> with stages() as stage:
        ...     stage("growing"); stage.advance(1, 2)
    """
    shown = Stages(err())
    try:
        yield shown
        shown.finish()
    finally:
        shown.stop()


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
