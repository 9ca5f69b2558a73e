"""Fisher information under growth: how much of an entry's worth each of its copies holds, a row in `FISHER` each."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tprog import ParamSpec

from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.leaf import LeafGrowth, grow_layer, leaf_growth
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.own.rows import PlacedRow
from tritter_jax.growth.plan import Plan

_SAMPLE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class FisherRule:
    """A way to grow the diagonal of the Fisher information.

    Args:
        name: its name on the command line.
        summary: one line on what it keeps.
        factors: the factors along an axis.
    """

    name: str
    summary: str
    factors: Callable[[AxisMap], Float[np.ndarray, " new"]]


def preserve(along: AxisMap) -> Float[np.ndarray, " new"]:
    """b / a, so that moving all copies of an entry together costs what moving the entry did; b^2 where a is 0.

    A move of the old entry by x moves its copies by a x, and the a b of its copies sum to 1, so that the sum of
    (b / a) F (a x)^2 is F x^2.

    Example:
        >>> halves = AxisMap(source=(0, 1, 0), weight=(0.5, 1, 0.5), gradient=(1, 1, 1), mapped=(True,) * 3)
        >>> preserve(halves).tolist()
        [2.0, 1.0, 2.0]
    """
    weight, gradient = along.factors("weight"), along.factors("gradient")
    silent = weight == 0
    return np.where(silent, gradient**2, gradient / np.where(silent, 1.0, weight))


def exact(along: AxisMap) -> Float[np.ndarray, " new"]:
    """b^2: the diagonal of the grown model's own Fisher information, since its gradients are b times the old ones.

    Example:
        >>> halves = AxisMap(source=(0, 1, 0), weight=(1, 1, 1), gradient=(0.5, 1, 0.5), mapped=(True,) * 3)
        >>> exact(halves).tolist()
        [0.25, 1.0, 0.25]
    """
    return along.factors("gradient") ** 2


FISHER: dict[str, FisherRule] = {
    rule.name: rule
    for rule in (
        FisherRule(name="preserve", summary="moving all copies together costs what it cost", factors=preserve),
        FisherRule(name="exact", summary="the diagonal that the grown model itself has", factors=exact),
    )
}
"""Every rule by name; the first is the default."""


def fisher_growth(plan: Plan | AxesPlan, spec: ParamSpec | PlacedRow, rule: FisherRule) -> LeafGrowth:
    """How the Fisher information of one parameter grows.

    Args:
        plan: from `make_plan`.
        spec: the parameter's row in the source's table.
        rule: which factors.
    """
    growth = leaf_growth(plan, spec, "gradient")
    scaled = (
        None if along is None else replace(along, gradient=tuple(rule.factors(along).tolist()))
        for along in growth.maps
    )
    return replace(growth, maps=tuple(scaled))


def grow_fisher_layer(x: Float[Array, "..."], growth: LeafGrowth, layer: Array) -> Float[Array, "..."]:
    """One layer of one parameter's Fisher information grown; what is unknown gets the median of the old ones.

    That is what is fresh, and what begins silent: the projections of a new layer that write zeros have gradients, and
    a Fisher information, though the old ones say nothing of them. Of a large layer the median is taken over 65,536
    entries that lie evenly in it.

    Args:
        x: the old values, without the stack axis.
        growth: from `fisher_growth`.
        layer: index in the grown stack, int32.
    """
    y = grow_layer(x, growth, layer)
    unknown, along = jnp.asarray(unknown_entries(growth, y.shape)), growth.layer_map
    if along is not None and along.unknown.any():
        unknown |= jnp.broadcast_to(jnp.asarray(along.unknown)[layer], y.shape)
    elif not any(along.unknown.any() for along in growth.inner.values()):
        return y
    median = jnp.median(x.reshape(-1)[:: max(1, x.size // _SAMPLE)])
    return jnp.where(unknown, jnp.broadcast_to(median, y.shape), y)


def unknown_entries(growth: LeafGrowth, shape: tuple[int, ...]) -> np.ndarray:
    """True where of an entry of any grown layer the old gradients tell nothing; a broadcast view."""
    return _along(growth, shape, lambda along: along.unknown)


def unknown_layer(growth: LeafGrowth, layer: int | None) -> bool:
    """Whether one grown layer begins silent, so that the old gradients tell nothing of it; None is no layer."""
    along = growth.layer_map
    return layer is not None and along is not None and bool(along.unknown[layer])


def count_unknown(growth: LeafGrowth, shape: tuple[int, ...], layer: int | None) -> int:
    """Number of entries of one grown layer of which the old gradients tell nothing."""
    size = math.prod(shape)
    known = (1 - float(along.unknown.mean()) for along in growth.inner.values())
    return size if unknown_layer(growth, layer) else size - round(size * math.prod(known))


def fresh_entries(growth: LeafGrowth, shape: tuple[int, ...]) -> np.ndarray:
    """True where an entry of one grown layer has no old counterpart; a broadcast view."""
    return _along(growth, shape, lambda along: along.fresh)


def _along(growth: LeafGrowth, shape: tuple[int, ...], which: Callable[[AxisMap], np.ndarray]) -> np.ndarray:
    found = np.zeros((), bool)
    for axis, along in growth.inner.items():
        if which(along).any():
            found = found | which(along).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(found, shape)
