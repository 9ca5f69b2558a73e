"""Depth: which layer every new layer copies, where it stands, and whether it begins silent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tprog import GrowthError

from tritter_jax.growth.axis_map import axis_map
from tritter_jax.growth.width import Maps


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
    """

    name: str
    summary: str
    silent: bool


DEPTH: dict[str, DepthStrategy] = {
    strategy.name: strategy
    for strategy in (
        DepthStrategy(
            name="identity",
            summary="a copy whose attention output and down projection are zero (Wu et al. 2024, LLaMA Pro)",
            silent=True,
        ),
    )
}
"""Every depth strategy by name."""


def _uniform(layers: int, added: int) -> list[int]:
    split = layers // added
    if split == 0 or layers // split != added:
        possible = {layers + layers // s for s in range(1, layers + 1)}
        nearest = min(possible, key=lambda depth: abs(depth - layers - added))
        raise GrowthError(
            f"{layers} -> {layers + added} layers, positions uniform",
            expected="one new layer after every split-th (LLaMA Pro's rule)",
            got=f"{added} new layers, which no split of {layers} gives",
            remedy=f"The nearest that works is {nearest} layers; --positions spread takes any.",
        )
    return [i for i in range(layers) if (i + 1) % split == 0]


def _spread(layers: int, added: int) -> list[int]:
    return [-(-(k + 1) * layers // added) - 1 for k in range(added)]


POSITIONS: dict[str, Callable[[int, int], list[int]]] = {"uniform": _uniform, "spread": _spread}
"""Rules that give, for `layers` old and `added` new layers, the old layer each new one copies and follows.

`uniform` is LLaMA Pro's (Wu et al. 2024, section 3.2); `spread` spaces any number as evenly as whole numbers can."""


def fitting(layers: int, target: int) -> str:
    """The rule that `auto` stands for: `uniform` where it gives that many layers, else `spread`.

    Example:
        >>> fitting(26, 32), fitting(16, 26)
        ('uniform', 'spread')
    """
    try:
        layout(layers, target, "uniform")
    except GrowthError:
        return "spread"
    return "uniform"


def layout(layers: int, target: int, positions: str | Sequence[int]) -> Layout:
    """The grown stack of `target` layers: each new layer stands right after the layer it copies.

    Args:
        layers: number of old layers.
        target: number of layers wanted.
        positions: a key of `POSITIONS`, or the old layers to copy.

    Raises:
        GrowthError: the rule cannot give that many, or the list is out of range, repeats or has another length.

    Example:
        >>> [i for i, new in enumerate(layout(26, 32, "uniform").new) if new]
        [4, 9, 14, 19, 24, 29]
        >>> layout(3, 5, [0, 2]).source
        (0, 0, 1, 2, 2)
    """
    added = target - layers
    if added == 0 and isinstance(positions, str):
        chosen: list[int] = []
    elif isinstance(positions, str):
        chosen = POSITIONS[positions](layers, added)
    else:
        chosen = _explicit(layers, added, positions)
    order = sorted([(i, False) for i in range(layers)] + [(i, True) for i in chosen])
    return Layout(tuple(i for i, _ in order), tuple(new for _, new in order))


def _explicit(layers: int, added: int, positions: Sequence[int]) -> list[int]:
    def refuse(expected: str, got: str) -> GrowthError:
        return GrowthError(
            "layers", expected=expected, got=got, remedy="Give the layers to copy, such as --layers 13-18."
        )

    outside = [i for i in positions if not 0 <= i < layers]
    if outside:
        raise refuse(f"numbers from 0 to {layers - 1}", _listed(outside))
    repeated = sorted({i for i in positions if list(positions).count(i) > 1})
    if repeated:
        raise refuse("each layer once", f"{_listed(repeated)} repeated")
    if len(positions) != added:
        raise refuse(f"{added} of them, to go from {layers} to {layers + added} layers", str(len(positions)))
    return sorted(positions)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")


def depth_maps(stack: Layout, strategy: DepthStrategy) -> Maps:
    """The maps along the layer axis; a silent strategy writes zeros where a new layer adds to the residual stream."""
    if not any(stack.new):
        return {}
    old = ~np.asarray(stack.new)
    kept = np.where(old, 1.0, 0.0)
    ones = np.ones(len(old))
    written = kept if strategy.silent else ones
    return {
        ("layers", "stack"): axis_map(stack.source, ones, kept),
        ("layers", "residual"): axis_map(stack.source, written, kept, mapped=old),
    }
