"""The losses of a checkpoint beside those of earlier ones on the same data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tprog import UsageError
from tprog.paths import model_name
from tprog.reader import Checkpoint

from tritter_jax.continual.metrics import TaskLosses
from tritter_jax.train.evaluate import Evaluation, evaluate


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A checkpoint against earlier ones.

    Args:
        now: how well it predicts each data set.
        losses: the loss of each data set at every time.
    """

    now: list[Evaluation]
    losses: TaskLosses


def compare(
    checkpoint: Checkpoint,
    baselines: Sequence[Checkpoint],
    data: Sequence[str],
    *,
    untrained: Checkpoint | None = None,
    stage: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Compared:
    """Score every data set with a checkpoint and with those before it.

    Args:
        checkpoint: the newest.
        baselines: the earlier ones, oldest first; where there is one fewer than data sets, each learned one of them.
        data: the data sets, in the order in which they were learned.
        untrained: the model before it learned anything, for forward transfer.
        stage: told what is done.
        **options: as for `evaluate`.

    Raises:
        UsageError: a data set cannot be scored, is named twice, or has another number of tokens for a baseline.
    """
    twice = sorted({name for name in data if list(data).count(name) > 1})
    if twice:
        raise UsageError("--data", expected="each data set once", got=f"{twice[0]} twice", remedy="Leave one out.")

    def score(model: Checkpoint) -> list[Evaluation]:
        found = []
        for name in data:
            stage(f"scoring {name} with {model_name(model.path)}")
            found.append(evaluate(model, name, **options))
        return found

    now = score(checkpoint)
    rows = []
    for model in (*baselines, *([] if untrained is None else [untrained])):
        found = score(model)
        other = [name for name, one, own in zip(data, found, now, strict=True) if one.tokens != own.tokens]
        if other:
            raise UsageError(
                "--baseline", expected="a tokenizer like the checkpoint's, since losses are per token",
                got=f"another number of tokens in {other[0]} with {model.path}",
                remedy="Compare bits per byte instead.",
            )  # fmt: skip
        rows.append(tuple(each.loss for each in found))
    fresh = None if untrained is None else rows.pop()
    losses = TaskLosses(tasks=tuple(data), losses=(*rows, tuple(each.loss for each in now)), untrained=fresh)
    return Compared(now=now, losses=losses)
