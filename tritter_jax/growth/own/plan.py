"""plan_axes: a plan for any tree of parameters, from rows that say what its axes are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tprog import GrowthError
from tprog.params import Axis

from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.depth import DEPTH, Layout
from tritter_jax.growth.own.maps import maps_of, roles_of, stacks_of
from tritter_jax.growth.own.rows import PlacedRow, Row, check_sizes, parse_rows
from tritter_jax.growth.plan import choose
from tritter_jax.growth.split import SPLITS
from tritter_jax.growth.spread import Lengths
from tritter_jax.growth.width import WIDTH


@dataclass(frozen=True, kw_only=True, repr=False)
class AxesPlan:
    """One growth of a tree that rows describe; `grow` and its siblings take it as they take a `Plan`.

    Args:
        rows: what the leaves of the tree are.
        before: size of every axis.
        after: size of every axis of the result.
        depth: name of the depth strategy.
        width: name of the width strategy.
        split: name of the split.
        seed: seed of what is drawn.
        stacks: the grown stack of every axis that counts layers and grows.
        maps: the map of every (axis, role) that changes.
    """

    rows: tuple[Row, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    depth: str
    width: str
    split: str
    seed: int
    stacks: Mapping[str, Layout]
    maps: Mapping[Axis, AxisMap]

    # What a growth of one parameter asks of any plan: none of it is chosen here.
    noise: ClassVar[None] = None
    steps: ClassVar[tuple[()]] = ()
    stored_dtype: ClassVar[None] = None
    keeps_codes: ClassVar[bool] = False

    def axis_maps(self, spec: Lengths) -> tuple[AxisMap | None, ...]:
        """The map along each axis of a row; None where the axis stays as it is."""
        return tuple(self.maps.get(axis) for axis in spec.axes)

    @property
    def exact(self) -> bool:
        """Whether the rows, if they are right, make the growth one that keeps the function."""
        return not self.stacks or DEPTH[self.depth].preserves.function

    def placed(self, row: Row, sizes: Mapping[str, int]) -> PlacedRow:
        """A row at given sizes, layers included."""
        layers = (sizes[row.stack.name],) if row.stack else ()
        return PlacedRow(row, (*layers, *row.layer_shape(sizes)))

    def layer_source(self, axis: str, layer: int) -> int:
        """The old layer that a grown one copies."""
        return self.stacks[axis].source[layer] if axis in self.stacks else layer

    def __repr__(self) -> str:
        grown = ", ".join(f"{name} {old} -> {new}" for name, old, new in self._changes())
        return f"AxesPlan({grown}; depth {self.depth}, width {self.width}, split {self.split}, {len(self.rows)} rows)"

    def _changes(self) -> Iterator[tuple[str, int, int]]:
        return ((name, old, self.after[name]) for name, old in self.before.items() if self.after[name] != old)


def plan_axes(
    rows: Mapping[str, str],
    *,
    before: Mapping[str, int],
    after: Mapping[str, int],
    depth: str = "identity",
    positions: str | Sequence[int] = "auto",
    width: str = "duplicate",
    split: str = "uneven",
    groups: Mapping[str, str] | None = None,
    seed: int = 0,
) -> AxesPlan:
    """Plan the growth of a tree of parameters that no family of ours describes.

    A row names leaves by their path and gives each axis its role: `read` (multiplied with the activation and summed),
    `write` (linear in the activation's entries), `copy` (each entry computes an activation of its own), `gain` (an
    RMSNorm's gain; `tied_gain` where the embedding is also the output layer), `stack` and `residual` (one entry a
    layer; `residual` where the result is added to the residual stream). `*` between two axes folds them into one
    dimension; `*` in a path stands for a layer's number, where each layer has a subtree of its own. An axis without a
    role stays as it is.

    The maps follow from the roles: an axis with a `gain` is widened through RMSNorm at any ratio, others by the share
    of each copy. What no row can say is whether it is true of the model: `check_function` runs it and sees.

    Args:
        rows: axes by the pattern of the path; every leaf of the tree needs one. The `.value` of a Flax NNX variable
            may be left out.
        before: size of every axis that the rows name.
        after: the sizes that change.
        depth: a key of `DEPTH`; without more layers not looked at.
        positions: a key of `POSITIONS`, `auto`, or the old layers to copy.
        width: a key of `WIDTH`.
        split: a key of `SPLITS`.
        groups: the axis of kv heads for each axis of query heads that shares them; `heads` sharing `kv_heads` where
            the rows have axes of these names.
        seed: seed of what is drawn.

    Raises:
        GrowthError: the rows, the sizes or the choices do not make a plan; nothing has been computed.

    Example:
        >>> import jax.numpy as jnp
        >>> from tritter_jax.growth import grow
        >>> rows = {"up": "hidden:read mlp:copy", "down": "mlp:read hidden:write"}
        >>> plan = plan_axes(rows, before={"hidden": 2, "mlp": 2}, after={"mlp": 3})
        >>> plan
        AxesPlan(mlp 2 -> 3; depth identity, width duplicate, split uneven, 2 rows)
        >>> params = {"up": jnp.ones((2, 2)), "down": jnp.ones((2, 2))}
        >>> [round(share, 3) for share in grow(params, plan)["down"][:, 0].tolist()]
        [0.333, 1.0, 0.667]
    """
    parsed = parse_rows(rows)
    old, new = check_sizes(parsed, before, after)
    roles = roles_of(parsed)
    if groups is None:
        groups = {"heads": "kv_heads"} if {"heads", "kv_heads"} <= set(old) else {}
    for name in (*groups, *groups.values()):
        if name not in old:
            raise GrowthError.unknown("groups", name, sorted(old))
    strategies = choose("depth", depth, DEPTH), choose("width", width, WIDTH), choose("split", split, SPLITS)
    stacks = stacks_of(roles, old, new, strategies[0], positions)
    maps = maps_of(
        roles, old, new, stacks=stacks, depth=strategies[0], width=strategies[1], split=strategies[2], groups=groups
    )
    return AxesPlan(
        rows=parsed, before=old, after=new, depth=depth, width=width, split=split, seed=seed, stacks=stacks, maps=maps
    )
