"""A plan's maps applied to the leaves of any tree, each in the shape and with the sharding that it has."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tprog import ParameterError
from tprog.params import Axis

from tritter_jax.growth.apply import grow_leaf, grow_tree
from tritter_jax.growth.leaf import LeafGrowth, Quantity, grow_layer, leaf_growth, over_layers
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.own.rows import Row
from tritter_jax.growth.own.walk import map_leaves
from tritter_jax.growth.spread import Spread, axis_names, check_divides, spread_of

GrowthOf = Callable[[Row], LeafGrowth]
Kernel = Callable[..., Any]
"""Grows one layer: from its old values, what to do and its index in the grown stack."""


@grow_tree.register
def _(plan: AxesPlan, tree: Any, quantity: Quantity, shardings: Any = None, *, donate: bool = False) -> Any:
    if shardings is not None:
        raise ParameterError(
            "shardings", expected="none beside a plan of plan_axes: arrays keep their own", got="a tree of them",
            remedy="Place the grown arrays with jax.device_put.",
        )  # fmt: skip
    grown = grow_by(tree, plan, lambda row: leaf_growth(plan, plan.placed(row, plan.before), quantity))
    if donate:
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and not leaf.is_deleted():
                leaf.delete()
    return grown


def grow_by(
    tree: Any, plan: AxesPlan, growth_of: GrowthOf, *, kernel: Kernel = grow_layer, where: str = "the tree to grow"
) -> Any:
    """Every leaf of a tree grown, each as a function of its row says.

    Args:
        tree: a tree that the plan's rows describe.
        plan: from `plan_axes`.
        growth_of: from a row to what is done to its leaves.
        kernel: grows one layer.
        where: what the tree is, for errors.

    Raises:
        ParameterError: leaves have no row, another shape, or hold no floating-point numbers.
        GrowthError: the mesh of an array does not divide the grown one.
    """

    def grown(row: Row, layer: int | None, value: Any) -> Any:
        growth = growth_of(row)
        if all(along is None for along in growth.maps):
            return value
        leaf = Leaf(row, value, plan, where)
        x, spread = leaf.unfolded()
        if layer is not None:
            y = _one_layer(growth, spread, kernel)(x, jnp.int32(layer))
        elif kernel is grow_layer:
            y = grow_leaf(x, growth, spread)
        else:
            y = _all_layers(growth, spread, kernel)(x)
        return leaf.folded(y)

    return map_leaves(tree, plan, grown, where=where)


class Leaf:
    """An array of the tree: how it lies unfolded, with an axis for each of its row's, and how it lay before.

    Args:
        row: its row.
        value: the array, before growth.
        plan: the growth.
        where: what the tree is, for errors.

    Raises:
        ParameterError: it is no array of floating-point numbers, or of another shape.
    """

    def __init__(self, row: Row, value: Any, plan: AxesPlan, where: str) -> None:
        self._value = value
        stacked = row.stack is not None and not row.per_layer
        self._axes = row.axes if stacked else row.inner
        self._dims = (*(((row.axes[0],),) if stacked else ()), *row.dims)
        shape = getattr(value, "shape", None)
        whole, folded = self._shapes(plan.before)
        if shape not in (whole, folded) or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ParameterError(
                f"{where}: {row.pattern}", expected=f"floating-point numbers of shape {list(folded)}",
                got=type(value).__name__ if shape is None else f"shape {list(shape)} of {value.dtype}",
                remedy="Correct the axes of the row, or the sizes in `before`.",
            )  # fmt: skip
        if shape == whole:
            self._dims = tuple((axis,) for axis in self._axes)
        self._whole, self._after = whole, self._shapes(plan.after)
        self._own = value.sharding if _on_mesh(value) else None

    def _shapes(self, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        whole = tuple(sizes[axis.name] for axis in self._axes)
        return whole, tuple(math.prod(sizes[axis.name] for axis in dim) for dim in self._dims)

    def unfolded(self) -> tuple[Any, Spread | None]:
        """The array with an axis for each of its row's, and its spread over a mesh, if it has one.

        Raises:
            GrowthError: the mesh does not divide the grown array.
        """
        if self._own is None:
            return self._value.reshape(self._whole), None
        mesh = self._own.mesh
        assert isinstance(mesh, Mesh)
        # XLA places what is between on its own: explicit axes ask for a sharding at every step.
        mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
        names = axis_names(self._own, len(self._dims))
        x = jax.device_put(self._value, NamedSharding(mesh, self._own.spec)).reshape(self._whole)
        spec = [
            each
            for dim, along in zip(self._dims, names, strict=True)
            for each in (along or None, *[None] * len(dim[1:]))
        ]
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        check_divides([(Placed(self._axes, self._after[0]), sharding)])
        spread = spread_of(self._whole, sharding, sharding)
        return jax.device_put(x, spread.old_sharding), spread

    def folded(self, grown: Any) -> Any:
        """A grown array in the shape that the old one had, on the mesh that it lay on."""
        y = grown.reshape(self._after[1])
        return y if self._own is None else jax.device_put(y, self._own)


def _on_mesh(x: Any) -> bool:
    if isinstance(x, Tracer) or not isinstance(x, jax.Array):
        return False
    return isinstance(x.sharding, NamedSharding) and len(x.sharding.device_set) > 1


class Placed(NamedTuple):
    """An unfolded array, as the check of a mesh asks for it."""

    axes: tuple[Axis, ...]
    shape: tuple[int, ...]


@lru_cache(maxsize=512)
def _one_layer(growth: LeafGrowth, spread: Spread | None, kernel: Kernel) -> Any:
    def grown(x: Any, layer: Any) -> Any:
        return kernel(x, growth, layer, spread) if kernel is grow_layer else kernel(x, growth, layer)

    return jax.jit(grown, out_shardings=spread.sharding if spread else None)


@lru_cache(maxsize=512)
def _all_layers(growth: LeafGrowth, spread: Spread | None, kernel: Kernel) -> Any:
    def grown(x: Any) -> Any:
        return over_layers(x, growth, lambda one, layer: kernel(one, growth, layer))

    return jax.jit(grown, out_shardings=spread.sharding if spread else None)
