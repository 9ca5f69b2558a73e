"""Rotary position embedding, in the half-split layout of the Hugging Face models.

Source: Su et al. 2021, "RoFormer", section 3.4.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from tprog import ModelConfig
from tprog.wavelengths import inverse_wavelengths

from tritter_jax.dtypes import wide_dtype


class Rotation(NamedTuple):
    """Cosine and sine of every position's angles."""

    cos: Float[Array, "b s 1 k"]
    sin: Float[Array, "b s 1 k"]


def rotation(config: ModelConfig, positions: Int[Array, "b s"], dtype: jnp.dtype) -> Rotation:
    """Cosines and sines for positions; the angles are computed in at least float32 and cast to `dtype` last."""
    wide = wide_dtype(dtype)
    frequency = jnp.asarray(inverse_wavelengths(config), wide)
    angles = positions.astype(wide)[..., None] * jnp.broadcast_to(frequency, (1, 1, frequency.size))
    angles = jnp.concatenate([angles, angles], axis=-1)[:, :, None, :]
    return Rotation(jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype))


def rotate(x: Float[Array, "b s h k"], by: Rotation) -> Float[Array, "b s h k"]:
    """Rotate the pairs (i, i + K/2) of every head by its position's angles."""
    first, second = jnp.split(x, 2, axis=-1)
    return x * by.cos + jnp.concatenate([-second, first], axis=-1) * by.sin
