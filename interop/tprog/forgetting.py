"""The matrix of forgetting: the loss of every task at every time, and how far each is above the task's best."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_SUMMARY = ("average_loss", "forgetting", "backward_transfer", "forward_transfer")


@dataclass(frozen=True)
class Cell:
    """One loss, how far it is above the task's best until then, and that as a share of the most of any task."""

    loss: float | None
    lost: float
    heat: float


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What is shown.

    Args:
        tasks: the columns.
        rows: title and cells of each time.
        summary: figures by their name.
    """

    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    summary: tuple[tuple[str, float], ...]


def forgetting_matrix(stored: Any) -> Matrix | None:
    """The matrix that the field `task_losses` of progressive.json holds; None where there is none that makes sense.

    Example:
        >>> found = forgetting_matrix({"tasks": ["A", "B"], "losses": [[2.0, 4.0], [2.5, 1.5]], "forgetting": 0.5})
        >>> [(title, [cell.heat for cell in cells]) for title, cells in found.rows]
        [('after A', [0.0, 0.0]), ('after B', [1.0, 0.0])]
        >>> found.summary
        (('forgetting', 0.5),)
    """
    if not isinstance(stored, Mapping):
        return None
    tasks, losses = stored.get("tasks"), stored.get("losses")
    if not isinstance(tasks, list) or not isinstance(losses, list) or not tasks or not losses:
        return None
    if not all(isinstance(row, list) and len(row) == len(tasks) and all(map(_known, row)) for row in losses):
        return None
    lost = list(_lost(losses))
    most = max(max(map(max, lost)), 1e-12)
    in_turn = len(losses) == len(tasks)
    rows = tuple(
        (
            f"after {tasks[time]}" if in_turn else f"time {time + 1}",
            tuple(Cell(loss, lost[time][task], lost[time][task] / most) for task, loss in enumerate(row)),
        )
        for time, row in enumerate(losses)
    )
    summary = tuple(
        (name.replace("_", " "), float(stored[name]))
        for name in _SUMMARY
        if isinstance(stored.get(name), int | float)
    )
    return Matrix(tasks=tuple(map(str, tasks)), rows=rows, summary=summary)


def _lost(losses: list[list[float | None]]) -> Iterator[list[float]]:
    """How far each loss is above the lowest that its task had until then."""
    lowest = [math.inf] * len(losses[0])
    for row in losses:
        lowest = [low if loss is None else min(low, loss) for low, loss in zip(lowest, row, strict=True)]
        yield [0.0 if loss is None else loss - low for low, loss in zip(lowest, row, strict=True)]


def _known(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
