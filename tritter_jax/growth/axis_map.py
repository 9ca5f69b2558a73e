"""AxisMap: how the entries along one axis of a grown parameter come from the old ones.

Growth is a linear map, and a small one an axis: a grown parameter is a gather and a scale along each of its axes.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from tprog.params import Role

Fill = Literal["zero", "random", "mean", "near_mean"]
FRESH = -1


@dataclass(frozen=True, kw_only=True)
class AxisMap:
    """Where every new index of an axis comes from, and what it is multiplied with.

    Over the copies of one old entry the products `weight * gradient` sum to 1: a step that the old parameter
    would take along its gradient is shared out among its copies.

    Args:
        source: for each new index the old one, or -1 where the entry is fresh.
        weight: factor of the copied value; 0 for fresh entries.
        gradient: factor of the gradient of the loss with respect to the copied value.
        mapped: whether the gradient at the new index really is the mapped old one (0 for fresh entries).
        fill: what a fresh entry holds: zeros, random numbers of the parameter's own spread, the mean of the old
            entries, or random numbers around that.

    Example:
        >>> doubled = AxisMap(source=(0, 1, 0), weight=(0.5, 1.0, 0.5), gradient=(1.0, 1.0, 1.0), mapped=(True,) * 3)
        >>> doubled.new.tolist()
        [False, False, True]
    """

    source: tuple[int, ...]
    weight: tuple[float, ...]
    gradient: tuple[float, ...]
    mapped: tuple[bool, ...]
    fill: Fill = "zero"

    def __post_init__(self) -> None:
        assert len(self.source) == len(self.weight) == len(self.gradient) == len(self.mapped)

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def fresh(self) -> Bool[np.ndarray, " new"]:
        """True where an entry has no old counterpart."""
        return np.asarray(self.source) == FRESH

    @cached_property
    def gather(self) -> Int[np.ndarray, " new"]:
        """`source` with fresh entries pointing at 0, so that it can index."""
        return np.maximum(np.asarray(self.source, np.int32), 0)

    @cached_property
    def new(self) -> Bool[np.ndarray, " new"]:
        """True for fresh entries and for every copy of an old entry but its first."""
        first = np.zeros(len(self), bool)
        first[np.unique(np.asarray(self.source), return_index=True)[1]] = True
        return ~first | self.fresh

    @cached_property
    def unknown(self) -> Bool[np.ndarray, " new"]:
        """True where the old gradients tell nothing of an entry's own: fresh, or silent and not mapped."""
        return self.fresh | ((np.asarray(self.weight) == 0) & ~np.asarray(self.mapped))

    def factors(self, quantity: Literal["weight", "gradient"]) -> Float[np.ndarray, " new"]:
        """The factor of every entry for what is moved."""
        return np.asarray(self.weight if quantity == "weight" else self.gradient, np.float64)

    @cached_property
    def share(self) -> Float[np.ndarray, " new"]:
        """`weight * gradient`: the part of the old entry that each copy carries; sums to 1 over the copies."""
        return np.asarray(self.weight) * np.asarray(self.gradient)


Maps = dict[tuple[str, Role], AxisMap]
"""The map of every (logical axis, role) that a growth changes."""


def axis_map(
    source: tuple[int, ...] | list[int],
    weight: Float[np.ndarray, " new"],
    gradient: Float[np.ndarray, " new"],
    *,
    mapped: Bool[np.ndarray, " new"] | bool = True,
    fill: Fill = "zero",
) -> AxisMap:
    """An AxisMap from arrays, its fresh entries given weight and gradient 0.

    A fresh entry that is filled with zeros receives a gradient of its own; one that reads zeros receives none.
    """
    fresh = np.asarray(source) == FRESH
    holds = np.broadcast_to(mapped, fresh.shape) & ~(fresh & (fill == "zero"))
    return AxisMap(
        source=tuple(int(i) for i in source),
        weight=tuple(float(w) for w in np.where(fresh, 0.0, weight)),
        gradient=tuple(float(g) for g in np.where(fresh, 0.0, gradient)),
        mapped=tuple(bool(m) for m in holds),
        fill=fill,
    )
