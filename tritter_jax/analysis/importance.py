"""What each layer does for the loss: measured in one pass over the data, one jitted program a batch.

Block influence is one less the cosine of what goes into a layer and what comes out of it (Men et al. 2024,
"ShortGPT", equation 1). The loss without a layer is measured for every layer in turn: what lies below the layer left
out is computed once for all of them, so that this costs half as many forward passes as there are layers.

B rows, S tokens scored in each, D hidden, L layers
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Shaped
from tprog import ModelConfig, UsageError, VerificationError

from tritter_jax.continual.likelihood import Numbers, log_likelihood
from tritter_jax.dtypes import wide_dtype
from tritter_jax.model import check_token_ids, stages

METHOD = "loss when skipped"
"""What importance scores are made of, as progressive.json says it."""
FEWEST_TOKENS = 1000
"""Losses of fewer tokens than these differ by chance more than layers do."""
_SHARE = 8

Batches = Iterable[tuple[Shaped[Numbers, "b s1"], Shaped[Numbers, "b s"]]]
"""Rows of S + 1 token ids, and 1 where the token to be predicted counts."""


class _Sums(NamedTuple):
    """Sums over the tokens that count."""

    tokens: Shaped[Numbers, ""]
    nll: Shaped[Numbers, ""]
    skipped: Shaped[Numbers, " l"]
    influence: Shaped[Numbers, " l"]
    norm: Shaped[Numbers, " l1"]


@dataclass(frozen=True, kw_only=True)
class LayerMeasures:
    """What was measured of every layer, first to last.

    Args:
        tokens: number of tokens scored.
        loss: of the whole model, nats a token.
        loss_when_skipped: of the model without that one layer.
        block_influence: one less the cosine of a layer's input and output, from 0 to 2.
        residual_norms: root mean square of the residual stream before each layer, and behind the last.
    """

    tokens: int
    loss: float
    loss_when_skipped: tuple[float, ...]
    block_influence: tuple[float, ...]
    residual_norms: tuple[float, ...]

    @property
    def scores(self) -> list[float]:
        """Importance from 0 to 1: the share of a token's probability, as a geometric mean, that leaving it out costs.

        Example:
            >>> measures = LayerMeasures(tokens=9, loss=1.0, loss_when_skipped=(1.0 + math.log(4), 0.9),
            ...                          block_influence=(1.0, 0.1), residual_norms=(1.0, 1.0, 1.0))
            >>> measures.scores
            [0.75, 0.0]
        """
        return [round(1 - math.exp(min(0.0, self.loss - without)), 6) for without in self.loss_when_skipped]


def measure_layers(
    params: Mapping[str, Any],
    batches: Batches,
    config: ModelConfig,
    *,
    dtype: str | None = None,
    report: Callable[[int], None] = lambda rows: None,
) -> LayerMeasures:
    """Measure every layer on batches, each of which is gone through once.

    Args:
        params: tree of parameters.
        batches: windows of token ids, and weights.
        config: the model.
        dtype: dtype of the computation; that of the parameters when None. Cosines and losses are at least float32.
        report: told the number of rows so far after every batch.

    Raises:
        UsageError: the batches hold fewer than `FEWEST_TOKENS` tokens, or an id outside the vocabulary.
        VerificationError: a loss is not finite.

    Example:
        >>> import tprog
        >>> from tritter_jax.model import init_params
        >>> config = tprog.ModelConfig(hidden_size=8, num_layers=3, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                            vocab_size=16)
        >>> windows = jax.random.randint(jax.random.key(0), (40, 33), 0, 16)
        >>> found = measure_layers(init_params(config), [(windows, np.ones((40, 32)))], config)
        >>> found.tokens, len(found.scores), len(found.residual_norms)
        (1280, 3, 4)
    """
    step = _program(config, dtype)
    total: list[Float64[np.ndarray, "..."]] = []
    rows = 0
    for windows, weights in batches:
        check_token_ids(windows, config.vocab_size, "batches")
        sums = step(params, jnp.asarray(windows), jnp.asarray(weights))
        # Summed in float64 on the host: a batch is small, a corpus need not be.
        found = [np.asarray(leaf, np.float64) for leaf in sums]
        total = [one + other for one, other in zip(total, found, strict=True)] if total else found
        rows += len(windows)
        report(rows)
    tokens = int(total[0]) if total else 0
    if tokens < FEWEST_TOKENS:
        raise UsageError(
            "--data", expected=f"at least {FEWEST_TOKENS:,} tokens to tell layers apart", got=f"{tokens:,}",
            remedy="Give more text, more --samples, or --all to use the training documents too.",
        )  # fmt: skip
    _, nll, skipped, influence, norm = (leaf / tokens for leaf in total)
    bad = [i for i, value in enumerate((nll, *skipped)) if not np.isfinite(value)]
    if bad:
        what = "the whole model" if bad[0] == 0 else f"the model without layer {bad[0] - 1}"
        raise VerificationError(
            f"loss of {what}", expected="a finite number", got="NaN or infinity",
            remedy="Look at the weights (`tritter verify`), or compute in float32.",
        )  # fmt: skip
    return LayerMeasures(
        tokens=tokens,
        loss=float(nll),
        loss_when_skipped=tuple(skipped.tolist()),
        block_influence=tuple(influence.tolist()),
        residual_norms=tuple(norm.tolist()),
    )


def notable_layers(scores: Sequence[float]) -> tuple[list[int], list[int]]:
    """The layers that matter least and those that matter most, an eighth of the stack each; no layer is both.

    Example:
        >>> notable_layers([0.9, 0.2, 0.1, 0.5])
        ([2], [0])
        >>> [len(layers) for layers in notable_layers([0.1] * 26)]
        [3, 3]
    """
    count = max(1, round(len(scores) / _SHARE))
    order = sorted(range(len(scores)), key=lambda layer: (scores[layer], layer))
    critical = order[-count:]
    return sorted(layer for layer in order[:count] if layer not in critical), sorted(critical)


@lru_cache(maxsize=16)
def _program(config: ModelConfig, dtype: str | None) -> Callable[..., _Sums]:
    return jax.jit(partial(_measure, config=config, dtype=dtype))


def _measure(
    params: Any,
    windows: Int[Array, "b s1"],
    weights: Shaped[Array, "b s"],
    *,
    config: ModelConfig,
    dtype: str | None,
) -> _Sums:
    cut = stages(params, windows[:, :-1], config, dtype=dtype)
    layers = jnp.arange(config.num_layers, dtype=jnp.int32)
    wide = wide_dtype(cut.first.dtype)
    counts = weights.astype(wide)

    def nll(x_BSD: Float[Array, "b s d"]) -> Float[Array, ""]:
        return -log_likelihood(cut.finish(x_BSD), windows[:, 1:], weights)

    def norm(x_BSD: Float[Array, "b s d"]) -> Float[Array, ""]:
        return jnp.sum(counts * jnp.sqrt(jnp.mean(jnp.square(x_BSD), axis=-1)))

    def forward(x_BSD: Float[Array, "b s d"], layer: Int[Array, ""]) -> tuple[Any, Any]:
        y_BSD = cut.layer(layer, x_BSD)
        one, other = x_BSD.astype(wide), y_BSD.astype(wide)
        product = jnp.sum(one * other, axis=-1)
        lengths = jnp.sqrt(jnp.sum(jnp.square(one), axis=-1) * jnp.sum(jnp.square(other), axis=-1))
        cosine = product / jnp.maximum(lengths, jnp.finfo(wide).tiny)
        return y_BSD, (x_BSD, jnp.sum(counts * (1 - cosine)), norm(one))

    last, (before_LBSD, influence, norms) = jax.lax.scan(forward, cut.first, layers)

    def without(place: tuple[Int[Array, ""], Float[Array, "b s d"]]) -> Float[Array, ""]:
        layer, x_BSD = place
        return nll(jax.lax.fori_loop(layer + 1, config.num_layers, cut.layer, x_BSD))

    return _Sums(
        tokens=jnp.sum(weights.astype(bool), dtype=jnp.int32),
        nll=nll(last),
        skipped=jax.lax.map(without, (layers, before_LBSD)),
        influence=influence,
        norm=jnp.append(norms, norm(last.astype(wide))),
    )
