"""Token ids that a model has no row for: looked up all the same, they would give NaN, or another token's row."""

from typing import Any

import numpy as np
from jax.core import Tracer
from jaxtyping import Shaped
from tprog import UsageError


def check_token_ids(tokens: Shaped[Any, "..."], vocab_size: int, where: str = "tokens") -> None:
    """Refuse ids outside the vocabulary. Traced arrays, which have no values yet, are passed over.

    Args:
        tokens: token ids, of jax or numpy.
        vocab_size: number of rows of the embedding.
        where: what to call them in the message.

    Raises:
        UsageError: an id is negative, or not below `vocab_size`.

    Example:
        >>> check_token_ids(np.array([[0, 64]]), 64)
        Traceback (most recent call last):
        tprog.errors.UsageError: tokens: expected token ids from 0 to 63, the model's vocab_size being 64, got the id
        64. Encode with the model's own tokenizer.
    """
    # What other processes hold, they look at.
    if isinstance(tokens, Tracer) or not getattr(tokens, "is_fully_addressable", True):
        return
    ids = np.asarray(tokens)
    if not ids.size:
        return
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= vocab_size:
        raise UsageError(
            where,
            expected=f"token ids from 0 to {vocab_size - 1}, the model's vocab_size being {vocab_size}",
            got=f"the id {least if least < 0 else most}",
            remedy="Encode with the model's own tokenizer.",
        )
