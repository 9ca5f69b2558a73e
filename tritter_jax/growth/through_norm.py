"""The rule that makes growth along an axis exact where RMSNorm stands between what writes it and what reads it."""

import numpy as np
from jaxtyping import Float

from tritter_jax.growth.axis_map import Maps, axis_map


def through_norm(
    axis: str, source: list[int], share: Float[np.ndarray, " new"], ratio: float, *, ternary: bool
) -> Maps:
    """Exact through RMSNorm at any ratio: the copies of an entry carry D/d of its square between them.

    Copy c is written times s, s^2 = share * D/d, so the mean square over D equals the old one over d; gains and
    epsilon stay. Readers take share / s. Where a share is 0 the reader's weight is free, and copied. In a ternary
    model it is the gains that take share / s, so that what reads keeps its weights, and with them codes and scale.
    """
    s = np.sqrt(share * ratio)
    silent = share == 0
    reader = np.where(silent, 1.0, share / np.where(silent, 1.0, s))
    ones = np.ones(len(source))
    read, gain = ((ones, share), (reader, s)) if ternary else ((reader, s), (ones, share))
    return {
        (axis, "write"): axis_map(source, s, np.where(silent, 0.0, reader), mapped=~silent),
        (axis, "read"): axis_map(source, *read, fill="random"),
        (axis, "gain"): axis_map(source, *gain, fill="mean"),
    }
