"""The forward pass with one layer in memory at a time, for models that are larger than what is free."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from tprog import ModelConfig, param_specs
from tprog.params import Path, nest, spec_of

from tritter_jax.dtypes import wide_dtype
from tritter_jax.model.decoder import visible_keys
from tritter_jax.model.layers import Block, rms_norm
from tritter_jax.model.rope import rotation

_VOCABULARY_CHUNK = 8192
ReadTensor = Callable[[str], np.ndarray]
"""From a Hugging Face name to its tensor, such as a checkpoint's mapped views."""


def logits_by_layer(
    read: ReadTensor, tokens: Int[np.ndarray, "b s"], config: ModelConfig, *, dtype: str | None = None
) -> Float[np.ndarray, "b s v"]:
    """Logits as `apply` gives them, computed in float32 (float64 for float64 weights) from tensors read in turn.

    The scale of ternary weights is not rounded to the dtype that they are stored in.

    Holds one layer, and a part of the output layer, in the stored dtype and in the computed one. Products are full
    float32 products: by default a TPU multiplies in bfloat16 and a GPU in TF32, which is what would be measured.

    Args:
        read: gives each tensor under its Hugging Face name.
        tokens: token ids below `vocab_size`.
        config: the model.
        dtype: dtype to compute in instead; float32 or float64.
    """
    with jax.default_matmul_precision("highest"):
        return _logits(read, tokens, config, wide_dtype(dtype or config.dtype))


def _logits(
    read: ReadTensor, tokens: Int[np.ndarray, "b s"], config: ModelConfig, wide: jnp.dtype
) -> Float[np.ndarray, "b s v"]:
    embed = spec_of(config, "embed")
    # Rows are picked before anything is copied: of a mapped embedding, only the pages of these tokens are read.
    x = jnp.asarray(embed.from_hf(read(embed.hf_name))[tokens]).astype(wide)
    stacked = [spec for spec in param_specs(config) if spec.stacked]
    for layer in range(config.num_layers):
        tensors = {spec.path: read(spec.hf_name.format(layer=layer)) for spec in stacked}
        x = _run_layer(config, {path: jnp.asarray(tensor) for path, tensor in tensors.items()}, x)
    norm = spec_of(config, "norm")
    x = _run_norm(config, jnp.asarray(read(norm.hf_name)), x)
    output = read((embed if config.tie_embeddings else spec_of(config, "lm_head")).hf_name)
    parts = [
        np.asarray(_run_output(jnp.asarray(output[start : start + _VOCABULARY_CHUNK]), x))
        for start in range(0, config.vocab_size, _VOCABULARY_CHUNK)
    ]
    return np.concatenate(parts, axis=-1)


@partial(jax.jit, static_argnums=0)
def _run_layer(config: ModelConfig, tensors: Mapping[Path, Array], x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    specs = {spec.path: spec for spec in param_specs(config)}
    # The path below `layers` is the path inside a block.
    mine = {path[1:]: specs[path].from_hf(tensor) for path, tensor in tensors.items()}
    params = nest({path: leaf.astype(x.dtype) if config.ternary else leaf for path, leaf in mine.items()})
    graph, state = _block(config)
    state = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(state, params)
    tokens = jnp.zeros(x.shape[:2], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), tokens.shape)
    mask = visible_keys(tokens, None, config.sliding_window)
    return nnx.merge(graph, state)(x, rotation(config, positions, x.dtype), mask)


@partial(jax.jit, static_argnums=0)
def _run_norm(config: ModelConfig, gain: Float[Array, " d"], x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    return rms_norm(x, gain, config.norm_eps)


@jax.jit
def _run_output(rows: Float[Array, "v d"], x: Float[Array, "b s d"]) -> Float[Array, "b s v"]:
    return jnp.einsum("bsd,vd->bsv", x, rows.astype(x.dtype))


@lru_cache(maxsize=16)
def _block(config: ModelConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Block(config, jax.random.key(0))))
