"""The dtype in which sums and scales are computed."""

import jax.numpy as jnp


def wide_dtype(dtype: jnp.dtype | str) -> jnp.dtype:
    """float64 for float64, float32 for everything narrower.

    Example:
        >>> wide_dtype("bfloat16")
        dtype('float32')
    """
    return jnp.dtype("float64" if jnp.dtype(dtype) == jnp.float64 else "float32")
