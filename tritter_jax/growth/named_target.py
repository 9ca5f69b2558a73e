"""A named size as the target of a model whose head_dim, or some other dimension, is not the one in the table."""

from dataclasses import replace

from tprog import ConfigError, GrowthError, ModelConfig, count_parameters, named_size, size_label
from tprog.config import SIZE_FIELDS

from tritter_jax.growth.heads import kv_copies


def named_target(source: ModelConfig, name: str, *, exact_shape: bool = False) -> ModelConfig:
    """The configuration that a model grows into where a named size is asked for.

    It has the size's width, depth and feed-forward size, but no dimension below the source's. head_dim stays the
    source's, for rotary embedding depends on it; as many heads as make up the width go with it, and as many kv heads
    as hold what the size's own would hold.

    Args:
        source: the model that grows.
        name: a named size.
        exact_shape: the six dimensions of the size as they are, whether or not the source can grow into them.

    Raises:
        ConfigError: there is no such size.
        GrowthError: the source is that large already, or no number of heads has room for the source's.

    Example:
        >>> import tprog
        >>> smollm = tprog.ModelConfig(family="llama", hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3,
        ...                            intermediate_size=1536, vocab_size=49152, tie_embeddings=True)
        >>> grown = named_target(smollm, "3B")
        >>> grown.num_heads, grown.num_kv_heads, grown.head_dim, grown.num_layers
        (40, 8, 64, 30)
    """
    named = source.resized(named_size(name))
    if exact_shape:
        return named
    if all(getattr(source, field) >= getattr(named, field) for field in SIZE_FIELDS if field != "head_dim"):
        raise GrowthError(
            "target", expected=f"a size above the source's {size_label(source)}", got=f"{name}, which is larger in "
            "no dimension", remedy="Choose a larger size; `tritter sizes` lists them.",
        )  # fmt: skip
    if count_parameters(source) > count_parameters(named):
        raise GrowthError(
            "target", expected=f"more parameters than the source's {count_parameters(source):,}",
            got=f"{name}, {count_parameters(named):,} with the source's vocabulary",
            remedy="Choose a larger size, or a config.json of the shape wanted.",
        )  # fmt: skip
    larger = {
        field: max(getattr(source, field), getattr(named, field))
        for field in ("hidden_size", "num_layers", "intermediate_size")
    }
    first = max(source.num_heads, round(larger["hidden_size"] / source.head_dim))
    fewest = max(source.num_kv_heads, round(named.num_kv_heads * named.head_dim / source.head_dim))
    for heads in range(first, 4 * first + 1):
        for kv_heads in range(fewest, heads + 1):
            if heads % kv_heads == 0:
                target = _grown(source, larger | {"num_heads": heads, "num_kv_heads": kv_heads})
                if target is not None:
                    return target
    raise GrowthError(
        "heads", expected=f"room for each of {source.num_heads} query and {source.num_kv_heads} kv heads",
        got=f"none in {first} to {4 * first} query heads", remedy="Give the shape wanted as a config.json.",
    )  # fmt: skip


def _grown(source: ModelConfig, sizes: dict[str, int]) -> ModelConfig | None:
    """The source at those sizes; None where they make no model, or its heads cannot be regrouped into them."""
    try:
        target = replace(source, **sizes)
        kv_copies(source, target)
    except (ConfigError, GrowthError):
        return None
    return target


def departures(target: ModelConfig, name: str) -> str:
    """Where a target departs from the dimensions of the named size, in one line; empty where it does not.

    Example:
        >>> from dataclasses import replace
        >>> import tprog
        >>> departures(replace(tprog.named_size("3B"), num_heads=40, num_kv_heads=8, head_dim=64), "3B")
        '3B here has 40 query heads (not 20), 8 kv heads (not 4), head_dim 64 (not 128)'
    """
    named = named_size(name)
    words = {
        "hidden_size": "hidden size {}", "num_layers": "{} layers", "num_heads": "{} query heads",
        "num_kv_heads": "{} kv heads", "head_dim": "head_dim {}", "intermediate_size": "feed-forward size {}",
    }  # fmt: skip
    told = [
        f"{words[field].format(getattr(target, field))} (not {getattr(named, field)})"
        for field in SIZE_FIELDS
        if getattr(target, field) != getattr(named, field)
    ]
    return f"{name} here has {', '.join(told)}" if told else ""
