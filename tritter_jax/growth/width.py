"""Width: the maps along hidden, heads and mlp for a rule that says which old entry each new one continues.

One strategy is one row of `WIDTH` with one small function: given the old and the new length of an axis, where each
new entry comes from. What the entries must then be multiplied with follows from the axis, and is here once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tprog import GrowthError, ModelConfig
from tprog.params import Role

from tritter_jax.growth.axis_map import FRESH, AxisMap, axis_map
from tritter_jax.growth.split import Split, shares

Maps = dict[tuple[str, Role], AxisMap]
"""The map of every (logical axis, role) that a growth changes."""


@dataclass(frozen=True, kw_only=True)
class WidthStrategy:
    """A way to widen an axis.

    Args:
        name: its name on the command line.
        summary: one line on what it does.
        assign: old and new length to the old index of every new entry (-1: fresh).
    """

    name: str
    summary: str
    assign: Callable[[int, int], list[int]]


def _cyclic(old: int, new: int) -> list[int]:
    return [i % old for i in range(new)]


def _append_fresh(old: int, new: int) -> list[int]:
    return [i if i < old else FRESH for i in range(new)]


WIDTH: dict[str, WidthStrategy] = {
    strategy.name: strategy
    for strategy in (
        WidthStrategy(name="duplicate", summary="copy units and share out what they pass on", assign=_cyclic),
        WidthStrategy(name="fresh", summary="add silent units that read from random weights", assign=_append_fresh),
    )
}
"""Every width strategy by name."""


def width_maps(source: ModelConfig, target: ModelConfig, strategy: WidthStrategy, split: Split) -> Maps:
    """The maps along every axis whose length differs between two configurations.

    Raises:
        GrowthError: heads cannot be regrouped.
    """
    maps: Maps = {}
    if target.hidden_size != source.hidden_size:
        maps |= _hidden(source.hidden_size, target.hidden_size, strategy, split)
    if target.intermediate_size != source.intermediate_size:
        maps |= _mlp(source.intermediate_size, target.intermediate_size, strategy, split)
    if (target.num_heads, target.num_kv_heads) != (source.num_heads, source.num_kv_heads):
        maps |= _heads(source, target, strategy, split)
    return maps


def _hidden(old: int, new: int, strategy: WidthStrategy, split: Split) -> Maps:
    """Exact through RMSNorm at any ratio: the copies of a coordinate carry D/d of its square between them.

    Copy c is written times s, s^2 = share * D/d, so the mean square over D equals the old one over d; gains and
    epsilon stay. Readers take share / s. Where a share is 0 the reader's weight is free, and copied.
    """
    source = strategy.assign(old, new)
    share = shares(source, split)
    ratio = new / old
    s = np.sqrt(share * ratio)
    silent = share == 0
    reader = np.where(silent, 1.0, share / np.where(silent, 1.0, s))
    return {
        ("hidden", "write"): axis_map(source, s, np.where(silent, 0.0, reader), mapped=~silent),
        ("hidden", "read"): axis_map(source, reader, s, fill="random"),
        ("hidden", "gain"): axis_map(source, np.ones(new), share, fill="mean"),
        # The tied output layer reads with s where share / s is due: the final gain makes up for D/d.
        ("hidden", "tied_gain"): axis_map(source, np.full(new, 1 / ratio), share * ratio, fill="mean"),
    }


def _mlp(old: int, new: int, strategy: WidthStrategy, split: Split) -> Maps:
    """A unit's copies are gated alike; up and down carry the square root of the share each."""
    source = strategy.assign(old, new)
    share = shares(source, split)
    down = np.sqrt(share)
    up = np.where(share == 0, 1.0, down)
    return {
        ("mlp", "copy"): axis_map(source, np.ones(new), share, fill="random"),
        ("mlp", "write"): axis_map(source, up, down),
        ("mlp", "read"): axis_map(source, down, up, fill="random"),
    }


def _heads(source: ModelConfig, target: ModelConfig, strategy: WidthStrategy, split: Split) -> Maps:
    """Old kv heads get contiguous copies; the query slots of those copies are filled with its own queries."""
    group, slots_each = source.group_size, target.group_size
    copies = kv_copies(source, target)
    kv_source = [old for old, count in enumerate(copies) for _ in range(count)]
    queries: list[int] = []
    for old, count in enumerate(copies):
        local = strategy.assign(group, count * slots_each)
        queries += [FRESH if i == FRESH else old * group + i for i in local]
    share = shares(queries, split)
    ones = np.ones(len(queries))
    gradient, mapped = _kv_gradient(queries, share, target.num_kv_heads, group)
    return {
        ("heads", "copy"): axis_map(queries, ones, share, fill="random"),
        ("heads", "read"): axis_map(queries, share, ones),
        ("kv_heads", "copy"): axis_map(kv_source, np.ones(len(kv_source)), gradient, mapped=mapped),
    }


def kv_copies(source: ModelConfig, target: ModelConfig) -> list[int]:
    """How many copies each old key and value head gets: equally many, or one more for the first few.

    Raises:
        GrowthError: an old kv head would have fewer query slots than it has queries.
    """
    each, more = divmod(target.num_kv_heads, source.num_kv_heads)
    copies = [each + (old < more) for old in range(source.num_kv_heads)]
    fewest = min(copies) * target.group_size
    if fewest < source.group_size:
        works = -(-source.group_size // min(copies)) * target.num_kv_heads
        raise GrowthError(
            f"heads {source.num_heads}/{source.num_kv_heads} -> {target.num_heads}/{target.num_kv_heads}",
            expected=f"room for the {source.group_size} queries of every old kv head",
            got=f"{fewest} slots for one of them",
            remedy=f"With {target.num_kv_heads} kv heads the nearest that works is {works} query heads.",
        )
    return copies


def _kv_gradient(queries: list[int], share: np.ndarray, kv_heads: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Gradient factor of each kv copy, and whether it is exact.

    A copy hears from each of its old group's queries in proportion to the share of their copies beside it. Where
    these proportions are equal, the gradient is the old one times that; where not, their mean stands for them.
    """
    slots = len(queries) // kv_heads
    factor, exact = np.zeros(kv_heads), np.zeros(kv_heads, bool)
    for kv in range(kv_heads):
        heard = np.zeros(group)
        for slot in range(kv * slots, (kv + 1) * slots):
            if queries[slot] != FRESH:
                heard[queries[slot] % group] += share[slot]
        factor[kv] = heard.mean()
        exact[kv] = np.allclose(heard, heard[0], rtol=1e-12, atol=0)
    return factor, exact
