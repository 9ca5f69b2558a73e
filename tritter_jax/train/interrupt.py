"""Signals that ask for an end: heard between two steps, so that what was done is saved first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def preemption() -> Iterator[Callable[[], int]]:
    """A context in which SIGTERM and Ctrl-C only ask; it gives a function that tells the signal's number, or 0.

    Example:
        >>> with preemption() as preempted:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     preempted() == signal.SIGTERM
        True
    """
    asked: list[int] = []
    handlers = {}
    for name in (signal.SIGTERM, signal.SIGINT):
        try:
            handlers[name] = signal.signal(name, lambda number, _: asked.append(number))
        except ValueError:  # not the main thread: whoever owns it handles signals
            break
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
