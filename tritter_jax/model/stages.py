"""The forward pass in its stages, for those who look between the layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int
from tprog import ModelConfig

from tritter_jax.model.decoder import Decoder


@dataclass(frozen=True)
class Stages:
    """What `apply` does, cut at the layers: `finish(layer(L - 1, ... layer(0, first)))` are its logits.

    Args:
        first: the residual stream before the first layer.
        layer: from a layer's index, which may be traced, and the stream before that layer to the one behind it.
        finish: from the stream behind the last layer to logits.
    """

    first: Float[Array, "b s d"]
    layer: Callable[[Int[Array, ""], Float[Array, "b s d"]], Float[Array, "b s d"]]
    finish: Callable[[Float[Array, "b s d"]], Float[Array, "b s v"]]


def stages(
    params: Mapping[str, Any], tokens: Int[Array, "b s"], config: ModelConfig, *, dtype: str | None = None
) -> Stages:
    """The stages of one forward pass.

    Args:
        params: tree of arrays as `tprog.params` describes it.
        tokens: token ids below `vocab_size`.
        config: the configuration of `params`.
        dtype: dtype of the computation; that of the embedding when None.

    Raises:
        ParameterError: `params` is not a tree of `config`.

    Example:
        >>> import jax.numpy as jnp, tprog
        >>> from tritter_jax.model import apply, init_params
        >>> config = tprog.ModelConfig(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
        ...                            intermediate_size=48, vocab_size=64)
        >>> params, tokens = init_params(config), jnp.arange(6).reshape(1, 6)
        >>> cut = stages(params, tokens, config)
        >>> logits = cut.finish(cut.layer(jnp.int32(1), cut.layer(jnp.int32(0), cut.first)))
        >>> bool(jnp.allclose(logits, apply(params, tokens, config), atol=1e-6))
        True
    """
    model = Decoder.from_params(params, config, dtype=dtype)
    first, turn, mask = model.begin(tokens)
    graph, stacked = nnx.split(model.layers)

    def layer(index: Int[Array, ""], x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        one = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), stacked)
        return nnx.merge(graph, one)(x, turn, mask)

    return Stages(first=first, layer=layer, finish=model.finish)
