"""What the Fisher information is, written out: no sum is shortened, and nothing but models is shared."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tprog import FAMILIES, ModelConfig

from tests.support import random_params
from tritter_jax.model import apply

VOCAB = 16


def tiny_config(family: str = "llama", **changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "family": family,
        "hidden_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 4,
        "intermediate_size": 12,
        "vocab_size": VOCAB,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
        "dtype": "float64",
    }
    return ModelConfig(**(values | changes))


MODELS: dict[str, dict[str, Any]] = {family: {"family": family} for family in FAMILIES} | {
    "tied": {"tie_embeddings": True}
}
"""Every family, and embeddings that are used twice."""


@lru_cache(maxsize=64)
def tiny_params(config: ModelConfig) -> dict:
    return random_params(config)


@lru_cache(maxsize=64)
def _log_p(config: ModelConfig):
    return jax.jit(lambda params, inputs: jax.nn.log_softmax(apply(params, inputs, config)))


def log_p(params: dict, inputs: np.ndarray, config: ModelConfig) -> jax.Array:
    """Log-probability [B, S, V] of every next token."""
    return _log_p(config)(params, jnp.asarray(inputs))


@lru_cache(maxsize=64)
def _scores(config: ModelConfig):
    return jax.jit(jax.jacrev(lambda params, inputs: jax.nn.log_softmax(apply(params, inputs, config))))


def scores(params: dict, inputs: np.ndarray, config: ModelConfig) -> list[dict]:
    """Gradients of `log_p`, a row of the batch at a time: leaves [1, S, V, ...]."""
    return [_scores(config)(params, jnp.asarray(row)[None]) for row in inputs]


def exact_fisher(params: dict, inputs: np.ndarray, config: ModelConfig) -> dict:
    """The true Fisher information per token: the expectation over all labels of each token, one by one."""
    p = np.exp(log_p(params, inputs, config))

    def leaf(*rows: jax.Array) -> np.ndarray:
        squares = [np.einsum("sv,sv...->...", p[i], np.asarray(row[0]) ** 2) for i, row in enumerate(rows)]
        return np.sum(squares, 0) / inputs.size

    return jax.tree.map(leaf, *scores(params, inputs, config))


def true_label_squares(params: dict, windows: np.ndarray, weights: np.ndarray, config: ModelConfig, by: str) -> dict:
    """Squares of gradients of true labels, summed before the square over each `token`, `row` or the `batch`."""
    rows = []
    for scored, window, weight in zip(scores(params, windows[:, :-1], config), windows, weights, strict=True):
        place = (0, np.arange(len(weight)), window[1:])
        rows.append(
            jax.tree.map(lambda leaf, place=place, w=weight: np.einsum("s,s...->s...", w, leaf[place]), scored)
        )

    def leaf(*tokens: np.ndarray) -> np.ndarray:
        each = np.stack(tokens)  # [B, S, ...]
        axes = {"token": (), "row": (1,), "batch": (0, 1)}[by]
        return (each.sum(axes, keepdims=True) ** 2).sum((0, 1)) / weights.sum()

    return jax.tree.map(leaf, *rows)


def vector(tree: object) -> np.ndarray:
    """All leaves as one float64 vector."""
    return np.concatenate([np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(tree)])


def off(found: object, true: object) -> float:
    """Relative difference in L1."""
    one, other = vector(found), vector(true)
    return float(np.abs(one - other).sum() / np.abs(other).sum())
