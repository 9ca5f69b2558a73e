"""Noise on what a growth copies: relative, seeded, and by default where it cannot change the function.

Three places are free. The copies of an entry that is read carry equal activations up to the factors b of the axis
map's gradient, so noise n on their readers passes where sum(b n) = 0: the null space of that sum (for pairs: Samragh
et al. 2024, "Scaling Smart"). What reads zeros has b = 0. And a new layer that adds zero to the residual
stream may hold anything.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from tprog import GrowthError
from tprog.params import Axis

from tritter_jax.dtypes import wide_dtype
from tritter_jax.growth.axis_map import FRESH, AxisMap
from tritter_jax.growth.fill import on_axis
from tritter_jax.growth.preserves import Preserves

PRESERVES = {
    "where it changes nothing": Preserves(function=True, gradient="no", moments="no", ternary="no"),
    "everywhere": Preserves(function=False, gradient="no", moments="no", ternary="no"),
}
PUBLISHED = {
    "where it changes nothing": "Samragh et al. 2024, Scaling Smart (pairs)",
    "everywhere": "Chen et al. 2016, Net2Net, section 2.2",
}


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How strong the noise is and where it lies.

    Args:
        decibels: signal-to-noise ratio: mean square of the parameter's copied entries over that of the noise drawn.
        everywhere: on every new entry, whatever that does to the function (the specification's section 5).

    Example:
        >>> Noise(decibels=20.0).relative
        0.1
    """

    decibels: float
    everywhere: bool = False

    @property
    def relative(self) -> float:
        """Standard deviation of the noise over the root mean square of the parameter."""
        return 10 ** (-self.decibels / 20)


@dataclass(frozen=True)
class LeafNoise:
    """The noise of one parameter.

    Args:
        noise: its strength.
        free: the axis of one layer whose map is read along, so that noise can lie in the null space; None for none.
        free_layers: for each layer of the grown stack whether it may hold anything; empty where none may.
    """

    noise: Noise
    free: int | None
    free_layers: tuple[bool, ...]


def leaf_noise(noise: Noise, axes: tuple[Axis, ...], maps: Mapping[Axis, AxisMap]) -> LeafNoise:
    """Where noise may lie in a parameter with these axes, in a growth with these maps."""
    inner = [axis for axis in axes if axis.name != "layers"]
    read = [i for i, axis in enumerate(inner) if axis.role == "read" and axis in maps]
    residual = maps.get(Axis("layers", "residual"))
    silent: tuple[bool, ...] = ()
    if residual is not None and axes[0] == Axis("layers", "stack"):
        silent = tuple(weight == 0 for weight in residual.weight)
    return LeafNoise(noise, read[0] if read else None, silent)


def check_noise(noise: Noise, maps: Mapping[Axis, AxisMap], *, ternary: bool) -> None:
    """Refuse noise that is no ratio, that has nowhere to lie, or that ternary codes would not survive.

    Raises:
        GrowthError: the message says which.
    """
    if not math.isfinite(noise.decibels) or abs(noise.decibels) > 200:
        raise GrowthError(
            "noise", expected="a signal-to-noise ratio from -200 to 200 dB", got=noise.decibels,
            remedy="20 means noise a tenth as large as the weights.",
        )  # fmt: skip
    if noise.everywhere:
        return
    if ternary and any(axis.name != "layers" for axis in maps):
        raise GrowthError(
            "noise", expected="none in a ternary model that grows in width", got=f"{noise.decibels:g} dB",
            remedy="It would move the codes and their scale: leave it out, or add --noise-everywhere.",
        )  # fmt: skip
    residual = maps.get(Axis("layers", "residual"))
    silent = residual is not None and 0 in residual.weight
    if not silent and not any(axis.role == "read" for axis in maps):
        raise GrowthError(
            "noise",
            expected="copies, fresh entries or silent layers, where noise changes nothing",
            got="a growth without any",
            remedy="Leave it out, or add --noise-everywhere, which changes the function.",
        )


def draw_noise(
    y: Float[Array, "..."], maps: Mapping[int, AxisMap], leaf: LeafNoise, key: Key[Array, ""], layer: Array
) -> Float[Array, "..."]:
    """The noise for one layer of one parameter that keeps the function, in at least float32.

    Args:
        y: the grown layer, before a silent strategy zeroes it.
        maps: the map along each of its axes.
        leaf: from `leaf_noise`.
        key: what to draw it with.
        layer: index in the grown stack.
    """
    drawn = _drawn(y, maps, leaf, key)
    kept = jnp.zeros_like(drawn) if leaf.free is None else _null_space(drawn, leaf.free, maps[leaf.free])
    if not any(leaf.free_layers):
        return kept
    silent = jnp.asarray(leaf.free_layers)[layer]
    return jnp.where(jnp.broadcast_to(silent, drawn.shape), drawn, kept)


def draw_noise_everywhere(
    y: Float[Array, "..."],
    maps: Mapping[int, AxisMap],
    layer_map: AxisMap | None,
    leaf: LeafNoise,
    key: Key[Array, ""],
    layer: Array,
) -> Float[Array, "..."]:
    """The noise for one layer of one parameter on all that is new in it; all of it in a new layer."""
    new = jnp.zeros(y.shape, bool)
    for axis, along in maps.items():
        new |= on_axis(jnp.asarray(along.new), axis, y.shape)
    if layer_map is not None:
        new |= jnp.broadcast_to(jnp.asarray(layer_map.new)[layer], y.shape)
    drawn = _drawn(y, maps, leaf, key)
    return jnp.where(new, drawn, jnp.zeros_like(drawn))


def _drawn(
    y: Float[Array, "..."], maps: Mapping[int, AxisMap], leaf: LeafNoise, key: Key[Array, ""]
) -> Float[Array, "..."]:
    wide = y.astype(wide_dtype(y.dtype))
    copied = jnp.ones(y.shape, bool)
    for axis, along in maps.items():
        copied &= on_axis(jnp.asarray(~along.fresh), axis, y.shape)
    spread = leaf.noise.relative * jnp.sqrt(jnp.mean(jnp.square(wide), where=copied))
    return jax.random.normal(key, y.shape, wide.dtype) * jnp.broadcast_to(spread, y.shape)


def _null_space(noise: Float[Array, "..."], axis: int, along: AxisMap) -> Float[Array, "..."]:
    """The part of the noise that sums to zero over the copies of every old entry, weighed with b."""
    source, b = np.asarray(along.source), along.factors("gradient")
    old = int(source.max()) + 1
    total = np.bincount(along.gather, b**2, old)
    heard = np.bincount(along.gather, b != 0, old)[along.gather]
    # An entry that is read once has no room; one that reads zeros has all of it. A fresh entry that is itself zero,
    # as behind a fresh head, is so because what it reads is not.
    room = np.where(source == FRESH, along.fill == "random", (b == 0) | (heard > 1))
    scaled = noise * on_axis(jnp.asarray(b, noise.dtype), axis, noise.shape)
    moved = jnp.moveaxis(scaled, axis, 0)
    sums = jnp.zeros((old, *moved.shape[1:]), noise.dtype).at[along.gather].add(moved)
    per_old = jnp.asarray(1 / np.where(total == 0, 1, total), noise.dtype)
    sums = sums * on_axis(per_old, 0, sums.shape)
    back = jnp.moveaxis(jnp.take(sums, along.gather, axis=0), 0, axis)
    projected = noise - back * on_axis(jnp.asarray(b, noise.dtype), axis, noise.shape)
    return jnp.where(on_axis(jnp.asarray(room), axis, noise.shape), projected, jnp.zeros_like(noise))
