"""Depth: which layer every layer of the grown stack copies, and whether a new one begins silent.

One strategy is one row of `DEPTH`. Where its new layers stand is a row of `POSITIONS` or, for a strategy that
arranges the whole stack, its own small function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tprog import GrowthError

from tritter_jax.growth.axis_map import Maps, axis_map
from tritter_jax.growth.positions import place
from tritter_jax.growth.preserves import Preserves


class Layout(NamedTuple):
    """The grown stack: for each layer the old one it copies, and whether it is a new layer."""

    source: tuple[int, ...]
    new: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class DepthStrategy:
    """A way to add layers.

    Args:
        name: its name on the command line.
        summary: one line on what it does.
        silent: new layers add nothing to the residual stream at first, so the function is unchanged.
        preserves: what a growth by it keeps.
        published: where it was described.
        arrange: number of old layers and of layers wanted to the old layer of each; None where a rule places the
            new layers.
    """

    name: str
    summary: str
    silent: bool
    preserves: Preserves
    published: str
    arrange: Callable[[int, int], list[int]] | None = None


def _solar(layers: int, target: int) -> list[int]:
    kept = target // 2
    if target % 2 or not layers <= target <= 2 * layers:
        even = min(max(target - target % 2, layers + 2 - layers % 2), 2 * layers)
        raise _impossible(layers, target, "solar", "two copies of the stack cut to the same length", even)
    return [*range(kept), *range(layers - kept, layers)]


def _stack(layers: int, target: int) -> list[int]:
    times, rest = divmod(target, layers)
    if rest:
        nearest = layers * max(times + (2 * rest > layers), 2)
        raise _impossible(layers, target, "stack", "the whole stack a number of times", nearest)
    return [*range(layers)] * times


def _impossible(layers: int, target: int, name: str, expected: str, nearest: int) -> GrowthError:
    return GrowthError(
        f"{layers} -> {target} layers, depth {name}",
        expected=expected,
        got=f"{target} layers, which that cannot give",
        remedy=f"The nearest that works is {nearest} layers; --depth identity and --depth copy take any.",
    )


_COPIES = Preserves(function=False, gradient="no", moments="no", ternary="yes")

DEPTH: dict[str, DepthStrategy] = {
    strategy.name: strategy
    for strategy in (
        DepthStrategy(
            name="identity",
            summary="a copy whose attention output and down projection are zero",
            silent=True,
            preserves=Preserves(function=True, gradient="yes", moments="yes", ternary="yes"),
            published="Wu et al. 2024, LLaMA Pro, section 3.2",
        ),
        DepthStrategy(
            name="copy",
            summary="a plain copy right after its source",
            silent=False,
            preserves=_COPIES,
            published="Chang et al. 2018, Multi-level Residual Networks from Dynamical Systems View",
        ),
        DepthStrategy(
            name="solar",
            summary="two copies of the stack, the end of the one and the beginning of the other cut off",
            silent=False,
            preserves=_COPIES,
            published="Kim et al. 2023, SOLAR 10.7B, section 2",
            arrange=_solar,
        ),
        DepthStrategy(
            name="stack",
            summary="the whole stack several times, one copy on the other",
            silent=False,
            preserves=_COPIES,
            published="Du et al. 2024, Stacking Your Transformers",
            arrange=_stack,
        ),
    )
}
"""Every depth strategy by name."""


def layout(
    layers: int,
    target: int,
    positions: str | Sequence[int],
    *,
    strategy: DepthStrategy = DEPTH["identity"],
    scores: Sequence[float] | None = None,
) -> Layout:
    """The grown stack of `target` layers: each new layer stands right after the layer it copies.

    A strategy that arranges the whole stack does so instead; of the copies of a layer the first then is the old one.

    Args:
        layers: number of old layers.
        target: number of layers wanted.
        positions: a key of `POSITIONS`, or the old layers to copy.
        strategy: a row of `DEPTH`.
        scores: each old layer's importance, for the rule that goes by it.

    Raises:
        GrowthError: the rule cannot give that many, or the list is out of range, repeats or has another length.

    Example:
        >>> [i for i, new in enumerate(layout(26, 32, "uniform").new) if new]
        [4, 9, 14, 19, 24, 29]
        >>> layout(3, 5, [0, 2]).source
        (0, 0, 1, 2, 2)
        >>> layout(3, 4, "auto", strategy=DEPTH["solar"])
        Layout(source=(0, 1, 1, 2), new=(False, False, True, False))
    """
    if target == layers and isinstance(positions, str):
        return Layout(tuple(range(layers)), (False,) * layers)
    if strategy.arrange is not None:
        source = strategy.arrange(layers, target)
        return Layout(tuple(source), tuple(old in source[:i] for i, old in enumerate(source)))
    chosen = place(layers, target - layers, positions, scores)
    order = sorted([(i, False) for i in range(layers)] + [(i, True) for i in chosen])
    return Layout(tuple(i for i, _ in order), tuple(new for _, new in order))


def depth_maps(stack: Layout, strategy: DepthStrategy) -> Maps:
    """The maps along the layer axis; a silent strategy writes zeros where a new layer adds to the residual stream.

    New layers get no gradient of the old ones': those of a silent layer are 0, but for what it writes, which it must
    find itself. Where new layers change the function, no gradient is the old one.
    """
    if not any(stack.new):
        return {}
    old = ~np.asarray(stack.new)
    kept = np.where(old, 1.0, 0.0)
    ones = np.ones(len(old))
    written = kept if strategy.silent else ones
    return {
        ("layers", "stack"): axis_map(stack.source, ones, kept, mapped=strategy.silent),
        ("layers", "residual"): axis_map(stack.source, written, kept, mapped=old & strategy.silent),
    }
