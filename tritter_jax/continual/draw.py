"""Labels drawn from what a model predicts: cheaply, since a whole vocabulary is drawn from for every token.

`jax.random.categorical` makes a random number for every class. Here it is one for every label: the inverse of the
cumulative distribution, found among blocks of classes first and then within one (Devroye 1986, "Non-Uniform Random
Variate Generation", section III.2).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

_BLOCK = 64


def draw_labels(key: PRNGKeyArray, probabilities: Float[Array, "*s v"]) -> Int[Array, "*s"]:
    """One class for each distribution.

    Args:
        key: of the draws.
        probabilities: [..., V], float32 or float64; each row is divided by its sum. A class is drawn with its
            probability to the dtype's precision: about 1e-7 in float32.

    Returns:
        Classes [...], int32.

    Example:
        >>> draw_labels(jax.random.key(0), jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.5]])).tolist()
        [1, 2]
    """
    classes = probabilities.shape[-1]
    blocks = -(-classes // _BLOCK)
    padding = [(0, 0)] * (probabilities.ndim - 1) + [(0, blocks * _BLOCK - classes)]
    by_block = jnp.pad(probabilities, padding).reshape(*probabilities.shape[:-1], blocks, _BLOCK)
    upto = jnp.cumsum(jnp.sum(by_block, -1), -1)
    sought = jax.random.uniform(key, probabilities.shape[:-1], probabilities.dtype) * upto[..., -1]
    block, before = _first_above(upto, sought)
    within = jnp.take_along_axis(by_block, block[..., None, None], -2)[..., 0, :]
    place, _ = _first_above(jnp.cumsum(within, -1), sought - before)
    return jnp.minimum(block * _BLOCK + place, classes - 1)


def _first_above(
    rising: Float[Array, "*s n"], sought: Float[Array, "*s"]
) -> tuple[Int[Array, "*s"], Float[Array, "*s"]]:
    """Where a rising row first passes a number, the last place it rises at the latest; and its value before that."""
    passed = rising <= jnp.minimum(sought, jnp.nextafter(rising[..., -1], jnp.zeros_like(sought)))[..., None]
    place = jnp.sum(passed, -1, dtype=jnp.int32)
    return place, jnp.max(jnp.where(passed, rising, 0), -1)
