"""What fresh entries hold: zeros, random numbers of the parameter's own spread, the old mean, or around it."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from tritter_jax.dtypes import wide_dtype
from tritter_jax.growth.axis_map import AxisMap


def on_axis(vector: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """A vector along one axis of an array of that shape, the same along all others."""
    aligned = vector.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return jnp.broadcast_to(aligned, shape)


def draw_key(seed: int, name: str, layer: Array, purpose: str = "") -> Key[Array, ""]:
    """The key of what is drawn for one layer of one parameter; each purpose has its own."""
    own = jax.random.fold_in(jax.random.key(seed), zlib.crc32((name + purpose).encode()))
    return jax.random.fold_in(own, layer)


_AROUND_MEAN = 0.1
"""Standard deviation around the mean of the old entries, over theirs."""


def fill(y: Float[Array, "..."], maps: dict[int, AxisMap], key: Any) -> Float[Array, "..."]:
    """Fresh entries, still 0, become what their axis asks for."""
    for axis, along in maps.items():
        if along.fill in ("mean", "near_mean") and along.fresh.any():
            fresh = on_axis(jnp.asarray(along.fresh), axis, y.shape)
            wide = y.astype(wide_dtype(y.dtype))
            value = jnp.broadcast_to(jnp.mean(wide, axis=axis, keepdims=True, where=~fresh), y.shape)
            if along.fill == "near_mean":
                spread = _AROUND_MEAN * jnp.std(wide, axis=axis, keepdims=True, where=~fresh)
                value += jax.random.normal(key("mean"), y.shape, wide.dtype) * jnp.broadcast_to(spread, y.shape)
            y = jnp.where(fresh, value, wide)
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
            free |= on_axis(jnp.asarray(along.fresh), axis, y.shape)
        elif along.fill == "zero":
            silent |= on_axis(jnp.asarray(np.asarray(along.weight) == 0), axis, y.shape)
    wide = y.astype(wide_dtype(y.dtype))
    # Three digits do, and they are the same in whatever order the compiler sums: on a mesh, or layer by layer.
    spread = jnp.sqrt(jnp.mean(jnp.square(wide), where=~free)).astype(jnp.bfloat16).astype(wide.dtype)
    draw = jax.random.normal(key, y.shape, wide.dtype) * jnp.broadcast_to(spread, y.shape)
    return jnp.where(free & ~silent, draw, wide)
