"""Sampling from a model, with the keys and values of earlier positions kept."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key
from tprog import ModelConfig, UsageError

from tritter_jax.model.decoder import Decoder
from tritter_jax.model.layers import KeysValues
from tritter_jax.model.rope import rotation
from tritter_jax.model.token_ids import check_token_ids

Cache = tuple[Float[Array, "l b t n k"], Float[Array, "l b t n k"]]
"""Keys and values of all layers."""


def generate(
    params: Mapping[str, Any],
    prompt: Int[Array, "b p"],
    config: ModelConfig,
    *,
    length: int,
    key: Key[Array, ""],
    temperature: float = 1.0,
    top_k: int = 0,
    dtype: str | None = None,
) -> Int[Array, "b n"]:
    """Sample `length` tokens after each prompt.

    Args:
        params: tree of parameters.
        prompt: token ids, all prompts of one length.
        config: the model.
        length: number of tokens to add.
        key: key of the draws.
        temperature: 0 takes the likeliest token each time.
        top_k: draw among the likeliest k only; 0 for all.
        dtype: dtype of the computation; that of the embedding when None.

    Returns:
        The tokens after the prompts, [B, length].

    Raises:
        UsageError: the prompt is empty or holds an id outside the vocabulary, or prompt and answer are longer than
            the model was made for.
        ParameterError: `params` is not a tree of `config`.

    Example:
        >>> import tprog
        >>> from tritter_jax.model import init_params
        >>> config = tprog.ModelConfig(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
        ...                            intermediate_size=48, vocab_size=64)
        >>> prompt = jnp.zeros((1, 3), jnp.int32)
        >>> generate(init_params(config), prompt, config, length=5, key=jax.random.key(0)).shape
        (1, 5)
    """
    given, most = prompt.shape[1], config.max_position_embeddings
    if not 0 < length < most:
        raise UsageError(
            "length", expected=f"1 to {most - 1} tokens, as the model has {most} positions", got=length,
            remedy="Ask for fewer tokens." if length > 0 else "Ask for more tokens.",
        )  # fmt: skip
    if not 0 < given <= most - length:
        raise UsageError(
            "prompt", expected=f"1 to {most - length} tokens, with {length} to come", got=given,
            remedy="Shorten the prompt, or ask for fewer tokens." if given else "Write something to go on from.",
        )  # fmt: skip
    check_token_ids(prompt, config.vocab_size, "prompt")
    return _sample(params, prompt, key, config, length, temperature, top_k, dtype)


@partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _sample(
    params: Mapping[str, Any],
    prompt: Int[Array, "b p"],
    key: Key[Array, ""],
    config: ModelConfig,
    length: int,
    temperature: float,
    top_k: int,
    dtype: str | None,
) -> Int[Array, "b n"]:
    model = Decoder.from_params(params, config, dtype=dtype)
    logits, cache = _advance(
        model, prompt, jnp.int32(0), _empty_cache(model, prompt.shape[0], prompt.shape[1] + length)
    )
    keys = jax.random.split(key, length)
    token = _draw(logits, keys[0], temperature, top_k)

    def one(carry: tuple[Int[Array, " b"], Array, Cache], own: Key[Array, ""]) -> tuple[Any, Int[Array, " b"]]:
        token, at, cache = carry
        logits, cache = _advance(model, token[:, None], at, cache)
        following = _draw(logits, own, temperature, top_k)
        return (following, at + 1, cache), following

    _, rest = jax.lax.scan(one, (token, jnp.int32(prompt.shape[1]), cache), keys[1:])
    return jnp.concatenate([token[:, None], rest.T], axis=1)


def _empty_cache(model: Decoder, batch: int, length: int) -> Cache:
    config = model.config
    shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
    dtype = model.dtype or model.embed[...].dtype
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def _advance(
    model: Decoder, tokens: Int[Array, "b s"], start: Int[Array, ""], cache: Cache
) -> tuple[Float[Array, "b v"], Cache]:
    """Run the positions from `start` on; gives the logits after the last of them, and the cache with them in it."""
    config = model.config
    embed = model.embed[...]
    x = jnp.take(embed, tokens, axis=0).astype(model.dtype or embed.dtype)
    query = start + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    turn = rotation(config, jnp.broadcast_to(query, tokens.shape), x.dtype)
    kept = cache[0].shape[2]
    distance = query[:, None] - jnp.arange(kept, dtype=jnp.int32)[None, :]
    seen = distance >= 0
    if config.sliding_window is not None:
        seen &= distance < config.sliding_window
    mask = jnp.broadcast_to(seen, (tokens.shape[0], 1, tokens.shape[1], kept))
    graph, stacked = nnx.split(model.layers)

    def layer(x: Float[Array, "b s d"], inputs: Any) -> tuple[Float[Array, "b s d"], KeysValues]:
        state, before = inputs
        after: list[KeysValues] = []

        def store(now: KeysValues) -> KeysValues:
            place = (jnp.int32(0), start, jnp.int32(0), jnp.int32(0))
            keys, values = (
                jax.lax.dynamic_update_slice(old, new, place) for old, new in zip(before, now, strict=True)
            )
            after.append((keys, values))
            return keys, values

        y = nnx.merge(graph, state)(x, turn, mask, store)
        return y, after[0]

    x, cache = jax.lax.scan(layer, x, (stacked, cache))
    return model.finish(x[:, -1:])[:, 0], cache


def _draw(logits: Float[Array, "b v"], key: Key[Array, ""], temperature: float, top_k: int) -> Int[Array, " b"]:
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if top_k:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits >= jnp.broadcast_to(least, logits.shape), logits, -jnp.inf)
    return jax.random.categorical(key, logits / jnp.asarray(temperature, logits.dtype), axis=-1).astype(jnp.int32)
