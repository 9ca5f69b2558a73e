"""What the command line prints: results on standard output, progress and errors on standard error."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from tprog import TritterError
from tprog.printable import escape_controls


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a command speaks; see `tritter_jax.cli.registry` for the options that choose it.

    Args:
        json: the result is one JSON document on standard output, and so is an error.
        quiet: nothing but the result and errors.
        verbose: also versions, log records, time and memory taken, and the traceback of an error.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False


SHOWN = 20
"""Most lines that are printed of a list of findings; `--json` has more."""

manner: ContextVar[Manner] = ContextVar("manner", default=Manner())  # noqa: B039 - it is frozen
"""How the command that runs speaks."""


class _Terminal(Console):
    """A console for texts that nobody vouches for: none is markup, and no control character reaches the terminal."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """A text as it is; escaped before it is measured, so that columns stay straight."""
        return super().render_str(escape_controls(text), **settings)

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, whatever it was made of."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escape_controls(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


def out() -> Console:
    """The console of results."""
    return _console(sys.stdout)


def err() -> Console:
    """The console of progress and notes; it shows nothing where that is not wanted."""
    return _console(sys.stderr, quiet=manner.get().quiet)


def tell_code(directory: Path, what: str) -> None:
    """Say of each field that names code for transformers to run what became of that code."""
    from tprog.remote_code import named_code

    for line in named_code(directory):
        err().print(f"{line}: {what}", style="dim")


def errors() -> Console:
    """The console of errors, which are always shown."""
    return _console(sys.stderr)


def _console(stream: Any, *, quiet: bool = False) -> Console:
    """Off a terminal nothing is wrapped: a file or a pipe has no width."""
    wide = None if stream.isatty() else 160
    return _Terminal(
        file=stream, markup=False, highlight=False, emoji=False, soft_wrap=wide is not None, width=wide, quiet=quiet
    )


def emit(result: Mapping[str, Any], render: Callable[[Console], None]) -> None:
    """Print a result, for a program or for a person."""
    if manner.get().json:
        _document(result)
    else:
        render(out())


def _document(content: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """The same with null for what JSON has no number for: NaN and infinities."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_document_of(error: TritterError) -> None:
    """An error for a program, on standard output."""
    _document({"error": error.to_json()})


def print_error(error: TritterError) -> None:
    """An error as one paragraph, its findings below it; for a program also as JSON on standard output."""
    console = errors()
    console.print(Text.assemble(("error: ", "bold red"), str(error).partition("\n")[0]))
    for line in error.listed(SHOWN):
        console.print(line)
    if manner.get().json:
        print_document_of(error)


def table(*columns: str, title: str | None = None, numbers: tuple[int, ...] = ()) -> Table:
    """A table in the project's one style; `numbers` are the columns aligned to the right."""
    from rich import box

    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 2, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        result.add_column(column, justify="right" if i in numbers else "left", no_wrap=i in numbers or i == 0)
    return result


def human_bytes(count: float) -> str:
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
