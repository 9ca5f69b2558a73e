"""One parameter, or what is shaped like it, grown: gathered and scaled along each axis, fresh entries filled."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from tprog import ParamSpec

from tritter_jax.dtypes import wide_dtype
from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.fill import draw_key, fill, on_axis
from tritter_jax.growth.noise import LeafNoise, draw_noise, draw_noise_everywhere, leaf_noise
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.own.rows import PlacedRow
from tritter_jax.growth.plan import Plan
from tritter_jax.growth.spread import Spread
from tritter_jax.growth.ternary import keep_codes

Quantity = Literal["weight", "gradient"]


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
        codes: whether it is a ternary matrix whose codes and scale are to be kept.
        noise: the noise that is added to it, if any.
        steps: the growths to do one after the other instead, where a plan is composed of several.
    """

    name: str
    stacked: bool
    maps: tuple[AxisMap | None, ...]
    quantity: Quantity
    seed: int
    dtype: str | None
    codes: bool = False
    noise: LeafNoise | None = None
    steps: tuple["LeafGrowth", ...] = ()

    @property
    def inner(self) -> dict[int, AxisMap]:
        """The maps along the axes of one layer, by axis, where there is one."""
        along_axes = self.maps[1:] if self.stacked else self.maps
        return {axis: along for axis, along in enumerate(along_axes) if along is not None}

    @property
    def layer_map(self) -> AxisMap | None:
        """The map of the stack, where there is one."""
        return self.maps[0] if self.stacked else None


def leaf_growth(plan: Plan | AxesPlan, spec: ParamSpec | PlacedRow, quantity: Quantity) -> LeafGrowth:
    """The part of a plan that concerns one parameter.

    Args:
        plan: from `make_plan` or `plan_axes`.
        spec: the parameter's row in the source's table.
        quantity: whether it moves as a weight or as a gradient.
    """
    weight = quantity == "weight"
    noise = plan.noise if weight else None
    return LeafGrowth(
        name=spec.name,
        stacked=spec.stacked,
        maps=plan.axis_maps(spec),
        quantity=quantity,
        seed=plan.seed,
        dtype=plan.stored_dtype if weight else None,
        codes=weight and spec.kernel and plan.keeps_codes,
        noise=leaf_noise(noise, spec.axes, dict(plan.maps)) if noise else None,
        # Gradients are linear in the maps, which are composed; what is drawn is not.
        steps=tuple(leaf_growth(step, spec, quantity) for step in plan.steps) if weight else (),
    )


def grow_stack(x: Float[Array, "..."], growth: LeafGrowth, spread: Spread | None = None) -> Float[Array, "..."]:
    """Every layer of one parameter grown; a parameter outside the stack counts as one layer.

    Args:
        x: the old array.
        growth: from `leaf_growth`.
        spread: how it lies on a mesh, if it does.
    """
    inner = spread.layer() if spread and growth.stacked else spread
    return over_layers(x, growth, lambda one, layer: grow_layer(one, growth, layer, inner))


def over_layers(
    x: Float[Array, "..."], growth: LeafGrowth, kernel: Callable[[Array, Array], Array]
) -> Float[Array, "..."]:
    """A function of one old layer and its index in the grown stack, for every layer of the grown stack.

    Args:
        x: the old array; outside the stack it counts as one layer.
        growth: from `leaf_growth`.
        kernel: from the old layer that is copied and the new index, int32, to the new layer.
    """
    if not growth.stacked:
        return kernel(x, jnp.int32(0))
    if growth.maps[0] is not None:
        x = jnp.take(x, growth.maps[0].gather, axis=0)
    return jax.vmap(kernel)(x, jnp.arange(x.shape[0], dtype=jnp.int32))


def grow_layer(
    x: Float[Array, "..."], growth: LeafGrowth, layer: Array, spread: Spread | None = None
) -> Float[Array, "..."]:
    """One layer of one parameter grown: gathered and scaled along each of its axes, fresh entries filled.

    Args:
        x: the old array of the layer that `layer` copies, without the stack axis.
        growth: from `leaf_growth`.
        layer: index in the grown stack, int32; 0 for parameters outside the stack. What is drawn depends on the
            plan's seed, the parameter's name and this.
        spread: how the layer lies on a mesh, if it does.
    """
    if growth.steps:
        return _in_steps(x, growth.steps, layer)
    maps = growth.inner
    # A result in float64 deserves scales in float64, whatever it grows from.
    wide = wide_dtype(x.dtype, growth.dtype or x.dtype)
    y = x
    for axis, along in maps.items():
        y = spread.take(y, along.gather, axis) if spread else jnp.take(y, along.gather, axis=axis)
    y = scaled(y, maps, growth.quantity, wide)
    draw = partial(draw_key, growth.seed, growth.name, layer)
    if growth.quantity == "weight":
        y = fill(y, maps, draw)
        if growth.codes and maps:
            y = keep_codes(x, y, maps, draw("codes"), growth.dtype or x.dtype)
    everywhere = None
    if growth.noise and growth.noise.noise.everywhere:
        everywhere = draw_noise_everywhere(y, maps, growth.layer_map, growth.noise, draw("noise"), layer)
    elif growth.noise:
        y = y.astype(wide) + draw_noise(y, maps, growth.noise, draw("noise"), layer)
    y = scaled_by_layer(y, growth, layer, wide)
    if everywhere is not None:
        y = y.astype(wide) + everywhere
    return y.astype(growth.dtype or x.dtype)


def scaled(
    y: Float[Array, "..."], maps: dict[int, AxisMap], quantity: Quantity, wide: jnp.dtype, first: Array | None = None
) -> Float[Array, "..."]:
    """Gathered entries times the factor of each of their axes, in the order of `maps`.

    Args:
        y: the entries.
        maps: the map along each axis.
        quantity: which of its factors.
        wide: dtype to multiply in.
        first: index of the first row in its axis' map, where `y` holds a run of rows only.
    """
    for axis, along in maps.items():
        factors = along.factors(quantity)
        if (factors != 1).any():
            vector = jnp.asarray(factors, wide)
            if axis == 0 and first is not None:
                vector = jax.lax.dynamic_slice_in_dim(vector, first, y.shape[0])
            y = y.astype(wide) * on_axis(vector, axis, y.shape)
    return y


def scaled_by_layer(y: Float[Array, "..."], growth: LeafGrowth, layer: Array, wide: jnp.dtype) -> Float[Array, "..."]:
    """One grown layer times the factor that the stack's map has for it."""
    if growth.layer_map is None or (growth.layer_map.factors(growth.quantity) == 1).all():
        return y
    factor = jnp.asarray(growth.layer_map.factors(growth.quantity), wide)[layer]
    return y.astype(wide) * jnp.broadcast_to(factor, y.shape)


def _in_steps(x: Float[Array, "..."], steps: tuple[LeafGrowth, ...], layer: Array) -> Float[Array, "..."]:
    """One layer grown several times over: the same layer of every stack on the way."""
    layers = [layer]
    for step in reversed(steps[1:]):
        along = step.maps[0] if step.stacked else None
        layers.append(layers[-1] if along is None else jnp.asarray(along.gather)[layers[-1]])
    for step, at in zip(steps, reversed(layers), strict=True):
        x = grow_layer(x, step, at)
    return x
