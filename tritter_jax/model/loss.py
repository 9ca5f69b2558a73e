"""The loss of a language model, and its logits, without all of a large output layer at once."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from tprog import ModelConfig

from tritter_jax.dtypes import wide_dtype
from tritter_jax.model.decoder import Decoder
from tritter_jax.model.layers import matmul
from tritter_jax.model.remat import DEFAULT
from tritter_jax.sharding import splits_parameters

_CLASSES_AT_ONCE = 8192
"""Larger vocabularies are scored block by block."""


def token_losses(
    params: Mapping[str, Any],
    windows: Int[Array, "b s1"],
    config: ModelConfig,
    *,
    dtype: str | None = None,
    remat: str = DEFAULT,
) -> Float[Array, "b s"]:
    """Negative log-likelihood in nats of each window's tokens but the first, given those before.

    Args:
        params: tree of parameters.
        windows: token ids [B, S + 1].
        config: the model.
        dtype: dtype of the computation up to the logits; the loss is computed in at least float32.
        remat: what the backward pass computes again, a key of `tritter_jax.model.REMAT`.

    Raises:
        ParameterError: `params` is not a tree of `config`.

    Example:
        >>> import tprog
        >>> from tritter_jax.model import init_params
        >>> config = tprog.ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                            vocab_size=16)
        >>> token_losses(init_params(config), jnp.zeros((2, 5), jnp.int32), config).shape
        (2, 4)
    """
    model = Decoder.from_params(params, config, dtype=dtype, remat=remat)
    return cross_entropy(model.features(windows[:, :-1]), model.output, windows[:, 1:])


def cross_entropy(
    x: Float[Array, "b s d"], output: Float[Array, "v d"], labels: Int[Array, "b s"], *, blocks: int | None = None
) -> Float[Array, "b s"]:
    """-log softmax(x @ output.T)[label], at least in float32.

    Of a large vocabulary one block of logits at a time: the backward pass computes them again, and on a mesh that
    splits `output` no device ever holds it, or its logits, whole.

    Args:
        x: features [B, S, D].
        output: the output layer [V, D], in its own dtype; products are computed in that of `x`.
        labels: classes [B, S].
        blocks: number of blocks, a divisor of V; chosen by V when None.
    """
    classes = output.shape[0]
    blocks = _blocks(classes) if blocks is None else blocks
    wide = wide_dtype(x.dtype)
    if blocks == 1:
        return optax.softmax_cross_entropy_with_integer_labels(matmul(x, output).astype(wide), labels)
    # The gradient of the features adds up over the blocks, in the dtype that they have outside the loop.
    features, dtype = x.astype(wide), x.dtype
    rows = _in_blocks(output.astype(dtype), blocks)

    def score(inputs: tuple[Float[Array, "w d"], Int[Array, ""]]) -> tuple[Float[Array, "b s"], Float[Array, "b s"]]:
        rows, block = inputs
        logits = matmul(features.astype(dtype), rows).astype(wide)
        own = jnp.arange(logits.shape[-1], dtype=labels.dtype) * blocks + block
        labelled = labels[..., None] == jnp.broadcast_to(own, logits.shape)
        return jax.nn.logsumexp(logits, axis=-1), jnp.sum(jnp.where(labelled, logits, 0), axis=-1)

    numbers = jnp.arange(blocks, dtype=labels.dtype)
    totals, found = jax.lax.map(jax.checkpoint(score, prevent_cse=False), (rows, numbers))
    return jax.nn.logsumexp(totals, axis=0) - jnp.sum(found, axis=0)


def whole_logits(
    x: Float[Array, "b s d"], output: Float[Array, "v d"], *, blocks: int | None = None
) -> Float[Array, "b s v"]:
    """x @ output.T, of a large vocabulary block by block where a mesh splits `output`: no device ever holds it whole.

    Args:
        x: features [B, S, D].
        output: the output layer [V, D], in its own dtype; products are computed in that of `x`.
        blocks: number of blocks, a divisor of V; chosen by V and the mesh in use when None.
    """
    if blocks is None:
        blocks = _blocks(output.shape[0]) if splits_parameters() else 1
    dtype = x.dtype
    if blocks == 1:
        return matmul(x, output)
    features = x.astype(wide_dtype(dtype))  # as in `cross_entropy`
    parts = jax.lax.map(lambda rows: matmul(features.astype(dtype), rows), _in_blocks(output.astype(dtype), blocks))
    return jnp.moveaxis(parts, 0, -1).reshape(*x.shape[:-1], -1)


def _in_blocks(output: Float[Array, "v d"], blocks: int) -> Float[Array, "n w d"]:
    """Block j has the classes j, j + blocks, ...: a mesh axis that splits the vocabulary splits every block alike."""
    return jnp.moveaxis(output.reshape(-1, blocks, output.shape[1]), 1, 0)


def _blocks(classes: int) -> int:
    """The fewest blocks of at most `_CLASSES_AT_ONCE` classes; one where no such number divides the vocabulary."""
    fewest = -(-classes // _CLASSES_AT_ONCE)
    return next((blocks for blocks in range(fewest, 4 * fewest) if classes % blocks == 0), 1)
