"""The forward pass with a layer in memory at a time, for models that are larger than what is free."""

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped
from tprog import ModelConfig, ParamSpec, param_specs
from tprog.buffers import aligned_empty
from tprog.params import Path, spec_of
from tprog.source import TensorSource, pieces_of, put_together
from tprog.tree import nest
from tprog.weights import InFiles, in_memory, read_into

from tritter_jax.dtypes import wide_dtype
from tritter_jax.model.decoder import visible_keys
from tritter_jax.model.layers import Block, matmul, rms_norm
from tritter_jax.model.rope import rotation
from tritter_jax.model.token_ids import check_token_ids

_VOCABULARY_CHUNK = 8192
_READERS = 4
"""Reads under way at a time; one does not use all that a disk gives."""
_HALVES = ("attention", "mlp")
"""Names under `layers` of what runs at a time."""


def logits_by_layer(
    weights: TensorSource, tokens: Int[np.ndarray, "b s"], config: ModelConfig, *, dtype: str | None = None
) -> Float[np.ndarray, "b s v"]:
    """Logits as `apply` gives them, computed in float32 (float64 for float64 weights) from tensors read in turn.

    The scale of ternary weights is not rounded to the dtype that they are stored in.

    Holds a layer, and then a part of the output layer, in the dtype they are stored in; of a file, half a layer is
    read while the other half runs. Products are full float32 products: by default a TPU multiplies in bfloat16 and a
    GPU in TF32, which is what would be measured.

    Args:
        weights: the model's tensors, such as an open checkpoint; of a file none is mapped but the embedding.
        tokens: token ids below `vocab_size`.
        config: the model.
        dtype: dtype to compute in instead; float32 or float64.

    Raises:
        UsageError: a token id is outside the vocabulary.
    """
    check_token_ids(tokens, config.vocab_size)
    with jax.default_matmul_precision("highest"):
        return _logits(weights, tokens, config, wide_dtype(dtype or config.dtype))


def _logits(
    weights: TensorSource, tokens: Int[np.ndarray, "b s"], config: ModelConfig, wide: jnp.dtype
) -> Float[np.ndarray, "b s v"]:
    embed = spec_of(config, "embed")
    x = jnp.asarray(_rows(weights, embed.hf_name, tokens.reshape(-1)).reshape(*tokens.shape, -1)).astype(wide)
    with closing(_halves(weights, config)) as halves:
        for half, tensors in halves:
            # Waited for: the memory of these tensors is read into next.
            x = jax.block_until_ready(_run_half(config, half, jax.device_put(tensors), x))
            del tensors
    x = _run_norm(config, jax.device_put(in_memory(weights, spec_of(config, "norm").hf_name)), x)
    output = (embed if config.tie_embeddings else spec_of(config, "lm_head")).hf_name
    parts = [
        np.asarray(_run_output(rows[start : start + _VOCABULARY_CHUNK], x))
        for rows in _row_blocks(weights, output)
        for start in range(0, len(rows), _VOCABULARY_CHUNK)
    ]
    return np.concatenate(parts, axis=-1)


def _halves(weights: TensorSource, config: ModelConfig) -> Generator[tuple[str, dict[Path, np.ndarray]], None, None]:
    """The names and the tensors of half a layer at a time, valid until the next are asked for.

    Every layer's lie in the same memory: new pages would take longer than all the rest.
    """
    params = {half: [spec for spec in param_specs(config) if _belongs(spec, half)] for half in _HALVES}
    coming = [
        (half, {param.path: param.hf_name.format(layer=layer) for param in params[half]})
        for layer in range(config.num_layers)
        for half in _HALVES
    ]
    specs = weights.specs
    memory: dict[Path, np.ndarray] = {}
    for path, name in (item for _, names in coming for item in names.items()):
        if path not in memory or memory[path].nbytes < specs[name].nbytes:
            memory[path] = aligned_empty((specs[name].nbytes,), np.dtype("uint8"))

    def place(path: Path, name: str) -> np.ndarray:
        spec = specs[name]
        return memory[path][: spec.nbytes].view(spec.dtype).reshape(spec.shape)

    if not isinstance(weights, InFiles):  # made by the processors that would run the model meanwhile
        for half, names in coming:
            made = {path: put_together(place(path, name), pieces_of(weights, name)) for path, name in names.items()}
            yield half, made
        return
    readers = ThreadPoolExecutor(_READERS)

    def begin(names: Mapping[Path, str]) -> dict[Path, Future[np.ndarray]]:
        return {path: readers.submit(read_into, place(path, name), weights, name) for path, name in names.items()}

    try:
        ahead = begin(coming[0][1])
        for (half, _), following in zip(coming, [*coming[1:], None], strict=True):
            tensors = {path: tensor.result() for path, tensor in ahead.items()}
            # The other half, whose memory nobody uses now.
            ahead = {} if following is None else begin(following[1])
            yield half, tensors
    finally:
        readers.shutdown(cancel_futures=True)


def _row_blocks(weights: TensorSource, name: str) -> Iterator[np.ndarray]:
    for piece in pieces_of(weights, name):
        yield piece.reshape(-1, *weights.specs[name].shape[1:])


def _rows(weights: TensorSource, name: str, indices: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n d"]:
    """Some rows of a tensor: of a file only their pages are mapped, of one that is made a block is held at a time."""
    if isinstance(weights, InFiles):
        return weights.tensor(name)[indices]
    spec, start = weights.specs[name], 0
    found = np.empty((len(indices), *spec.shape[1:]), spec.dtype)
    for rows in _row_blocks(weights, name):
        here = (indices >= start) & (indices < start + len(rows))
        found[here] = rows[indices[here] - start]
        start += len(rows)
    return found


def _belongs(spec: ParamSpec, half: str) -> bool:
    return spec.stacked and (spec.path[1] == half or spec.path[1] == f"{half}_norm")


@partial(jax.jit, static_argnums=(0, 1))
def _run_half(
    config: ModelConfig, half: str, tensors: Mapping[Path, Array], x: Float[Array, "b s d"]
) -> Float[Array, "b s d"]:
    specs = {spec.path: spec for spec in param_specs(config)}
    # The path below `layers` is the path inside a block.
    params = nest({path[1:]: specs[path].from_hf(_unrounded(config, x, tensor)) for path, tensor in tensors.items()})
    graph, state = _block(config)
    state = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(state, params)
    block = nnx.merge(graph, state)
    if half == "mlp":
        return block.add_mlp(x)
    tokens = jnp.zeros(x.shape[:2], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), tokens.shape)
    mask = visible_keys(tokens, None, config.sliding_window)
    return block.add_attention(x, rotation(config, positions, x.dtype), mask)


def _unrounded(config: ModelConfig, x: Float[Array, "b s d"], tensor: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """The scale of ternary weights gets the dtype of the weights."""
    return tensor.astype(x.dtype) if config.ternary else tensor


@partial(jax.jit, static_argnums=0)
def _run_norm(config: ModelConfig, gain: Float[Array, " d"], x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    return rms_norm(x, gain, config.norm_eps)


@jax.jit
def _run_output(rows: Float[Array, "v d"], x: Float[Array, "b s d"]) -> Float[Array, "b s v"]:
    return matmul(x, rows)


@lru_cache(maxsize=16)
def _block(config: ModelConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Block(config, jax.random.key(0))))
