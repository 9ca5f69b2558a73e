"""How much of earlier tasks is kept, and of later ones comes for free: from the loss of every task at every time.

Row i of the matrix is measured after task i was learned, column j is task j, in nats a token:

             A      B      C
    after A  2.1    4.0    3.9
    after B  2.6    1.8    3.5
    after C  2.9    2.2    1.7

Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory", section 2, define average accuracy, backward and forward
transfer; Chaudhry et al. 2018, "Riemannian Walk", section 4, forgetting. They speak of accuracies; of losses, of
which less is better, every sign is turned, so that a transfer above 0 is good and forgetting above 0 bad, as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from tprog import UsageError

Losses = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class TaskLosses:
    """The loss of every task at every time.

    Args:
        tasks: their names, in the order in which they were learned.
        losses: for each time the loss of each task, None where it was not measured. With as many times as tasks, each
            time is after the task of that number; otherwise all tasks count as learned before the first time.
        untrained: the loss of each task before anything was learned, for forward transfer.

    Raises:
        UsageError: a row has not as many losses as there are tasks, or there is none.

    Example:
        >>> found = TaskLosses(tasks=("A", "B"), losses=((2.0, 4.0), (2.5, 1.5)), untrained=(5.0, 5.0))
        >>> found.average_loss, found.backward_transfer, found.forward_transfer, found.forgetting
        (2.0, -0.5, 1.0, 0.5)
        >>> [task.forgetting for task in found.by_task]
        [0.5, None]
    """

    tasks: tuple[str, ...]
    losses: tuple[Losses, ...]
    untrained: Losses | None = None

    def __post_init__(self) -> None:
        rows = [*self.losses, *([] if self.untrained is None else [self.untrained])]
        wrong = [len(row) for row in rows if len(row) != len(self.tasks)]
        if wrong or not self.losses or not self.tasks:
            raise UsageError(
                "losses", expected=f"rows of {len(self.tasks)}, a loss for each task",
                got=f"a row of {wrong[0]}" if wrong else "none", remedy="Put None where a loss is not known.",
            )  # fmt: skip

    @property
    def in_turn(self) -> bool:
        """Whether each time is after the task of that number."""
        return len(self.losses) == len(self.tasks)

    @property
    def by_task(self) -> list["TaskKept"]:
        """What became of each task, in order."""
        now, earlier = self._matrix[-1], self._matrix[:-1]
        found = []
        for number, task in enumerate(self.tasks):
            before = earlier[:, number][np.isfinite(earlier[:, number])]
            old = bool(len(before)) and not (self.in_turn and number == len(self.tasks) - 1)
            learned = self._matrix[number, number] if self.in_turn else earlier[0, number] if old else np.nan
            found.append(
                TaskKept(
                    task=task,
                    loss=_known(now[number]),
                    forgetting=_known(now[number] - before.min()) if old else None,
                    backward_transfer=_known(learned - now[number]) if old else None,
                )
            )
        return found

    @property
    def average_loss(self) -> float | None:
        """Mean loss over all tasks in the end."""
        return _mean(each.loss for each in self.by_task)

    @property
    def backward_transfer(self) -> float | None:
        """Mean over the old tasks of how much lower their loss is now than when they were learned."""
        return _mean(each.backward_transfer for each in self.by_task if each.forgetting is not None)

    @property
    def forward_transfer(self) -> float | None:
        """Mean over all tasks but the first of how much lower their loss is just before than untrained."""
        if self.untrained is None or not self.in_turn or len(self.tasks) == 1:
            return None
        later = range(1, len(self.tasks))
        fresh = _row(self.untrained)
        return _mean(_known(fresh[i] - self._matrix[i - 1, i]) for i in later)

    @property
    def forgetting(self) -> float | None:
        """Mean over the old tasks of how much higher their loss is now than it has been at best."""
        return _mean(each.forgetting for each in self.by_task if each.forgetting is not None)

    def to_json(self) -> dict[str, Any]:
        """The matrix and what is made of it, as progressive.json holds it."""
        return {
            "tasks": list(self.tasks),
            "losses": [list(row) for row in self.losses],
            "untrained": None if self.untrained is None else list(self.untrained),
            "average_loss": self.average_loss,
            "backward_transfer": self.backward_transfer,
            "forward_transfer": self.forward_transfer,
            "forgetting": self.forgetting,
        }

    @property
    def _matrix(self) -> Float[np.ndarray, "times tasks"]:
        return np.stack([_row(row) for row in self.losses])


@dataclass(frozen=True, kw_only=True)
class TaskKept:
    """What became of one task: its loss now, and how much was forgotten of it; None where that cannot be told."""

    task: str
    loss: float | None
    forgetting: float | None
    backward_transfer: float | None


def _row(losses: Losses) -> Float[np.ndarray, " tasks"]:
    return np.array([np.nan if loss is None else loss for loss in losses], np.float64)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean(values: Any) -> float | None:
    """None where one of them is not known, or there is none: a mean over some of the tasks would flatter."""
    found = list(values)
    return None if not found or None in found else float(np.mean(found))
