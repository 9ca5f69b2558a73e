"""Growing a tensor a run of rows at a time, in blocks that fit the caches.

Most growths move every entry by itself: it is picked and multiplied, or drawn. Any rows can then be grown alone, and
what XLA computes for them lies in the processor's caches, in memory that was used before.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tprog import ParamSpec
from tprog.buffers import aligned_empty
from tprog.source import TensorSource
from tprog.weights import InFiles

from tritter_jax.dtypes import wide_dtype
from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.fill import deviation_of, draw_key, fill_rows, fills_at_random, on_axis, sum_of_squares
from tritter_jax.growth.leaf import LeafGrowth, scaled, scaled_by_layer

_BLOCK = 4 << 20
"""Bytes of a block: smaller ones are called for too often, larger ones leave the caches."""


def entry_by_entry(growth: LeafGrowth) -> bool:
    """Whether every grown entry is an old one times a factor or drawn, so that any of them can be grown alone."""
    averaged = growth.quantity == "weight" and any(
        along.fresh.any() and along.fill in ("mean", "near_mean") for along in growth.inner.values()
    )
    return not (growth.steps or growth.noise or averaged or (growth.codes and growth.inner))


def has_unknown(growth: LeafGrowth) -> bool:
    """Whether of some entries the old gradients tell nothing."""
    return any(along.unknown.any() for along in growth.maps if along is not None)


def as_it_is(growth: LeafGrowth, dtype: np.dtype) -> bool:
    """Whether a grown layer is the old one, bit for bit."""
    layers = growth.layer_map
    kept = layers is None or bool((layers.factors(growth.quantity) == 1).all())
    return kept and not growth.inner and growth.dtype in (None, dtype.name)


def grown_blocks(
    source: TensorSource, origin: str, old: ParamSpec, growth: LeafGrowth, layer: int
) -> Iterator[np.ndarray]:
    """One grown tensor in runs of its rows, one after the other: flat arrays in memory of their own.

    Args:
        source: where the old tensor is.
        origin: its name there.
        old: its row in the source's table.
        growth: what to do with it; must be `entry_by_entry`.
        layer: index in the grown stack; 0 outside it.
    """
    maps = growth.inner
    shape = tuple(len(maps[i]) if i in maps else size for i, size in enumerate(old.layer_shape))
    gather = maps[0].gather if 0 in maps else np.arange(shape[0])
    per_row = int(np.prod(shape[1:]))
    count = max(1, min(shape[0], _BLOCK // (per_row * source.specs[origin].dtype.itemsize)))
    rows = _Rows(source, origin, old.layer_shape)
    # The last block overlaps the one before it, so that all have one shape and are compiled once.
    starts = [(start, max(0, min(start, shape[0] - count))) for start in range(0, shape[0], count)]
    if as_it_is(growth, source.specs[origin].dtype):
        for start, first in starts:
            yield rows.pick(gather[first : first + count])[start - first :].reshape(-1)
        return
    deviation = None
    if growth.quantity == "weight" and fills_at_random(maps):
        # Once more over the old entries, before any is drawn: the fresh ones have their spread.
        squared = _squares(growth)
        squares = [
            np.asarray(squared(rows.pick(gather[first : first + count]), jnp.int32(first), jnp.int32(start - first)))
            for start, first in starts
        ]
        deviation = deviation_of(jnp.sum(jnp.asarray(squares)), shape, maps)
    grow = _compiled(growth)
    for start, first in starts:
        x = rows.pick(gather[first : first + count])
        y = np.asarray(grow(x, jnp.int32(layer), jnp.int32(first), deviation))
        yield y[start - first :].reshape(-1)


def grow_rows(
    x: Float[Array, "rows ..."],
    layer: Int[Array, ""],
    first: Int[Array, ""],
    deviation: Float[Array, ""] | None = None,
    *,
    growth: LeafGrowth,
) -> Float[Array, "rows ..."]:
    """A run of rows of `grow_layer`'s result.

    Args:
        x: the old rows that the new ones continue, already picked.
        layer: index in the grown stack.
        first: index of the first of the new rows.
        deviation: standard deviation of what is drawn, if anything is.
        growth: what to do with them.
    """
    wide = wide_dtype(x.dtype, growth.dtype or x.dtype)
    y, maps = _gathered(x, first, growth, wide)
    if deviation is not None:
        y = fill_rows(y, maps, draw_key(growth.seed, growth.name, layer), deviation, first)
    return scaled_by_layer(y, growth, layer, wide).astype(growth.dtype or x.dtype)


def _gathered(
    x: Float[Array, "rows ..."], first: Int[Array, ""], growth: LeafGrowth, wide: jnp.dtype
) -> tuple[Float[Array, "rows ..."], dict[int, AxisMap]]:
    maps = growth.inner
    for axis, along in maps.items():
        if axis:
            x = jnp.take(x, along.gather, axis=axis)
    return scaled(x, maps, growth.quantity, wide, first), maps


@lru_cache(maxsize=512)
def _compiled(growth: LeafGrowth) -> Any:
    return jax.jit(partial(grow_rows, growth=growth))


@lru_cache(maxsize=512)
def _squares(growth: LeafGrowth) -> Any:
    """Sum of squares of what is not drawn in some rows, less the first few, which were counted before."""

    def squares(x: Float[Array, "rows ..."], first: Int[Array, ""], counted: Int[Array, ""]) -> Float[Array, ""]:
        y, maps = _gathered(x, first, growth, wide_dtype(x.dtype, growth.dtype or x.dtype))
        fresh = jnp.arange(y.shape[0], dtype=jnp.int32) >= jnp.broadcast_to(counted, y.shape[:1])
        return sum_of_squares(jnp.where(on_axis(fresh, 0, y.shape), y, jnp.zeros_like(y)), maps, first)

    return jax.jit(squares)


class _Rows:
    """The rows of one tensor: read from its file where it lies in one, so that no page is mapped for them."""

    def __init__(self, source: TensorSource, name: str, shape: tuple[int, ...]) -> None:
        self._tensor = source.tensor(name).reshape(shape)
        self._read = source.file_of(name).read if isinstance(source, InFiles) else None

    def pick(self, indices: np.ndarray) -> np.ndarray:
        """Some of its rows, in memory of their own."""
        if self._read is None:
            return self._tensor[indices]
        picked = aligned_empty((len(indices), *self._tensor.shape[1:]), self._tensor.dtype)
        place = 0
        for run in np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1):
            view = self._tensor[run[0] : run[0] + len(run)]
            self._read(picked[place : place + len(run)].reshape(1, -1), view.reshape(1, -1))
            place += len(run)
        return picked
