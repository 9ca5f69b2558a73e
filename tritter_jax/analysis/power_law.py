"""A power law through a loss history, with how well it is known.

Loss L after D tokens is taken to be floor + scale (D / unit)^-exponent (Hoffmann et al. 2022, "Training Compute-
Optimal Large Language Models", equation 2, at one model size). For a given exponent the rest is linear least squares,
so the exponent alone is searched, on a grid that doubles as its posterior (flat in its logarithm). Neighbouring
residuals of a loss curve resemble each other; their number is counted down for it (Bayley and Hammersley 1946).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from tprog import UsageError

FEWEST_POINTS = 8
_GRID = np.geomspace(0.05, 2.0, 240)
_DRAWS = 4000
_LEVEL = 0.90


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """A fitted power law.

    Args:
        unit: number of tokens that D is counted in.
        floor: the loss after endless training.
        scale: what is above it after `unit` tokens.
        exponent: how fast that falls.
        draws: floor, scale and exponent as they may be as well, drawn from what the data leave open.
        residual: standard deviation of the points around the curve.
        points: their number.
    """

    unit: float
    floor: float
    scale: float
    exponent: float
    draws: Float[np.ndarray, "n 3"]
    residual: float
    points: int

    def loss(self, tokens: float) -> float:
        """The predicted loss after that many tokens."""
        return self.floor + self.scale * (tokens / self.unit) ** -self.exponent

    def gain(self, tokens: float, factor: float = 2.0) -> tuple[float, float, float]:
        """How much the loss falls while tokens grow by a factor: lower end, best estimate, upper end (90 %)."""
        _, scales, exponents = self.draws.T
        fall = scales * (tokens / self.unit) ** -exponents * (1 - factor**-exponents)
        return interval(fall, self.loss(tokens) - self.loss(factor * tokens))

    @property
    def exponent_interval(self) -> tuple[float, float, float]:
        """Lower end, best estimate and upper end (90 %) of the exponent."""
        return interval(self.draws[:, 2], self.exponent)


def interval(draws: Float[np.ndarray, " n"], best: float) -> tuple[float, float, float]:
    """The middle 90 % of draws, around the best estimate.

    Example:
        >>> [round(end, 6) for end in interval(np.arange(101.0), 50.0)]
        [5.0, 50.0, 95.0]
    """
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return min(float(low), best), best, max(float(high), best)


def fit_power_law(tokens: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """Fit a power law to losses by the number of tokens seen.

    Args:
        tokens: ascending, above 0.
        losses: in nats a token.

    Raises:
        UsageError: fewer than `FEWEST_POINTS` points, or they do not span a doubling of the tokens, or the loss does
            not fall.

    Example:
        >>> tokens = [1e5 * 1.2**n for n in range(26)]
        >>> law = fit_power_law(tokens, [2.0 + 1.5 * (seen / 1e6) ** -0.3 for seen in tokens])
        >>> round(law.floor, 2), round(law.exponent, 2), round(law.loss(2e7), 2)
        (2.0, 0.3, 2.61)
    """
    x, y = np.asarray(tokens, np.float64), np.asarray(losses, np.float64)
    if len(x) < FEWEST_POINTS or x[-1] < 2 * x[0]:
        span = f"{len(x)} from {x[0]:,.0f} to {x[-1]:,.0f} tokens" if len(x) else "none"
        raise UsageError(
            "loss history", expected=f"at least {FEWEST_POINTS} points over a doubling of the tokens", got=span,
            remedy="Train for longer, or log more often (output.log_interval).",
        )  # fmt: skip
    unit = float(np.exp(np.mean(np.log(x))))
    curves = (x / unit) ** -_GRID[:, None]
    floors, scales = _solve(curves, y)
    residuals = y - floors[:, None] - scales[:, None] * curves
    errors = np.square(residuals).sum(axis=1)
    best = int(errors.argmin())
    if scales[best] <= 0:
        raise UsageError(
            "loss history", expected="a loss that falls", got=f"{y[0]:.4g} at first, {y[-1]:.4g} at last",
            remedy="Look at the run: a lower learning rate, or other data.",
        )  # fmt: skip
    variance = float(errors[best]) / max(len(x) - 3, 1)
    spread = max(variance * _fewer(residuals[best]), 1e-12)
    weights = np.exp((errors[best] - errors) / (2 * spread))
    return PowerLaw(
        unit=unit,
        floor=float(floors[best]),
        scale=float(scales[best]),
        exponent=float(_GRID[best]),
        draws=_draw(curves, floors, scales, weights / weights.sum(), spread),
        residual=float(np.sqrt(variance)),
        points=len(x),
    )


def _solve(
    curves: Float[np.ndarray, "g p"], y: Float[np.ndarray, " p"]
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Floor and scale by least squares for every exponent; the floor of a loss is not below 0."""
    means = curves.mean(axis=1)
    centred = curves - means[:, None]
    scales = centred @ y / np.square(centred).sum(axis=1)
    floors = y.mean() - scales * means
    through_zero = curves @ y / np.square(curves).sum(axis=1)
    return np.maximum(floors, 0.0), np.where(floors < 0, through_zero, scales)


def _fewer(residuals: Float[np.ndarray, " p"]) -> float:
    """By how much neighbours' likeness widens a variance."""
    power = float(residuals @ residuals)
    likeness = float(residuals[1:] @ residuals[:-1]) / power if power else 0.0
    likeness = min(max(likeness, 0.0), 0.95)
    return (1 + likeness) / (1 - likeness)


def _draw(
    curves: Float[np.ndarray, "g p"],
    floors: Float[np.ndarray, " g"],
    scales: Float[np.ndarray, " g"],
    weights: Float[np.ndarray, " g"],
    spread: float,
) -> Float[np.ndarray, "n 3"]:
    """The exponent by its weight on the grid; then the scale and, independent of it, the level at the mean."""
    rng: np.random.Generator = np.random.default_rng(0)
    means = curves.mean(axis=1)
    chosen = rng.choice(len(weights), _DRAWS, p=weights)
    widths = np.sqrt(spread / np.square(curves - means[:, None]).sum(axis=1))
    scale = np.maximum(scales[chosen] + widths[chosen] * rng.standard_normal(_DRAWS), 1e-12)
    level = floors[chosen] + scales[chosen] * means[chosen]
    level = level + np.sqrt(spread / curves.shape[1]) * rng.standard_normal(_DRAWS)
    return np.stack([np.maximum(level - scale * means[chosen], 0.0), scale, _GRID[chosen]], axis=1)
