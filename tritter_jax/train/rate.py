"""The learning rate where none is given: by what is trained, since a rate for random weights undoes trained ones."""

import numpy as np
from tprog import TritterError
from tprog.reader import Checkpoint

from tritter_jax.train.config import RunConfig, ScheduleSection
from tritter_jax.train.optimizer import make_schedule

FROM_CHECKPOINT = 1e-4
"""Where the checkpoint's own run is not known: on SmolLM2-135M, 3e-4 forgets eight times as much."""


def with_rate(settings: RunConfig, origin: Checkpoint | None) -> tuple[RunConfig, str]:
    """The settings with a learning rate, and where it comes from, in a few words.

    Args:
        settings: the run's.
        origin: the checkpoint that is trained further; None from scratch.

    Example:
        >>> settings, reason = with_rate(RunConfig.parse({}), None)
        >>> settings.optimizer.learning_rate, reason
        (0.001, 'the default from scratch')
    """
    if settings.optimizer.learning_rate is not None:
        return settings, "as given"
    if origin is None:
        rate, reason = settings.optimizer.peak, "the default from scratch"
    elif (ended := _ended_with(origin)) is not None:
        rate, reason = ended, "what the checkpoint's own run ended with"
    else:
        rate, reason = FROM_CHECKPOINT, "the default from a checkpoint"
    return settings.model_copy(
        update={"optimizer": settings.optimizer.model_copy(update={"learning_rate": rate})}
    ), reason


def _ended_with(origin: Checkpoint) -> float | None:
    """The rate at which a checkpoint's run stopped; None where it does not say so, or had decayed to nothing."""
    try:
        known = origin.scheduler or {}
        section = ScheduleSection.model_validate(known.get("schedule"))
        peak, steps = float(known["learning_rate"]), int(known["steps"])
        ended = np.asarray(make_schedule(section, peak, steps)(origin.progressive.steps)).item()
        rate = float(f"{ended:.6g}")
    except (TritterError, ValueError, KeyError, TypeError, OverflowError):  # it may be another program's
        return None
    return rate if 0 < rate < 1 else None
