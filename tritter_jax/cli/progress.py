"""What a user sees of work that lasts: a spinner, or a bar with the time left; on no terminal, lines."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.text import Text

from tritter_jax.cli.output import err, human_bytes

PATIENCE = 2.0
"""Seconds that nothing needs to be seen of a command for."""
_SILENCE = 60.0
"""Seconds after which, on no terminal, there is a line even where no tenth is done."""


class Stages:
    """What is being done: a spinner, or a bar with the time left; on no terminal, lines.

    Args:
        console: where it is shown.
        patience: seconds that may pass in silence, and between lines at least; `PATIENCE` where left out.
    """

    def __init__(self, console: Console, *, patience: float | None = None) -> None:
        self._console = console
        self._patience = PATIENCE if patience is None else patience
        self._status = console.status("")
        self._bar: Any = None
        self._timer: threading.Timer | None = None
        self._running: tuple[str, float] | None = None
        self._unseen = False
        self._tenths, self._told = 0, 0.0

    def __call__(self, name: str) -> None:
        """The stage of that name begins."""
        self.finish()
        self._begin(name)
        if self._console.is_terminal:
            self._status.update(Text(f"{name} ..."))
            self._status.start()
        else:
            self._wait()

    def unseen(self, name: str) -> None:
        """A stage begins that is not worth a word unless it lasts."""
        self.finish()
        self._begin(name)
        self._unseen = True
        self._wait()

    def advance(self, done: int, total: int, unit: str = "bytes", note: str = "") -> None:
        """That much of the stage at hand is done.

        Args:
            done: so far.
            total: in all.
            unit: of what.
            note: what else there is to say at this point.
        """
        name, since = self._running or ("", time.perf_counter())
        if not self._console.is_terminal:
            self._tell(name, since, done, total, unit, note)
            return
        if self._bar is None:
            self.stop()
            self._unseen = False
            self._bar = _bar(self._console, unit)
            self._bar.add_task(name, total=total, note="")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, note=note)

    def mute(self) -> None:
        """Show nothing, whatever is done from here on."""
        self.stop()
        self._running = None
        self._console = Console(quiet=True)
        self._status = self._console.status("")

    def stop(self) -> None:
        """Show nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._status.stop()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A context in which something else draws on the terminal."""
        self._status.stop()
        try:
            yield
        finally:
            if self._running and self._bar is None and not self._unseen and self._console.is_terminal:
                self._status.start()

    def finish(self) -> None:
        """The stage at hand is done; how long it took stays in view."""
        self.stop()
        if self._running is not None and not self._unseen:
            name, since = self._running
            self._console.print(f"{name}: {time.perf_counter() - since:.1f} s", style="dim", markup=False)
        self._running = None

    def _begin(self, name: str) -> None:
        now = time.perf_counter()
        self._running, self._unseen = (name, now), False
        self._tenths, self._told = 0, now

    def _wait(self) -> None:
        """Say what is being done once it has lasted for a while."""
        self._timer = threading.Timer(self._patience, self._say)
        self._timer.daemon = True
        self._timer.start()

    def _say(self) -> None:
        running = self._running  # which another thread may set to None at any time
        if running is not None:
            self._unseen = False
            self._console.print(f"{running[0]} ...", style="dim", markup=False)

    def _tell(self, name: str, since: float, done: int, total: int, unit: str, note: str) -> None:
        """A line for each tenth and each minute, as long as they do not come too fast."""
        now, tenths = time.perf_counter(), 10 * done // max(total, 1)
        waited = now - self._told
        if not 0 < done < total or waited < self._patience or (tenths <= self._tenths and waited < _SILENCE):
            return
        self._tenths, self._told, self._unseen = tenths, now, False
        amount = human_bytes(total) if unit == "bytes" else f"{total:,} {unit}"
        left = (now - since) * (total - done) / done
        more = f", {note}" if note else ""
        self._console.print(f"{name}: {100 * done // total} % of {amount}, {left:.0f} s left{more}", markup=False)


def _bar(console: Console, unit: str) -> Any:
    # Imported here, because `tritter --help` must not wait for it.
    from rich import progress

    size = (progress.DownloadColumn(), progress.TransferSpeedColumn())
    count = (progress.MofNCompleteColumn(), progress.TextColumn(f"{unit}  {{task.fields[note]}}", markup=False))
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *(size if unit == "bytes" else count),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )


_command: ContextVar[Stages | None] = ContextVar("command", default=None)


@contextmanager
def watched(name: str) -> Iterator[None]:
    """A context in which a command is seen to be at work once it has lasted for a while, whatever it does."""
    shown = Stages(err())
    token = _command.set(shown)
    try:
        shown.unseen(name)
        yield
        shown.finish()
    finally:
        shown.stop()
        _command.reset(token)


@contextmanager
def aside() -> Iterator[None]:
    """A context in which something else draws its progress, as huggingface_hub does."""
    with nullcontext() if (shown := _command.get()) is None else shown.aside():
        yield


@contextmanager
def stages(*, told: bool = True) -> Iterator[Stages]:
    """The stages of a command on standard error, with the time each took.

    Args:
        told: whether they are shown; of several processes, one shows them.

    Example:
        >>> with stages() as stage:
        ...     stage("growing"); stage.advance(1, 2)
    """
    shown = _command.get() or Stages(err())
    if not told:
        shown.mute()
    try:
        yield shown
        shown.finish()
    finally:
        shown.stop()
