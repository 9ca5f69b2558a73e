"""Width: the maps along hidden, heads and mlp for a rule that says which old entry each new one continues.

One strategy is one row of `WIDTH` with one small function: given the old and the new length of an axis, where each
new entry comes from. What the entries must then be multiplied with follows from the axis, and is here once.
"""

from dataclasses import dataclass

import numpy as np
from tprog import ModelConfig

from tritter_jax.growth.axis_map import FRESH, Maps, axis_map
from tritter_jax.growth.heads import Assign, normed_groups, regrouped_heads
from tritter_jax.growth.preserves import Preserves
from tritter_jax.growth.split import Split, shares
from tritter_jax.growth.through_norm import through_norm


@dataclass(frozen=True, kw_only=True)
class WidthStrategy:
    """A way to widen an axis.

    Args:
        name: its name on the command line.
        summary: one line on what it does.
        assign: old and new length to the old index of every new entry (-1: fresh).
        preserves: what a growth by it keeps; None where that depends on how the copies share, and `SPLITS` says it.
        published: where it was described; empty where `SPLITS` says it.
    """

    name: str
    summary: str
    assign: Assign
    preserves: Preserves | None = None
    published: str = ""


def _cyclic(old: int, new: int) -> list[int]:
    return [i % old for i in range(new)]


def _append_fresh(old: int, new: int) -> list[int]:
    return [i if i < old else FRESH for i in range(new)]


WIDTH: dict[str, WidthStrategy] = {
    strategy.name: strategy
    for strategy in (
        WidthStrategy(name="duplicate", summary="copy units and share out what they pass on", assign=_cyclic),
        WidthStrategy(
            name="fresh",
            summary="add silent units that read from random weights",
            assign=_append_fresh,
            preserves=Preserves(function=True, gradient="old", moments="old", ternary="yes"),
            published="Gesmundo and Maile 2023, Composable Function-preserving Expansions; "
            "for ternary weights nowhere",
        ),
    )
}
"""Every width strategy by name."""


def width_maps(source: ModelConfig, target: ModelConfig, strategy: WidthStrategy, split: Split) -> Maps:
    """The maps along every axis whose length differs between two configurations.

    Raises:
        GrowthError: heads cannot be regrouped.
    """
    normed, ternary = source.family_record.sub_norms, bool(source.ternary)
    maps: Maps = {}
    if target.hidden_size != source.hidden_size:
        maps |= _hidden(source.hidden_size, target.hidden_size, strategy, split, ternary=ternary)
    if target.intermediate_size != source.intermediate_size:
        units = strategy.assign(source.intermediate_size, target.intermediate_size)
        ratio = target.intermediate_size / source.intermediate_size
        maps |= _normed_units(units, split, ratio, ternary=ternary) if normed else _units(units, split)
    if (target.num_heads, target.num_kv_heads) != (source.num_heads, source.num_kv_heads):
        if normed and target.group_size == source.group_size:
            maps |= normed_groups(source, target, strategy.assign, split)
        else:
            maps |= regrouped_heads(source, target, strategy.assign, split)
    return maps


def _hidden(old: int, new: int, strategy: WidthStrategy, split: Split, *, ternary: bool) -> Maps:
    source = strategy.assign(old, new)
    share, ratio = shares(source, split), new / old
    return {
        **through_norm("hidden", source, share, ratio, ternary=ternary),
        # The tied output layer reads with s where share / s is due: the final gain makes up for D/d.
        ("hidden", "tied_gain"): axis_map(source, np.full(new, 1 / ratio), share * ratio, fill="mean"),
    }


def _units(source: list[int], split: Split) -> Maps:
    """A unit's copies are gated alike; up and down carry the square root of the share each."""
    share = shares(source, split)
    down = np.sqrt(share)
    up = np.where(share == 0, 1.0, down)
    return {
        ("mlp", "copy"): axis_map(source, np.ones(len(source)), share, fill="random"),
        ("mlp", "write"): axis_map(source, up, down),
        ("mlp", "read"): axis_map(source, down, up, fill="random"),
    }


def _normed_units(source: list[int], split: Split, ratio: float, *, ternary: bool) -> Maps:
    """Units behind a norm of their own: gated alike, written as hidden coordinates are."""
    share = shares(source, split)
    copy = axis_map(source, np.ones(len(source)), share, fill="random")
    return {("mlp", "copy"): copy, **through_norm("mlp", source, share, ratio, ternary=ternary)}
