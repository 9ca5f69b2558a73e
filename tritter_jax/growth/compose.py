"""Two growths in a row as one: where each entry comes from in the end, and the product of its factors."""

from collections.abc import Mapping

import numpy as np
from tprog.params import Axis

from tritter_jax.growth.axis_map import FRESH, AxisMap
from tritter_jax.growth.depth import Layout


def compose_maps(first: Mapping[Axis, AxisMap], second: Mapping[Axis, AxisMap]) -> dict[Axis, AxisMap]:
    """The map of every axis that either of two growths changes."""
    return {
        axis: compose(first[axis], second[axis]) if axis in first and axis in second else {**first, **second}[axis]
        for axis in [*first, *(axis for axis in second if axis not in first)]
    }


def compose(first: AxisMap, second: AxisMap) -> AxisMap:
    """The map that moves by `first` and then by `second`.

    What fresh entries hold is not in it: a copy of what the first growth drew has no map of its own.

    Example:
        >>> ones = {"weight": (1,) * 3, "gradient": (1,) * 3, "mapped": (True,) * 3}
        >>> compose(AxisMap(source=(0, 1, -1), **ones), AxisMap(source=(2, 1, 0), **ones)).source
        (-1, 1, 0)
    """
    inner = np.maximum(np.asarray(second.source), 0)
    fresh = np.asarray(second.source) == FRESH

    def factors(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(float(f) for f in np.asarray(one)[inner] * np.asarray(other))

    return AxisMap(
        source=tuple(int(i) for i in np.where(fresh, FRESH, np.asarray(first.source)[inner])),
        weight=factors(first.weight, second.weight),
        gradient=factors(first.gradient, second.gradient),
        mapped=tuple(bool(m) for m in np.asarray(second.mapped) & (fresh | np.asarray(first.mapped)[inner])),
        fill=second.fill if second.fresh.any() else first.fill,
    )


def compose_stacks(first: Layout, second: Layout) -> Layout:
    """The stack of layers that two growths in a row give."""
    return Layout(
        tuple(first.source[i] for i in second.source),
        tuple(new or first.new[i] for i, new in zip(second.source, second.new, strict=True)),
    )
