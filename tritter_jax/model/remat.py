"""What of a layer is stored for the backward pass, and what it computes again; a row in `REMAT` each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from tprog import ModelConfig

ATTENTION = "attention"
"""Name under which `jax.checkpoint` knows the products of the attention with its parameters."""
DEFAULT = "dots"
"""The row that is taken where the caller names none."""

_policies = jax.checkpoint_policies


@dataclass(frozen=True, kw_only=True)
class Remat:
    """One choice of what is stored; the result is the same with each, its gradients up to rounding.

    Args:
        saveable: the policy, as `jax.checkpoint` takes it.
        entries: entries stored for a token in a layer, about; given the configuration, the length of a sequence, and
            the devices along the tensor axis.
        recomputed: share of a layer's products with parameters that is computed again, given the configuration.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 3.

    Example:
        >>> from tprog import named_size
        >>> {name: round(row.recomputed(named_size("3B")), 2) for name, row in REMAT.items()}
        {'none': 0, 'dots': 0, 'attention': 0.51, 'full': 0.74}
    """

    saveable: Callable[..., Any]
    entries: Callable[[ModelConfig, int, int], float]
    recomputed: Callable[[ModelConfig], float]


def _attention(config: ModelConfig, length: int, tensor: int) -> float:
    return config.hidden_size * 2 + (config.num_heads + 2 * config.num_kv_heads) * config.head_dim / tensor


def _dots(config: ModelConfig, length: int, tensor: int) -> float:
    return _attention(config, length, tensor) + 2 * config.intermediate_size / tensor


def _all(config: ModelConfig, length: int, tensor: int) -> float:
    """The above, normed inputs, activations, and scores in float32 with their softmax."""
    return 2 * _dots(config, length, tensor) + 3 * config.num_heads * length / tensor


def _share(config: ModelConfig, *, attention: int) -> float:
    """The last product of a layer, `down`, is never needed again: no gradient asks for what it gives."""
    products = 2 * (config.num_heads + config.num_kv_heads) * config.head_dim
    mlp = config.intermediate_size
    return (attention * products + 2 * mlp) / (products + 3 * mlp)


REMAT: dict[str, Remat] = {
    "none": Remat(saveable=_policies.everything_saveable, entries=_all, recomputed=lambda config: 0),
    "dots": Remat(saveable=_policies.dots_with_no_batch_dims_saveable, entries=_dots, recomputed=lambda config: 0),
    "attention": Remat(
        saveable=_policies.save_only_these_names(ATTENTION), entries=_attention,
        recomputed=lambda config: _share(config, attention=0),
    ),
    "full": Remat(
        saveable=_policies.nothing_saveable, entries=lambda config, length, tensor: config.hidden_size,
        recomputed=lambda config: _share(config, attention=1),
    ),
}  # fmt: skip
"""Every policy by name, the one that stores most first.

- `none`: everything is stored.
- `dots`: products with parameters are stored; attention's weights and what goes entry by entry is computed again.
- `attention`: of these products only those of the attention are stored; those of the feed-forward layer, which are
  wider, are computed again.
- `full`: nothing but a layer's input is stored.
"""
