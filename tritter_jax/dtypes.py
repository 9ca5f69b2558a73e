"""The dtype in which sums and scales are computed, and whether JAX will keep it."""

import jax
import jax.numpy as jnp
from tprog import UsageError


def wide_dtype(*dtypes: jnp.dtype | str) -> jnp.dtype:
    """float64 where one of the dtypes is, float32 for everything narrower.

    Example:
        >>> wide_dtype("bfloat16")
        dtype('float32')
    """
    return jnp.dtype("float64" if any(jnp.dtype(dtype) == jnp.float64 for dtype in dtypes) else "float32")


def require_precision(dtype: jnp.dtype | str) -> None:
    """Refuse float64 where JAX would narrow it to float32 without a word.

    Raises:
        UsageError: `dtype` is float64 and JAX is not set to compute in it.
    """
    if jnp.dtype(dtype) == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise UsageError(
            "float64",
            expected="JAX to compute in float64",
            got="its default, which would narrow to float32",
            remedy='Set JAX_ENABLE_X64=1, or work inside "with jax.enable_x64(True):".',
        )
