"""The loss history of a run, as metrics.jsonl has it, made ready for a fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tprog import UsageError

from tritter_jax.analysis.power_law import FEWEST_POINTS

_EARLIEST = 0.05
"""The first twentieth is left out: what falls there is the way from noise to frequencies of tokens."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Losses by the number of tokens seen.

    Args:
        tokens: ascending.
        losses: nats a token.
        kind: `held-out` or `training`.
        step: the last step of the run.
        tokens_seen: tokens at that step.
        tokens_a_step: tokens that a step takes.
        steady: whether the learning rate stayed as it was over these points.
    """

    tokens: tuple[float, ...]
    losses: tuple[float, ...]
    kind: str
    step: int
    tokens_seen: float
    tokens_a_step: float
    steady: bool

    def step_at(self, tokens: float) -> int:
        """The step at which the run has seen, or will have seen, that many tokens."""
        return max(0, round(self.step + (tokens - self.tokens_seen) / self.tokens_a_step))


def loss_history(lines: Sequence[Mapping[str, Any]]) -> History:
    """The part of a history that a power law describes: after the warm-up, held-out where that is dense enough.

    Args:
        lines: those of metrics.jsonl.

    Raises:
        UsageError: there are too few points with a step, a loss and a number of tokens.

    Example:
        >>> lines = [{"step": n, "loss": 3 / n, "tokens_seen": 100 * n, "learning_rate": 1e-3} for n in range(1, 30)]
        >>> found = loss_history(lines)
        >>> found.kind, len(found.losses), found.step_at(4000)
        ('training', 28, 40)
    """
    logged = [line for line in lines if _numbers(line, "step", "loss", "tokens_seen")]
    steps = np.asarray([line["step"] for line in logged], np.float64)
    if len(logged) < FEWEST_POINTS or (np.diff(steps) <= 0).any():
        raise UsageError(
            "metrics.jsonl", expected=f"at least {FEWEST_POINTS} lines with step, loss and tokens_seen, in order",
            got=f"{len(logged)}", remedy="Train for longer, or log more often (output.log_interval).",
        )  # fmt: skip
    tokens = np.asarray([line["tokens_seen"] for line in logged], np.float64)
    rates = np.asarray([line.get("learning_rate", 0.0) for line in logged], np.float64)
    warm = int(np.argmax(rates >= 0.98 * rates.max()))
    first = max(tokens[warm], _EARLIEST * tokens[-1])
    held_out = [line for line in lines if _numbers(line, "step", "held_out_loss")]
    at = np.interp([line["step"] for line in held_out], steps, tokens) if held_out else np.asarray([])
    points = {
        "held-out": [(x, line["held_out_loss"]) for x, line in zip(at, held_out, strict=True) if x >= first],
        "training": [(x, line["loss"]) for x, line in zip(tokens, logged, strict=True) if x >= first],
    }
    kind = "held-out" if len(points["held-out"]) >= FEWEST_POINTS else "training"
    chosen = sorted({float(x): float(loss) for x, loss in points[kind]}.items())
    return History(
        tokens=tuple(x for x, _ in chosen),
        losses=tuple(loss for _, loss in chosen),
        kind=kind,
        step=int(steps[-1]),
        tokens_seen=float(tokens[-1]),
        tokens_a_step=float((tokens[-1] - tokens[0]) / (steps[-1] - steps[0])),
        steady=bool(rates[-1] >= 0.9 * rates.max()),
    )


def _numbers(line: object, *names: str) -> bool:
    return isinstance(line, Mapping) and all(
        isinstance(line.get(name), int | float) and math.isfinite(line[name]) for name in names
    )
