"""Heads: which old query, key and value head every new one continues, and what they are then multiplied with."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from tprog import GrowthError, ModelConfig

from tritter_jax.growth.axis_map import FRESH, Maps, axis_map
from tritter_jax.growth.split import Split, shares
from tritter_jax.growth.through_norm import through_norm

Assign = Callable[[int, int], list[int]]
"""Old and new length of an axis to the old index of every new entry (-1: fresh)."""


@runtime_checkable
class HeadCounts(Protocol):
    """What the rule of regrouping asks of a configuration."""

    @property
    def num_heads(self) -> int:
        """Number of query heads."""
        ...

    @property
    def num_kv_heads(self) -> int:
        """Number of key and value heads."""
        ...

    @property
    def group_size(self) -> int:
        """Number of query heads that share one key and value head."""
        ...

    @property
    def ternary(self) -> bool | None:
        """Whether weights are rounded to three values."""
        ...


def normed_groups(source: ModelConfig, target: ModelConfig, assign: Assign, split: Split) -> Maps:
    """Heads behind a norm of their own: whole groups are copied or fresh, and value is written as that norm asks."""
    beside = sorted(assign(source.num_kv_heads, target.num_kv_heads), key=lambda old: (old == FRESH, old))
    size = source.group_size
    queries = [FRESH if old == FRESH else old * size + i for old in beside for i in range(size)]
    share, ratio = shares(beside, split), target.num_heads / source.num_heads
    ones = np.ones(len(beside))
    each = np.repeat(share, size)
    ternary = bool(source.ternary)
    heads = through_norm("heads", queries, each, ratio, ternary=ternary)
    return {
        ("kv_heads", "copy"): axis_map(beside, ones, share, fill="random"),
        ("kv_heads", "write"): through_norm("kv_heads", beside, share, ratio, ternary=ternary)["kv_heads", "write"],
        ("heads", "copy"): axis_map(queries, np.ones(len(queries)), each, fill="random"),
        ("heads", "gain"): heads["heads", "gain"],
        ("heads", "read"): heads["heads", "read"],
    }


def regrouped_heads(source: HeadCounts, target: HeadCounts, assign: Assign, split: Split) -> Maps:
    """Old kv heads get contiguous copies; the query slots of those copies are filled with its own queries."""
    queries, kv_source = regroup(source, target, assign)
    share = shares(queries, split)
    ones = np.ones(len(queries))
    gradient, mapped = _kv_gradient(queries, share, target.num_kv_heads, source.group_size)
    kv = axis_map(kv_source, np.ones(len(kv_source)), gradient, mapped=mapped)
    read, gain = ((ones, share), (share, ones)) if source.ternary else ((share, ones), (ones, share))
    return {
        ("heads", "copy"): axis_map(queries, ones, share, fill="random"),
        ("heads", "gain"): axis_map(queries, *gain, fill="mean"),
        ("heads", "read"): axis_map(queries, *read),
        ("kv_heads", "copy"): kv,
        ("kv_heads", "write"): kv,
    }


def regroup(source: HeadCounts, target: HeadCounts, assign: Assign) -> tuple[list[int], list[int]]:
    """The old query head of every new one, and the old kv head of every new one."""
    copies = kv_copies(source, target)
    queries: list[int] = []
    for old, count in enumerate(copies):
        local = assign(source.group_size, count * target.group_size)
        queries += [FRESH if i == FRESH else old * source.group_size + i for i in local]
    return queries, [old for old, count in enumerate(copies) for _ in range(count)]


def kv_copies(source: HeadCounts, target: HeadCounts) -> list[int]:
    """How many copies each old key and value head gets: equally many, or one more for the first few.

    Raises:
        GrowthError: an old kv head would have fewer query slots than it has queries.
    """
    if target.num_kv_heads < source.num_kv_heads:
        raise GrowthError(
            "kv heads", expected=f"at least the source's {source.num_kv_heads}", got=target.num_kv_heads,
            remedy="Growth only adds: choose a larger target.",
        )  # fmt: skip
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
