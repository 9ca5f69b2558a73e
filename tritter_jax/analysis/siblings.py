"""Shapes that were published: a model's next larger sibling, or else its own proportions, larger."""

from dataclasses import replace

from tprog import ModelConfig
from tprog.config import SIZE_FIELDS

Shape = tuple[int, int, int, int, int, int]
"""`SIZE_FIELDS`: hidden size, layers, query heads, key and value heads, width of a head, feed-forward size."""

PUBLISHED: dict[str, tuple[Shape, ...]] = {
    "SmolLM2": ((576, 30, 9, 3, 64, 1536), (960, 32, 15, 5, 64, 2560), (2048, 24, 32, 32, 64, 8192)),
    "Llama 3": ((4096, 32, 32, 8, 128, 14336), (8192, 80, 64, 8, 128, 28672)),
    "Llama 3.2": ((2048, 16, 32, 8, 64, 8192), (3072, 28, 24, 8, 128, 8192)),
    "Qwen2.5": (
        (896, 24, 14, 2, 64, 4864),
        (1536, 28, 12, 2, 128, 8960),
        (2048, 36, 16, 2, 128, 11008),
        (3584, 28, 28, 4, 128, 18944),
        (5120, 48, 40, 8, 128, 13824),
        (5120, 64, 40, 8, 128, 27648),
        (8192, 80, 64, 8, 128, 29568),
    ),
    "Qwen3": (
        (1024, 28, 16, 8, 128, 3072),
        (2048, 28, 16, 8, 128, 6144),
        (2560, 36, 32, 8, 128, 9728),
        (4096, 36, 32, 8, 128, 12288),
        (5120, 40, 40, 8, 128, 17408),
        (5120, 64, 64, 8, 128, 25600),
    ),
}
"""Every series by name, smallest first, as its models' config.json have it."""

_MULTIPLE = 64


def siblings(config: ModelConfig) -> list[ModelConfig]:
    """The larger models of the series that a model's shape belongs to, smallest first; empty for another shape.

    Example:
        >>> small = ModelConfig(hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, intermediate_size=1536,
        ...                     vocab_size=49152)
        >>> [larger.hidden_size for larger in siblings(small)]
        [960, 2048]
    """
    own = tuple(getattr(config, name) for name in SIZE_FIELDS)
    for shapes in PUBLISHED.values():
        if own in shapes:
            larger = shapes[shapes.index(own) + 1 :]
            return [replace(config, **dict(zip(SIZE_FIELDS, shape, strict=True))) for shape in larger]
    return []


def proportioned(config: ModelConfig) -> list[ModelConfig]:
    """The model with 1, 2, ... groups of heads more, and all else as much wider and deeper, largest first.

    Where so much depth is too much, the same width with less of it follows.

    Example:
        >>> small = ModelConfig(hidden_size=512, num_layers=12, num_heads=8, num_kv_heads=4, intermediate_size=1536,
        ...                     vocab_size=1000)
        >>> first = proportioned(small)[0]
        >>> first.hidden_size, first.num_layers, first.num_heads, first.num_kv_heads, first.intermediate_size
        (1024, 24, 16, 8, 3072)
    """
    found = []
    for groups in range(2 * config.num_kv_heads, config.num_kv_heads, -1):
        ratio = groups / config.num_kv_heads
        wider = replace(
            config,
            num_kv_heads=groups,
            num_heads=config.num_heads // config.num_kv_heads * groups,
            hidden_size=_scaled(config.hidden_size, ratio, config.head_dim),
            intermediate_size=_scaled(config.intermediate_size, ratio, _MULTIPLE),
        )
        deepest = max(config.num_layers, round(config.num_layers * ratio))
        found += [replace(wider, num_layers=depth) for depth in range(deepest, config.num_layers - 1, -1)]
    return found


def _scaled(size: int, ratio: float, multiple: int) -> int:
    """A size times a ratio, in multiples of what it was a multiple of."""
    step = multiple if size % multiple == 0 else 1
    return round(size * ratio / step) * step
