"""How fast a run goes, and how much of its time is spent waiting for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Counts tokens and waiting, since the last lap and in all.

    Args:
        tokens_a_step: tokens of a batch.
        step: number of steps taken before.

    Example:
        >>> pace = Pace(tokens_a_step=512, step=10)
        >>> with pace.waiting():
        ...     batch = "from somewhere"
        >>> tokens_per_second, waited = pace.lap(step=12)
        >>> tokens_per_second > 0, 0 <= waited <= 1
        (True, True)
    """

    def __init__(self, tokens_a_step: int, step: int) -> None:
        self._tokens_a_step = tokens_a_step
        self._step = step
        self._first = self._since = time.perf_counter()
        self._waited = self._waited_in_all = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within as spent waiting for data."""
        asked = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - asked

    def lap(self, step: int) -> tuple[float, float]:
        """Tokens a second, and the share of the time spent waiting, since the last lap."""
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        seen = (step - self._step) * self._tokens_a_step / elapsed, self._waited / elapsed
        self._waited_in_all += self._waited
        self._since, self._waited, self._step = now, 0.0, step
        return seen

    @property
    def waited(self) -> float:
        """Share of all the time until now that was spent waiting."""
        return (self._waited_in_all + self._waited) / max(time.perf_counter() - self._first, 1e-9)
