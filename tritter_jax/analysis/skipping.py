"""The loss of a model some of whose layers are left out."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped
from tprog import ModelConfig, UsageError

from tritter_jax.analysis.importance import Batches
from tritter_jax.continual.likelihood import log_likelihood
from tritter_jax.model import check_token_ids, stages


def losses_without(
    params: Mapping[str, Any],
    batches: Batches,
    config: ModelConfig,
    sets: Sequence[Sequence[int]],
    *,
    dtype: str | None = None,
) -> list[float]:
    """Losses of the model without each of several sets of layers, all measured on the same batches.

    Args:
        params: tree of parameters.
        batches: windows of token ids, and weights.
        config: the model.
        sets: the layers left out together; none for the whole model.
        dtype: dtype of the computation; that of the parameters when None.

    Returns:
        For each set the mean negative log-likelihood, in nats a token.

    Raises:
        UsageError: a layer is none that the model has, or there are no batches.

    Example:
        >>> import numpy as np, tprog
        >>> from tritter_jax.model import init_params
        >>> config = tprog.ModelConfig(hidden_size=8, num_layers=3, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                            vocab_size=16)
        >>> batch = (np.arange(18, dtype=np.int32).reshape(2, 9) % 16, np.ones((2, 8)))
        >>> whole, less = losses_without(init_params(config), [batch], config, [[], [0, 2]])
        >>> whole != less
        True
    """
    outside = sorted({layer for layers in sets for layer in layers if not 0 <= layer < config.num_layers})
    if outside:
        raise UsageError(
            "layers", expected=f"numbers from 0 to {config.num_layers - 1}", got=outside[0], remedy="Mend them."
        )
    kept = jnp.asarray([[layer not in layers for layer in range(config.num_layers)] for layers in sets])
    step = _program(config, dtype)
    sums, tokens = [0.0] * len(sets), 0
    for windows, weights in batches:
        check_token_ids(windows, config.vocab_size, "batches")
        found = step(params, jnp.asarray(windows), jnp.asarray(weights), kept)
        sums = [total + float(nll) for total, nll in zip(sums, found, strict=True)]
        tokens += int(np.count_nonzero(weights))
    if not tokens:
        raise UsageError("--data", expected="some tokens", got="none", remedy="Give more text.")
    return [total / tokens for total in sums]


@lru_cache(maxsize=16)
def _program(config: ModelConfig, dtype: str | None) -> Callable[..., Float[Array, " n"]]:
    return jax.jit(partial(_nll, config=config, dtype=dtype))


def _nll(
    params: Any,
    windows: Int[Array, "b s1"],
    weights: Shaped[Array, "b s"],
    kept: Bool[Array, "n l"],
    *,
    config: ModelConfig,
    dtype: str | None,
) -> Float[Array, " n"]:
    cut = stages(params, windows[:, :-1], config, dtype=dtype)
    layers = jnp.arange(config.num_layers, dtype=jnp.int32)

    def one(kept_L: Bool[Array, " l"]) -> Float[Array, ""]:
        def layer(x: Float[Array, "b s d"], place: tuple[Any, Any]) -> tuple[Float[Array, "b s d"], None]:
            number, keep = place
            return jax.lax.cond(keep, partial(cut.layer, number), lambda x: x, x), None

        x, _ = jax.lax.scan(layer, cut.first, (layers, kept_L))
        return -log_likelihood(cut.finish(x), windows[:, 1:], weights)

    return jax.lax.map(one, kept)
