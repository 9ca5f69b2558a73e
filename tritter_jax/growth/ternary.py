"""Ternary models: which growth keeps codes and scales, and the weights that do.

A BitNet layer rounds its weights to {-m, 0, m} anew at every use, m being the mean of their absolute values over the
whole matrix (Ma et al. 2024, "The Era of 1-bit LLMs", section 2). So a grown matrix must have the old codes where it
continues the old one, code 0 where it may not write, and a mean that is the old one times the scale of what it
writes. New readers have the old mean; where new rows must be silent they stay below the threshold m/2, and the
magnitudes of the entries with codes 1 and -1, free above it, make up for them.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from tprog import GrowthError, ModelConfig

from tritter_jax.dtypes import wide_dtype
from tritter_jax.growth.axis_map import AxisMap, Maps
from tritter_jax.growth.fill import on_axis

_SILENT = 0.4
"""Largest magnitude of an entry that must round to zero, over the mean; the threshold is 0.5."""


def obstacle(source: ModelConfig, target: ModelConfig, maps: Maps) -> GrowthError | None:
    """Why a model with norms inside its layers, or ternary weights, has no exact growth by these maps; else None.

    A norm over the heads sees every copy: each head must be copied equally often, or whole groups with their values
    scaled. And the one scale of a ternary matrix lets no copy be written differently from the others.
    """
    if not source.family_record.sub_norms:
        return None
    heads = maps.get(("heads", "gain"))
    if heads is not None and target.group_size != source.group_size:
        counts = np.bincount(heads.gather[~heads.fresh])
        if heads.fresh.any() or np.ptp(counts):
            return GrowthError(
                f"heads {source.num_heads}/{source.num_kv_heads} -> {target.num_heads}/{target.num_kv_heads}",
                expected=f"groups of {source.group_size} queries as before, or every head copied equally often",
                got=f"groups of {target.group_size}, which the norm behind the heads would see",
                remedy=f"{source.group_size * target.num_kv_heads}/{target.num_kv_heads} heads are whole groups; "
                "--allow-inexact grows all the same.",
            )
    if not source.ternary:
        return None
    for (axis, role), along in maps.items():
        if role == "write" and not uniform(along):
            old, new = source.axis_sizes[axis], target.axis_sizes[axis]
            times = max(round(new / old), 2)
            return GrowthError(
                f"ternary {source.family} model, {axis} {old} -> {new}",
                expected="copies that are all written alike, for the whole matrix rounds with one scale",
                got="copies of several scales",
                remedy="--width fresh takes any ratio; --split even takes whole multiples, the nearest "
                f"{times * old}; --allow-inexact grows all the same.",
            )
    return None


def uniform(along: AxisMap) -> bool:
    """Whether all entries that continue an old one have the same factor."""
    factors = np.asarray(along.weight)[~along.fresh]
    return bool(np.ptp(factors) <= 1e-12 * np.abs(factors).max())


def keep_codes(
    x: Float[Array, "..."],
    y: Float[Array, "..."],
    maps: Mapping[int, AxisMap],
    key: Key[Array, ""],
    dtype: jnp.dtype | str,
) -> Float[Array, "..."]:
    """The grown layer of a matrix, mended so that rounding it gives the old codes at the scale due.

    Args:
        x: the old matrix.
        y: the grown one: gathered, scaled, fresh readers filled.
        maps: the map along each axis; each is `uniform`.
        key: what to draw silent entries with.
        dtype: dtype it will be stored in: codes keep a distance from the threshold that rounding to it cannot cross.

    Raises:
        AssertionError: a map is not uniform.
    """
    assert all(uniform(along) for along in maps.values())
    if all((np.asarray(along.weight) == 1).all() for along in maps.values()):
        return y  # every entry equally often, as it was: codes and mean are the old ones
    wide = wide_dtype(x.dtype, dtype)
    old = x.astype(wide)
    mean = jnp.mean(jnp.abs(old))
    codes = jnp.round(old / jnp.broadcast_to(jnp.where(mean > 0, mean, jnp.ones_like(mean)), old.shape))
    continued, silent = jnp.ones(y.shape, bool), jnp.zeros(y.shape, bool)
    factor = 1.0
    for axis, along in maps.items():
        codes = jnp.take(codes, along.gather, axis=axis)
        fresh = on_axis(jnp.asarray(along.fresh), axis, y.shape)
        continued &= ~fresh
        if along.fill == "zero":
            silent |= fresh
        factor *= float(np.asarray(along.weight)[~along.fresh][0])
    due = mean * jnp.asarray(factor, wide)
    size, sign = jnp.abs(y.astype(wide)), jnp.where(y < 0, -1, 1).astype(wide)
    # What is copied as it is will not be rounded: it only has to bear the rounding of the new mean.
    distance = 8 * float(jnp.finfo(wide).eps) + (0 if factor == 1 else 2 * float(jnp.finfo(dtype).eps))
    size = jnp.where(continued, _away_from_threshold(size, codes, due, distance), size)
    readers = ~continued & ~silent
    wanted = due * jnp.asarray(float(y.size), wide)
    if not any(along.fresh.any() and along.fill == "zero" for along in maps.values()):
        # Every old entry keeps its bits, and the new ones make up the mean.
        missing = wanted - jnp.sum(size, where=continued)
        scaled = size * _ratio(missing, jnp.sum(size, where=readers), y.shape)
        return jnp.where(readers, scaled, size) * sign
    drawn = jax.random.uniform(key, y.shape, wide, minval=-_SILENT, maxval=_SILENT)
    count = jnp.maximum(jnp.sum(readers), 1).astype(wide)
    size = jnp.where(readers, size * _ratio(due * count, jnp.sum(size, where=readers), y.shape), size)
    signed = jnp.where(silent, drawn * jnp.broadcast_to(due, y.shape), size * sign)
    size = jnp.abs(signed)
    loud = (continued & (codes != 0)) | (readers & (size > jnp.broadcast_to(0.5 * due, y.shape)))
    missing = wanted - jnp.sum(size, where=~loud)
    return jnp.where(loud, signed * _ratio(missing, jnp.sum(size, where=loud), y.shape), signed)


def _away_from_threshold(
    size: Float[Array, "..."], codes: Float[Array, "..."], due: Float[Array, ""], distance: float
) -> Float[Array, "..."]:
    """Magnitudes moved, where they are nearer to the threshold than a part of it, to that distance."""
    half = jnp.broadcast_to(due, size.shape) * 0.5
    return jnp.where(codes == 0, jnp.minimum(size, half * (1 - distance)), jnp.maximum(size, half * (1 + distance)))


def _ratio(wanted: Float[Array, ""], held: Float[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """What to multiply with to get from one sum to another; 1 where there is nothing to multiply."""
    return jnp.broadcast_to(jnp.where(held > 0, wanted / jnp.where(held > 0, held, jnp.ones_like(held)), 1.0), shape)
