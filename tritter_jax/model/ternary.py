"""BitNet b1.58 arithmetic: ternary weights and 8-bit activations, both found anew at every use.

Source: Ma et al. 2024, "The Era of 1-bit LLMs", section 2 (absmean weights), and Wang et al. 2023, "BitNet",
section 2.1 (absmax activations). Gradients pass straight through the rounding.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tritter_jax.dtypes import wide_dtype

_SMALLEST_SCALE = 1e-5


@jax.custom_vjp
def _straight_through(x: Float[Array, "..."], rounded: Float[Array, "..."]) -> Float[Array, "..."]:
    return rounded


_straight_through.defvjp(lambda x, rounded: (rounded, None), lambda _, gradient: (gradient, jnp.zeros_like(gradient)))


def quantize_weight(weight: Float[Array, "..."]) -> Float[Array, "..."]:
    """Round a whole tensor to {-m, 0, m}, m the mean of its absolute values; computed in at least float32."""
    wide = weight.astype(wide_dtype(weight.dtype))
    scale = 1 / jnp.maximum(jnp.mean(jnp.abs(wide)), _SMALLEST_SCALE)
    codes = jnp.clip(jnp.round(wide * jnp.broadcast_to(scale, wide.shape)), -1, 1)
    return _straight_through(weight, (codes / jnp.broadcast_to(scale, wide.shape)).astype(weight.dtype))


def quantize_activations(x: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """Round to 255 levels of the largest absolute value along `axes`; computed in at least float32."""
    wide = x.astype(wide_dtype(x.dtype))
    largest = jnp.max(jnp.abs(wide), axis=axes, keepdims=True)
    scale = 127 / jnp.maximum(largest, _SMALLEST_SCALE)
    return _straight_through(x, (jnp.clip(jnp.round(wide * scale), -128, 127) / scale).astype(x.dtype))
