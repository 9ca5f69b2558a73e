"""Applying a plan: pure, jitted functions from a tree to a tree, built from one that grows a single layer."""

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
    return nest({old.path: _grow_stack(flat[old.path], old, plan, quantity) for old, _ in plan.target_specs()})


def _grow_stack(x: Float[Array, "..."], spec: ParamSpec, plan: Plan, quantity: Quantity) -> Float[Array, "..."]:
    if not spec.stacked:
        return grow_layer(x, spec, plan, quantity, jnp.int32(0))
    layer_map = plan.axis_maps(spec)[0]
    if layer_map is not None:
        x = jnp.take(x, layer_map.gather, axis=0)
    layers = jnp.arange(x.shape[0], dtype=jnp.int32)
    return jax.vmap(lambda one, layer: grow_layer(one, spec, plan, quantity, layer))(x, layers)


def grow_layer(
    x: Float[Array, "..."], spec: ParamSpec, plan: Plan, quantity: Quantity, layer: Array
) -> Float[Array, "..."]:
    """One layer of one parameter grown: gathered and scaled along each of its axes, fresh entries filled.

    Args:
        x: the old array of the layer that `layer` copies, without the stack axis.
        spec: its row in the source's table.
        plan: from `make_plan`.
        quantity: whether `x` moves as a weight or as a gradient.
        layer: index in the grown stack, int32; 0 for parameters outside the stack. What is drawn depends on the
            plan's seed, the parameter's name and this.
    """
    along_axes = plan.axis_maps(spec)
    layer_map, along_axes = (along_axes[0], along_axes[1:]) if spec.stacked else (None, along_axes)
    maps = {axis: along for axis, along in enumerate(along_axes) if along is not None}
    wide = wide_dtype(x.dtype)
    y = x
    for axis, along in maps.items():
        y = jnp.take(y, along.gather, axis=axis)
    for axis, along in maps.items():
        scale = along.factors(quantity)
        if (scale != 1).any():
            y = y.astype(wide) * _on_axis(jnp.asarray(scale, wide), axis, y.shape)
    if quantity == "weight":
        y = _fill(y, maps, partial(_key, plan.seed, spec.name, layer))
    if layer_map is not None and (layer_map.factors(quantity) != 1).any():
        factor = jnp.asarray(layer_map.factors(quantity), wide)[layer]
        y = y.astype(wide) * jnp.broadcast_to(factor, y.shape)
    convert = quantity == "weight" and plan.target.dtype != plan.source.dtype
    return y.astype(plan.target.dtype if convert else x.dtype)


def _on_axis(vector: Array, axis: int, shape: tuple[int, ...]) -> Array:
    aligned = vector.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return jnp.broadcast_to(aligned, shape)


def _key(seed: int, name: str, layer: Array) -> Key[Array, ""]:
    own = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(own, layer)


def _fill(y: Float[Array, "..."], maps: dict[int, AxisMap], key: Any) -> Float[Array, "..."]:
    """Fresh entries, still 0, become what their axis asks for."""
    for axis, along in maps.items():
        if along.fill == "mean" and along.fresh.any():
            fresh = _on_axis(jnp.asarray(along.fresh), axis, y.shape)
            mean = jnp.mean(y, axis=axis, keepdims=True, where=~fresh)
            y = jnp.where(fresh, jnp.broadcast_to(mean, y.shape), y)
    if any(along.fill == "random" and along.fresh.any() for along in maps.values()):
        y = _fill_random(y, maps, key())
    return y


def _fill_random(y: Float[Array, "..."], maps: dict[int, AxisMap], key: Key[Array, ""]) -> Float[Array, "..."]:
    """Fresh entries that may be anything are drawn with the spread of the old ones.

    Where another axis asks for zero (what it would write is new), zero wins: that is what keeps the function.
    """
    free: Bool[Array, "..."] = jnp.zeros(y.shape, bool)
    silent: Bool[Array, "..."] = jnp.zeros(y.shape, bool)
    for axis, along in maps.items():
        if along.fill == "random":
            free |= _on_axis(jnp.asarray(along.fresh), axis, y.shape)
        else:
            silent |= _on_axis(jnp.asarray(np.asarray(along.weight) == 0), axis, y.shape)
    wide = y.astype(wide_dtype(y.dtype))
    spread = jnp.sqrt(jnp.mean(jnp.square(wide), where=~free))
    draw = jax.random.normal(key, y.shape, wide.dtype) * jnp.broadcast_to(spread, y.shape)
    return jnp.where(free & ~silent, draw, wide)
