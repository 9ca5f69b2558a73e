"""Applying a plan: one jitted function a parameter, built from one that grows a single layer of it."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Key
from tprog import ParameterError, ParamSpec, check_tree
from tprog.params import flatten, nest

from tritter_jax.dtypes import require_precision, wide_dtype
from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.plan import Plan

Tree = Mapping[str, Any]
Quantity = Literal["weight", "gradient"]


def grow(params: Tree, plan: Plan, *, donate: bool = False) -> dict[str, Any]:
    """The grown parameters: in `plan.target.dtype` where the plan converts, else each in its own.

    Scales are multiplied in float32 (float64 for float64) and rounded once. A parameter that is sharded over a mesh
    stays sharded alike, along every axis whose new length the mesh divides.

    Args:
        params: tree of arrays of `plan.source`.
        plan: from `make_plan`.
        donate: free each old parameter as soon as its grown one is computed; `params` is of no use afterwards.

    Raises:
        ParameterError: `params` is not a tree of `plan.source`, or not of floating-point arrays.
        UsageError: the plan is for float64, and JAX is not set to compute in it.

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
    require_precision(plan.target.dtype)
    return _grow_tree(params, plan, "weight", donate=donate)


def map_gradients(gradients: Tree, plan: Plan) -> dict[str, Any]:
    """What gradients taken at the old point are at the grown point, in their own dtype.

    The same map with the gradient scales: first moments of an optimizer move alike. Entries whose gradient the old
    ones do not determine get 0 (`AxisMap.mapped` tells which).

    Raises:
        ParameterError: `gradients` is not a tree of `plan.source`.
    """
    check_tree(gradients, plan.source, where="the gradients to map")
    return _grow_tree(gradients, plan, "gradient")


def _grow_tree(tree: Tree, plan: Plan, quantity: Quantity, *, donate: bool = False) -> dict[str, Any]:
    flat, grown = flatten(tree), {}
    odd = [".".join(path) for path, leaf in flat.items() if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if odd:
        raise ParameterError(
            odd[0], expected="floating-point numbers", got=flat[tuple(odd[0].split("."))].dtype,
            remedy="Only weights and what is shaped like them can grow.", findings=odd[1:],
        )  # fmt: skip
    for old, new in plan.target_specs():
        x = flat[old.path]
        growth = leaf_growth(plan, old, quantity)
        concrete = isinstance(x, jax.Array) and not isinstance(x, Tracer)
        sharding = _kept_sharding(x.sharding, new.shape) if concrete else None
        reuse = donate and concrete and new.shape == x.shape and growth.dtype in (None, x.dtype.name)
        grown[old.path] = _compiled(growth, sharding, reuse)(x)
        if donate and concrete and not x.is_deleted():
            x.delete()
    return nest(grown)


def _kept_sharding(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> NamedSharding | None:
    """The same sharding for an array of another shape, without the axes that the mesh does not divide."""
    if not isinstance(sharding, NamedSharding) or len(sharding.device_set) == 1:
        return None
    spec = list(sharding.spec) + [None] * (len(shape) - len(sharding.spec))
    for axis, names in enumerate(spec):
        over = (names,) if isinstance(names, str) else names or ()
        if shape[axis] % math.prod(sharding.mesh.shape[name] for name in over):
            spec[axis] = None
    return NamedSharding(sharding.mesh, PartitionSpec(*spec), memory_kind=sharding.memory_kind)


@dataclass(frozen=True, kw_only=True)
class LeafGrowth:
    """All that a plan says of one parameter: what is compiled for it is shared by every plan that says the same.

    Args:
        name: the parameter's dotted path.
        stacked: whether axis 0 counts layers.
        maps: the map along each axis; None where it stays as it is.
        quantity: whether the parameter moves as a weight or as a gradient.
        seed: seed of what is drawn.
        dtype: dtype of the result; the parameter's own when None.
    """

    name: str
    stacked: bool
    maps: tuple[AxisMap | None, ...]
    quantity: Quantity
    seed: int
    dtype: str | None


def leaf_growth(plan: Plan, spec: ParamSpec, quantity: Quantity) -> LeafGrowth:
    """The part of a plan that concerns one parameter.

    Args:
        plan: from `make_plan`.
        spec: the parameter's row in the source's table.
        quantity: whether it moves as a weight or as a gradient.
    """
    convert = quantity == "weight" and plan.convert
    return LeafGrowth(
        name=spec.name,
        stacked=spec.stacked,
        maps=plan.axis_maps(spec),
        quantity=quantity,
        seed=plan.seed,
        dtype=plan.target.dtype if convert else None,
    )


@lru_cache(maxsize=512)
def _compiled(growth: LeafGrowth, sharding: NamedSharding | None, reuse: bool) -> Any:
    return jax.jit(partial(_grow_stack, growth=growth), out_shardings=sharding, donate_argnums=(0,) if reuse else ())


def _grow_stack(x: Float[Array, "..."], growth: LeafGrowth) -> Float[Array, "..."]:
    if not growth.stacked:
        return grow_layer(x, growth, jnp.int32(0))
    if growth.maps[0] is not None:
        x = jnp.take(x, growth.maps[0].gather, axis=0)
    layers = jnp.arange(x.shape[0], dtype=jnp.int32)
    return jax.vmap(lambda one, layer: grow_layer(one, growth, layer))(x, layers)


def grow_layer(x: Float[Array, "..."], growth: LeafGrowth, layer: Array) -> Float[Array, "..."]:
    """One layer of one parameter grown: gathered and scaled along each of its axes, fresh entries filled.

    Args:
        x: the old array of the layer that `layer` copies, without the stack axis.
        growth: from `leaf_growth`.
        layer: index in the grown stack, int32; 0 for parameters outside the stack. What is drawn depends on the
            plan's seed, the parameter's name and this.
    """
    layer_map, along_axes = (growth.maps[0], growth.maps[1:]) if growth.stacked else (None, growth.maps)
    maps = {axis: along for axis, along in enumerate(along_axes) if along is not None}
    wide = wide_dtype(x.dtype)
    y = x
    for axis, along in maps.items():
        y = jnp.take(y, along.gather, axis=axis)
    for axis, along in maps.items():
        scale = along.factors(growth.quantity)
        if (scale != 1).any():
            y = y.astype(wide) * _on_axis(jnp.asarray(scale, wide), axis, y.shape)
    if growth.quantity == "weight":
        y = _fill(y, maps, partial(_key, growth.seed, growth.name, layer))
    if layer_map is not None and (layer_map.factors(growth.quantity) != 1).any():
        factor = jnp.asarray(layer_map.factors(growth.quantity), wide)[layer]
        y = y.astype(wide) * jnp.broadcast_to(factor, y.shape)
    return y.astype(growth.dtype or x.dtype)


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
