"""What checks the annotations of tprog and tritter_jax while the tests run; users pay nothing for it.

Named by `--jaxtyping-packages` in pyproject.toml: jaxtyping checks shapes and dtypes, beartype everything else.
"""

from collections.abc import Callable

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float


def check(function: Callable) -> Callable:
    """Check a function's arguments and result on every call."""
    try:
        return _beartype(function)
    except BeartypeDecorHintPep673Exception:  # `Self` is only known to a class decorated as a whole
        return function
