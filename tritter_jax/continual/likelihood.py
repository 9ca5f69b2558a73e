"""Batches with labels, and the log-likelihood that scores are gradients of.

B rows, S labels in each, V classes or token ids
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, Shaped
from tprog import ModelConfig

from tritter_jax.dtypes import wide_dtype
from tritter_jax.model import Decoder, whole_logits

Numbers = Array | np.ndarray

LogitsOf = Callable[[Any, Shaped[Numbers, "b ..."]], Float[Array, "b ... v"]]
"""Logits [B, ..., V] of a tree of parameters and a batch of inputs [B, ...]; it is differentiated as it is."""


class Labelled(NamedTuple):
    """A batch: what goes into a model, what should come out, and what counts.

    Args:
        inputs: the model's inputs [B, ...]; token ids [B, S] of a language model.
        labels: classes or next tokens [B] or [B, S].
        weights: 1 where a label counts, 0 where it is padding, which must come after what counts in its row.
    """

    inputs: Shaped[Numbers, "b ..."]
    labels: Integer[Numbers, "b ..."]
    weights: Shaped[Numbers, "b ..."]


def language_logits(config: ModelConfig, dtype: str | None = None) -> LogitsOf:
    """A language model as the estimators take one.

    Args:
        config: the model.
        dtype: dtype of the computation; that of the parameters given when None.
    """

    def logits_of(params: Any, tokens: Shaped[Numbers, "b s"]) -> Float[Array, "b s v"]:
        model = Decoder.from_params(params, config, dtype=dtype)
        return whole_logits(model.features(jnp.asarray(tokens)), model.output)

    return logits_of


def windows_batch(windows: Integer[Numbers, "b s1"], weights: Shaped[Numbers, "b s"] | None = None) -> Labelled:
    """Rows of S + 1 token ids as S inputs and, moved by one, S labels.

    Example:
        >>> windows_batch(jnp.arange(4, dtype=jnp.int32)[None]).labels.tolist()
        [[1, 2, 3]]
    """
    labels = windows[:, 1:]
    return Labelled(windows[:, :-1], labels, np.ones(labels.shape, np.float32) if weights is None else weights)


def log_likelihood(
    logits: Float[Array, "b *s v"], labels: Integer[Numbers, "b *s"], weights: Shaped[Numbers, "b *s"]
) -> Float[Array, ""]:
    """Sum over the labels that count of log p(label), in nats, computed in at least float32.

    Example:
        >>> logits, labels = jnp.zeros((1, 2, 4)), jnp.array([[3, 0]])
        >>> round(float(log_likelihood(logits, labels, jnp.array([[1.0, 0.0]]))), 4)
        -1.3863
    """
    wide = logits.astype(wide_dtype(logits.dtype))
    loss = jnp.where(weights.astype(bool), optax.softmax_cross_entropy_with_integer_labels(wide, labels), 0)
    return -jnp.sum(loss)
