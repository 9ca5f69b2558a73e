"""Which size comes next, and which layers its new ones copy."""

from collections.abc import Sequence
from dataclasses import replace

from tprog import SIZES, GrowthError, ModelConfig, UsageError, count_parameters, named_size
from tprog.schema import RecommendedExpansion

from tritter_jax.analysis.machine import training_bytes
from tritter_jax.analysis.siblings import proportioned, siblings
from tritter_jax.growth import make_plan
from tritter_jax.growth.positions import fitting, place

SAFE_FACTOR = 2.0
"""Largest growth at once that is published as safe (Du et al. 2024, "Stacking Your Transformers")."""
_FARTHEST = 4.0


def factor_between(source: ModelConfig, target: ModelConfig) -> float:
    """By how much a growth multiplies the parameters."""
    return count_parameters(target) / count_parameters(source)


def next_target(config: ModelConfig, memory: int | None = None) -> ModelConfig:
    """The size to grow to where none is asked for.

    The next larger published model of its series, if it is not far; else the largest named size within a safe growth
    that can be trained in the memory; else the nearest named size, if it is not far; else the model's own proportions
    in whole groups of heads, within a safe growth; else the same width, twice as deep.

    Args:
        config: the model as it is.
        memory: bytes that there are for training; not looked at where None.

    Raises:
        GrowthError: the model cannot grow.

    Example:
        >>> import tprog
        >>> next_target(tprog.named_size("3B")).num_layers, next_target(tprog.named_size("7B")).hidden_size
        (32, 5120)
    """
    published = next((target for target in siblings(config) if _grows(config, target)), None)
    if published is not None and factor_between(config, published) <= _FARTHEST:
        return published
    named = [config.resized(named_size(name)) for name in SIZES]
    larger = sorted((target for target in named if _grows(config, target)), key=count_parameters)
    safe = [target for target in larger if factor_between(config, target) <= SAFE_FACTOR]
    held = [target for target in safe if memory is None or training_bytes(target) <= memory]
    if held or safe:
        return held[-1] if held else safe[0]
    if larger and factor_between(config, larger[0]) <= _FARTHEST:
        return larger[0]
    for target in proportioned(config):
        if factor_between(config, target) <= SAFE_FACTOR and _grows(config, target):
            return target
    # The embeddings do not grow, so that twice the layers are always within twice the parameters.
    deeper = replace(config, num_layers=2 * config.num_layers)
    make_plan(config, deeper)
    return deeper


def _grows(config: ModelConfig, target: ModelConfig) -> bool:
    if count_parameters(target) <= count_parameters(config):
        return False
    try:
        make_plan(config, target)
    except GrowthError:
        return False
    return True


def layers_to_copy(layers: int, added: int, scores: Sequence[float] | None) -> list[int]:
    """One layer in each stretch of the stack: the one that matters most, or the last where no scores are known.

    New layers spread over the stack are LLaMA Pro's rule (Wu et al. 2024, section 3.2).

    Example:
        >>> layers_to_copy(6, 2, [0.9, 0.1, 0.2, 0.1, 0.3, 0.2]), layers_to_copy(6, 2, None)
        ([0, 4], [2, 5])
    """
    last = place(layers, added, fitting(layers, added)) if added else []
    if scores is None or added > layers:
        return last
    first = [0, *(end + 1 for end in last)]
    return [max(range(start, end + 1), key=scores.__getitem__) for start, end in zip(first, last, strict=False)]


def recommended_target(config: ModelConfig, recommended: RecommendedExpansion) -> ModelConfig:
    """The configuration that a stored recommendation means.

    Raises:
        UsageError: it names no known size and leaves dimensions open, or contradicts the size that it names.

    Example:
        >>> import tprog
        >>> asked = RecommendedExpansion(next_size="7B", target_hidden_size=4096, target_num_layers=32)
        >>> recommended_target(tprog.named_size("3B"), asked).num_heads
        32
    """
    given = {
        name: value
        for name in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
        if (value := getattr(recommended, f"target_{name}")) is not None
    }
    if len(given) == 6:
        return replace(config, **given)
    known = next((name for name in SIZES if name.lower() == recommended.next_size.lower()), None)
    if known is None:
        raise UsageError(
            "recommended_expansion", expected="a named size, or all target dimensions",
            got=f"{recommended.next_size!r} and {len(given)} dimensions",
            remedy="Run `tritter recommend` again, or say --to.",
        )  # fmt: skip
    target = config.resized(named_size(known))
    wrong = [f"{name} {value}, not {getattr(target, name)}" for name, value in given.items()
             if getattr(target, name) != value]  # fmt: skip
    if wrong:
        raise UsageError(
            "recommended_expansion", expected=f"the dimensions of {known}", got=wrong[0],
            remedy="Run `tritter recommend` again, or say --to.",
        )  # fmt: skip
    return target
