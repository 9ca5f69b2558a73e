"""Rows that a user writes: which leaves of a tree a pattern names, and the roles of their axes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import cast, get_args

from tprog import GrowthError
from tprog.params import Axis, Role

STACK: tuple[Role, ...] = ("stack", "residual")
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Row:
    """One row: the leaves whose path matches a pattern, and the axes of their arrays.

    Args:
        pattern: dotted path; `*` stands for the number of a layer where the tree has a subtree a layer.
        dims: for each dimension of the array the axes that are folded into it; the layers' axis is not among them
            where the pattern has a `*`.
        stack: the axis that counts layers, if any.
    """

    pattern: str
    dims: tuple[tuple[Axis, ...], ...]
    stack: Axis | None

    @property
    def name(self) -> str:
        """The pattern, by which draws and errors name the row."""
        return self.pattern

    @property
    def per_layer(self) -> bool:
        """Whether every layer has a leaf of its own."""
        return "*" in self.pattern

    @cached_property
    def inner(self) -> tuple[Axis, ...]:
        """The axes of one layer, unfolded."""
        return tuple(axis for dim in self.dims for axis in dim)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """All axes, unfolded; the one that counts layers first."""
        return (self.stack, *self.inner) if self.stack else self.inner

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Matches the dotted path of a leaf; its group is the layer's number."""
        return re.compile(re.escape(self.pattern).replace(r"\*", r"(\d+)") + r"(?:\.value)?")

    def layer_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Unfolded shape of one layer's array."""
        return tuple(sizes[axis.name] for axis in self.inner)


@dataclass(frozen=True)
class PlacedRow:
    """A row at given sizes: what the growth of one parameter asks of it."""

    row: Row
    shape: tuple[int, ...]

    kernel = False

    @property
    def name(self) -> str:
        """The row's pattern."""
        return self.row.pattern

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes, unfolded."""
        return self.row.axes

    @property
    def stacked(self) -> bool:
        """Whether the first axis counts layers."""
        return self.row.stack is not None


def parse_rows(rows: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows from patterns and axes as they are written.

    Raises:
        GrowthError: a role is unknown, a pattern has several `*`, or one with a `*` names no axis of layers.

    Example:
        >>> (row,) = parse_rows({"blocks.*.wq": "layers:stack heads:copy*head_dim hidden:read"})
        >>> row.layer_shape({"heads": 4, "head_dim": 8, "hidden": 24})
        (4, 8, 24)
    """
    return tuple(_row(pattern, text) for pattern, text in rows.items())


def _row(pattern: str, text: str) -> Row:
    dims = [tuple(_axis(pattern, word) for word in group.split("*")) for group in text.split()]
    first = dims[0][0] if dims and len(dims[0]) == 1 and dims[0][0].role in STACK else None
    stars = pattern.count("*")
    if stars > 1 or (stars and first is None):
        raise GrowthError(
            pattern, expected="one `*` for the layer's number, and layers:stack or layers:residual as the first axis",
            got=f"{stars} of them and axes {text!r}", remedy="Write one row for every stack of layers.",
        )  # fmt: skip
    return Row(pattern, tuple(dims[1:] if first else dims), first)


def _axis(pattern: str, word: str) -> Axis:
    name, _, role = word.partition(":")
    if role and role not in ROLES:
        raise GrowthError.unknown(f"{pattern}: axis {name}", role, ROLES)
    return Axis(name, cast(Role, role or "none"))


def check_sizes(
    rows: tuple[Row, ...], before: Mapping[str, int], after: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """The size of every axis before and after; an axis that `after` leaves out stays as it is.

    Raises:
        GrowthError: an axis of a row has no size, a size belongs to no axis or is no whole number above 0, or one
            shrinks.
    """
    axes = {axis.name for row in rows for axis in row.axes}
    for name in (*before, *after):
        if name not in axes:
            raise GrowthError.unknown(
                "sizes", name, sorted(axes), remedy="Only axes that some row names have a size."
            )
    for where, sizes in (("before", before), ("after", after)):
        odd = [f"{name}: {size!r}" for name, size in sizes.items() if not _is_size(size)]
        if odd:
            raise GrowthError(
                where, expected="whole numbers above 0", got=odd[0], remedy="Correct it.", findings=odd[1:]
            )
    missing = sorted(axes - set(before))
    if missing:
        raise GrowthError(
            "before", expected="a size for every axis of the rows", got=f"none for {', '.join(missing)}",
            remedy="Add it.",
        )  # fmt: skip
    smaller = [f"{name} shrinks from {before[name]} to {size}" for name, size in after.items() if size < before[name]]
    if smaller:
        raise GrowthError(
            "after", expected="no size below the one before", got=smaller[0], remedy="Growth only adds.",
            findings=smaller[1:],
        )  # fmt: skip
    return dict(before), dict(before) | dict(after)


def _is_size(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0
