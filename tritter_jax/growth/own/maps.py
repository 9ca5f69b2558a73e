"""The map of every axis that grows, derived from the roles that the rows give it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tprog import GrowthError
from tprog.params import Axis

from tritter_jax.growth.axis_map import AxisMap, Maps, axis_map
from tritter_jax.growth.depth import DepthStrategy, Layout, depth_maps, layout
from tritter_jax.growth.heads import regrouped_heads
from tritter_jax.growth.own.rows import STACK, Row
from tritter_jax.growth.positions import fitting
from tritter_jax.growth.split import SplitRule, shares
from tritter_jax.growth.through_norm import through_norm
from tritter_jax.growth.vocabulary import vocabulary_maps
from tritter_jax.growth.width import WidthStrategy

AxisMaps = dict[Axis, AxisMap]


@dataclass(frozen=True)
class _Heads:
    """Query heads and the kv heads that they share, as the rule of regrouping asks for them."""

    num_heads: int
    num_kv_heads: int
    ternary: bool = False

    @property
    def group_size(self) -> int:
        """Query heads that share one kv head."""
        return self.num_heads // self.num_kv_heads


def roles_of(rows: Sequence[Row]) -> dict[str, set[str]]:
    """The roles that each axis plays in any row."""
    roles: dict[str, set[str]] = {}
    for row in rows:
        for axis in row.axes:
            roles.setdefault(axis.name, set()).add(axis.role)
    return roles


def stacks_of(
    roles: Mapping[str, set[str]],
    before: Mapping[str, int],
    after: Mapping[str, int],
    strategy: DepthStrategy,
    positions: str | Sequence[int],
) -> dict[str, Layout]:
    """The grown stack of every axis that counts layers and grows.

    Raises:
        GrowthError: the positions do not fit, or nothing can make its new layers leave the function as it is.
    """
    stacks = {}
    for name, size in after.items():
        if size == before[name] or not roles[name] & set(STACK):
            continue
        if strategy.silent and "residual" not in roles[name]:
            raise GrowthError(
                f"axis {name}", expected=f"rows with {name}:residual, whose new layers begin at zero",
                got="none", remedy="Mark the last factor of every branch that is added to the residual stream.",
            )  # fmt: skip
        rule = fitting(before[name], size - before[name]) if positions == "auto" else positions
        stacks[name] = layout(before[name], size, rule, strategy=strategy)
    return stacks


def maps_of(
    roles: Mapping[str, set[str]],
    before: Mapping[str, int],
    after: Mapping[str, int],
    *,
    stacks: Mapping[str, Layout],
    depth: DepthStrategy,
    width: WidthStrategy,
    split: SplitRule,
    groups: Mapping[str, str],
) -> AxisMaps:
    """The map of every (axis, role) that grows.

    Raises:
        GrowthError: an axis grows whose roles do not say how, or heads cannot be regrouped.
    """
    maps: AxisMaps = {}
    grouped = {name for pair in groups.items() for name in pair}
    for name, stack in stacks.items():
        maps |= {Axis(name, role): along for (_, role), along in depth_maps(stack, depth).items()}
    for queries, keys in groups.items():
        if before[queries] % before[keys]:
            raise GrowthError(
                f"axis {queries}", expected=f"a multiple of {keys}, {before[keys]} before growth",
                got=before[queries],
                remedy="Correct `before`, or name the axes that share heads in `groups`; {} if none do.",
            )  # fmt: skip
        if after[queries] % after[keys]:
            raise GrowthError(
                f"axis {queries}", expected=f"a multiple of {keys}, {after[keys]} after growth", got=after[queries],
                remedy=f"The nearest that works is {max(1, round(after[queries] / after[keys])) * after[keys]}.",
            )  # fmt: skip
        if any(before[name] != after[name] for name in (queries, keys)):
            found = regrouped_heads(
                _Heads(before[queries], before[keys]), _Heads(after[queries], after[keys]), width.assign, split
            )
            names = {"heads": queries, "kv_heads": keys}
            maps |= {Axis(names[axis], role): along for (axis, role), along in found.items()}
    for name in after:
        if before[name] == after[name] or name in stacks or name in grouped:
            continue
        if name == "vocab" and roles[name] == {"none"}:
            found = vocabulary_maps(before[name], after[name])
        else:
            found = _unit_maps(name, roles[name], before[name], after[name], width, split)
        maps |= {Axis(*key): along for key, along in found.items()}
    return maps


def _unit_maps(name: str, roles: set[str], old: int, new: int, width: WidthStrategy, split: SplitRule) -> Maps:
    """The maps of an axis of units: through an RMSNorm where one has a gain along it, else by their shares."""
    _refuse_open_roles(name, roles)
    source = width.assign(old, new)
    share, ones = shares(source, split), np.ones(new)
    copies = axis_map(source, ones, share, fill="random")
    if roles & {"gain", "tied_gain"}:
        found = through_norm(name, source, share, new / old, ternary=False)
        found[name, "copy"] = copies
        found[name, "tied_gain"] = axis_map(source, ones * old / new, share * new / old, fill="mean")
        return found
    if "write" not in roles:
        return {(name, "copy"): copies, (name, "read"): axis_map(source, share, ones)}
    root = np.sqrt(share)
    written = np.where(share == 0, 1.0, root)
    return {
        (name, "copy"): copies,
        (name, "write"): axis_map(source, written, root),
        (name, "read"): axis_map(source, root, written, fill="random"),
    }


def _refuse_open_roles(name: str, roles: set[str]) -> None:
    """Refuse an axis of which the rows do not say how it can grow.

    Raises:
        GrowthError: some row gives it no role, nothing reads it, or nothing makes it.
    """
    made, read = roles & {"copy", "write"}, roles & {"read", "tied_gain"}
    if "none" in roles or not made or not read:
        lacks = "a row without a role for it" if "none" in roles else f"only {', '.join(sorted(roles))}"
        raise GrowthError(
            f"axis {name}", expected="copy or write where it is made and read where it is used, since it grows",
            got=lacks, remedy="Give every row that has this axis its role, or leave its size as it is.",
        )  # fmt: skip
