"""Applying a plan: pure, jitted functions from a tree to a tree."""

import zlib
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from tprog import ParamSpec, check_tree
from tprog.params import flatten, nest

from tritter_jax.dtypes import wide_dtype
from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.plan import Plan

Tree = Mapping[str, Any]
Quantity = Literal["weight", "gradient"]


def grow(params: Tree, plan: Plan, *, donate: bool = False) -> dict[str, Any]:
    """The grown parameters: in `plan.target.dtype` where it is not the source's, else each in its own.

    Scales are multiplied in float32 (float64 for float64) and rounded once.

    Args:
        params: tree of arrays of `plan.source`.
        plan: from `make_plan`.
        donate: let go of `params`, whose buffers may then be reused.

    Raises:
        ParameterError: `params` is not a tree of `plan.source`.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> from tritter_jax.model import init_params
        >>> small = tprog.ModelConfig(hidden_size=20, num_layers=2, num_heads=2, num_kv_heads=1,
        ...                           intermediate_size=24, vocab_size=50)
        >>> large = tprog.ModelConfig(hidden_size=40, num_layers=3, num_heads=4, num_kv_heads=1,
        ...                           intermediate_size=48, vocab_size=50)
        >>> plan = make_plan(small, large, layers=[1])
        >>> grow(init_params(small), plan)["layers"]["mlp"]["up"].shape
        (3, 40, 48)
    """
    check_tree(params, plan.source, where="the parameters to grow")
    return _jitted(plan, "weight", donate)(params)


def map_gradients(gradients: Tree, plan: Plan) -> dict[str, Any]:
    """What gradients taken at the old point are at the grown point, in their own dtype.

    The same map with the gradient scales: first moments of an optimizer move alike. Entries whose gradient the old
    ones do not determine get 0 (`AxisMap.mapped` tells which).

    Raises:
        ParameterError: `gradients` is not a tree of `plan.source`.
    """
    check_tree(gradients, plan.source, where="the gradients to map")
    return _jitted(plan, "gradient", False)(gradients)


@lru_cache(maxsize=32)
def _jitted(plan: Plan, quantity: Quantity, donate: bool) -> Any:
    return jax.jit(partial(_grow_tree, plan, quantity), donate_argnums=(0,) if donate else ())


def _grow_tree(plan: Plan, quantity: Quantity, tree: Tree) -> dict[str, Any]:
    flat = flatten(tree)
    key = jax.random.key(plan.seed)
    return nest({old.path: grow_array(flat[old.path], old, plan, quantity, key) for old, _ in plan.target_specs()})


def grow_array(
    x: Float[Array, "..."], spec: ParamSpec, plan: Plan, quantity: Quantity, key: Key[Array, ""]
) -> Float[Array, "..."]:
    """One parameter grown: gathered and scaled along each of its axes, fresh entries filled.

    Args:
        x: the old array.
        spec: its row in the source's table.
        plan: from `make_plan`.
        quantity: whether `x` moves as a weight or as a gradient.
        key: key of the whole tree; the parameter's name is folded into it.
    """
    convert = quantity == "weight" and plan.target.dtype != plan.source.dtype
    dtype = plan.target.dtype if convert else x.dtype
    maps = {axis: along for axis, along in enumerate(plan.axis_maps(spec)) if along is not None}
    wide = wide_dtype(x.dtype)
    y = x
    for axis, along in maps.items():
        y = jnp.take(y, along.gather, axis=axis)
    for axis, along in maps.items():
        scale = along.weight if quantity == "weight" else along.gradient
        if any(factor != 1.0 for factor in scale):
            y = y.astype(wide) * _on_axis(jnp.asarray(scale, wide), axis, y.ndim, y.shape)
    if quantity == "weight":
        for axis, along in maps.items():
            if along.fill == "mean" and along.fresh.any():
                y = _fill_mean(y, axis, along)
        if any(along.fill == "random" and along.fresh.any() for along in maps.values()):
            y = _fill_random(y, spec, maps, key)
    return y.astype(dtype)


def _on_axis(vector: Array, axis: int, ndim: int, shape: tuple[int, ...]) -> Array:
    aligned = vector.reshape([-1 if i == axis else 1 for i in range(ndim)])
    return jnp.broadcast_to(aligned, shape)


def _fill_mean(y: Float[Array, "..."], axis: int, along: AxisMap) -> Float[Array, "..."]:
    """Fresh entries (still 0 here) become the mean of the others along the axis."""
    fresh = _on_axis(jnp.asarray(along.fresh), axis, y.ndim, y.shape)
    mean = jnp.sum(y, axis=axis, keepdims=True) / jnp.asarray((~along.fresh).sum(), y.dtype)
    return jnp.where(fresh, jnp.broadcast_to(mean, y.shape), y)


def _fill_random(
    y: Float[Array, "..."], spec: ParamSpec, maps: dict[int, AxisMap], key: Key[Array, ""]
) -> Float[Array, "..."]:
    """Fresh entries that may be anything are drawn with the spread of the old ones in the same layer.

    Where another axis asks for zero (what it would write is new), zero wins: that is what keeps the function.
    """
    free: Bool[Array, "..."] = jnp.zeros(y.shape, bool)
    silent: Bool[Array, "..."] = jnp.zeros(y.shape, bool)
    for axis, along in maps.items():
        if along.fill == "random":
            free |= _on_axis(jnp.asarray(along.fresh), axis, y.ndim, y.shape)
        else:
            silent |= _on_axis(jnp.asarray(np.asarray(along.weight) == 0), axis, y.ndim, y.shape)
    wide = y.astype(wide_dtype(y.dtype))
    within = tuple(range(1, y.ndim)) if spec.stacked else tuple(range(y.ndim))
    mean_square = jnp.mean(jnp.square(wide), axis=within, keepdims=True, where=~free)
    own_key = jax.random.fold_in(key, zlib.crc32(spec.name.encode()))
    draw = jax.random.normal(own_key, y.shape, wide.dtype) * jnp.broadcast_to(jnp.sqrt(mean_square), y.shape)
    return jnp.where(free & ~silent, draw, wide)
