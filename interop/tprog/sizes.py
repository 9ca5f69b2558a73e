"""The named sizes, and the name of any size."""

import difflib
import math

from tprog.config import SIZE_FIELDS, ModelConfig
from tprog.errors import ConfigError
from tprog.params import param_specs

SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "test": (256, 4, 4, 4, 512),
    "125M": (768, 12, 12, 12, 3072),
    "350M": (1024, 24, 16, 16, 4096),
    "1B": (2048, 16, 16, 4, 5632),
    "3B": (2560, 26, 20, 4, 6912),
    "7B": (4096, 32, 32, 8, 11008),
    "10B": (4096, 40, 32, 8, 14336),
    "13B": (5120, 40, 40, 8, 13824),
    "30B": (6656, 60, 52, 4, 17920),
    "33B": (6912, 60, 54, 6, 18432),
    "40B": (8192, 60, 64, 8, 21760),
    "65B": (8192, 80, 64, 8, 22016),
    "70B": (8192, 80, 64, 8, 28672),
}
"""Hidden size, layers, query heads, key and value heads, feed-forward size, by name."""


def nearest_size(name: str, *, cutoff: float | None = None) -> str:
    """A question after the size that a word may have meant; empty where none is near.

    Args:
        name: the word.
        cutoff: how near a size must be, from 0 to 1; most of the word's letters where None.

    Example:
        >>> nearest_size("3C"), nearest_size("1.7M"), nearest_size("runs/3C.tprog")
        ('Did you mean 3B? ', '', '')
    """
    if cutoff is None:
        cutoff = 0.5 if len(name) <= 2 else 0.6
    lower = {size.lower(): size for size in SIZES}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff)
    return f"Did you mean {lower[near[0]]}? " if near else ""


def named_size(name: str) -> ModelConfig:
    """The configuration of a named size.

    Raises:
        ConfigError: there is no such size; the message names the nearest.

    Example:
        >>> named_size("3B").head_dim
        128
    """
    key = next((known for known in SIZES if known.lower() == name.lower()), None)
    if key is None:
        raise ConfigError(
            "size",
            expected=f"one of {', '.join(SIZES)}",
            got=repr(name),
            remedy=f"{nearest_size(name, cutoff=0.3)}`tritter sizes` lists them.",
        )
    hidden, layers, heads, kv_heads, mlp = SIZES[key]
    return ModelConfig(
        family="tritter",
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        intermediate_size=mlp,
    )


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters; tied embeddings count once.

    Example:
        >>> f"{count_parameters(named_size('3B')):,}"
        '2,124,812,800'
    """
    return sum(math.prod(spec.shape) for spec in param_specs(config))


def count_bytes(config: ModelConfig) -> int:
    """Bytes of the weights in `config.dtype`.

    Example:
        >>> count_bytes(named_size("test")) // count_parameters(named_size("test"))
        4
    """
    return count_parameters(config) * {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}[config.dtype]


def size_label(config: ModelConfig) -> str:
    """The named size whose dimensions these are, or else the number of parameters, such as `52M`.

    Example:
        >>> size_label(named_size("7B"))
        '7B'
    """
    dimensions = tuple(getattr(config, name) for name in SIZE_FIELDS if name != "head_dim")
    for name, size in SIZES.items():
        if size == dimensions:
            return name
    count = count_parameters(config)
    for unit, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= unit:
            amount = count / unit
            return f"{amount:.0f}{suffix}" if amount >= 10 else f"{amount:.1f}{suffix}"
    return str(count)
