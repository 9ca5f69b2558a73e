"""When growing wins over going on.

A model of N parameters that has seen D tokens has the loss E + A N^-a + B D^-b (Hoffmann et al. 2022, equation 2).
One that is grown to g N keeps its loss, and so goes on where the larger model's own curve passes that loss: after D'
tokens with B D'^-b = B D^-b + A N^-a (1 - g^-a). From there a token costs g times as much. Setting the falls for
equal FLOPs equal gives the moment from which growing wins:

    (1 + A N^-a (1 - g^-a) D^b / B)^((1 + b) / b) = g

and that is also where growing reaches any lower loss for the fewest FLOPs. The run itself gives b, and its length in
tokens; what A is, one size alone cannot tell. It follows from the number of tokens a parameter, r, at which a model
is compute-optimal, where a A N^-a = b B (r N)^-b:

    D = r N ((a / b) (g^(b / (1 + b)) - 1) / (1 - g^-a))^(1 / b)

r is about 20 (Hoffmann et al. 2022), and a is 0.348 +- 0.02 where it is fitted anew (Besiroglu et al. 2024,
"Chinchilla Scaling: A replication attempt"; 0.339 before). Both were measured on large models and web text; how far
they hold for another model is not known, which the prediction's uncertainty takes as a factor of 1.5 in r.

What is left out is what growing costs until the new entries are of use: it must be paid back by the training that
follows. examples/when_to_grow measures how much of that it takes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tritter_jax.analysis.power_law import PowerLaw, interval

TOKENS_A_PARAMETER = 20.0
"""Compute-optimal number of tokens (Hoffmann et al. 2022, table 3)."""
_LOG_SPREAD = float(np.log(1.5))
SIZE_EXPONENT = 0.35
_SIZE_SPREAD = 0.02
LITERATURE_EXPONENT = 0.37
"""Of the tokens, where no run is there to tell (Besiroglu et al. 2024: 0.366 +- 0.02)."""


@dataclass(frozen=True, kw_only=True)
class GrowthPoint:
    """From which number of tokens on growing is predicted to win.

    Args:
        tokens: the best estimate.
        low: lower end of the middle 90 %.
        high: its upper end.
        passed: probability that it lies behind.
    """

    tokens: float
    low: float
    high: float
    passed: float


def growth_point(
    law: PowerLaw | None,
    parameters: int,
    factor: float,
    *,
    tokens_seen: float = 0.0,
    tokens_a_parameter: float = TOKENS_A_PARAMETER,
) -> GrowthPoint:
    """When growing wins, from a run's power law and the literature's compute-optimal number of tokens.

    Args:
        law: the run's; the literature's exponent where None.
        parameters: of the model as it is.
        factor: by which growing multiplies them.
        tokens_seen: tokens that the model has seen.
        tokens_a_parameter: at which a model is compute-optimal.

    Example:
        >>> point = growth_point(None, 1_000_000, 2.0)
        >>> 7e6 < point.low < 15e6 < point.tokens < 16e6 < point.high < 30e6
        True
    """
    rng: np.random.Generator = np.random.default_rng(0)
    best = LITERATURE_EXPONENT if law is None else law.exponent
    count = 4000 if law is None else len(law.draws)
    exponents = np.full(count, best) if law is None else law.draws[:, 2]
    optimum = tokens_a_parameter * np.exp(_LOG_SPREAD * rng.standard_normal(count))
    sizes = np.maximum(SIZE_EXPONENT + _SIZE_SPREAD * rng.standard_normal(count), 0.05)
    draws = optimum * parameters * _share(exponents, sizes, factor)
    low, middle, high = interval(draws, tokens_a_parameter * parameters * float(_share(best, SIZE_EXPONENT, factor)))
    return GrowthPoint(tokens=middle, low=low, high=high, passed=float((draws <= tokens_seen).mean()))


def _share(exponent: Any, size: Any, factor: float) -> Any:
    """The point as a share of the compute-optimal number of tokens."""
    inside = size / exponent * (factor ** (exponent / (1 + exponent)) - 1) / (1 - factor**-size)
    return inside ** (1 / exponent)
