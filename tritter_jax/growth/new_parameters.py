"""Which entries of a grown model are new: a product of one vector an axis, so the mask costs no memory."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool
from tprog import GrowthError, ParameterError
from tprog.tree import nest

from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.own.rows import Row
from tritter_jax.growth.own.walk import map_leaves
from tritter_jax.growth.plan import Plan


@dataclass(frozen=True)
class NewEntries:
    """The new entries of one grown parameter: those that are new along at least one axis.

    Args:
        axes: for each axis a bool vector, true at new indices; None where the axis did not grow.
        shape: length of each of these axes after growth.
        array_shape: shape of the grown array, where some of the axes are folded into one dimension of it.
    """

    axes: tuple[Bool[np.ndarray, " _"] | None, ...]
    shape: tuple[int, ...]
    array_shape: tuple[int, ...] | None = None

    def old(self) -> Bool[Array, "..."]:
        """True at entries that continue an old one (its first copy)."""
        mask = jnp.ones(self.shape, bool)
        for axis, new in enumerate(self.axes):
            if new is not None:
                vector = jnp.asarray(~new).reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
                mask &= jnp.broadcast_to(vector, self.shape)
        return mask if self.array_shape is None else mask.reshape(self.array_shape)

    def new(self) -> Bool[Array, "..."]:
        """True at new entries: further copies, fresh entries, new layers."""
        return ~self.old()

    @property
    def count(self) -> int:
        """Number of new entries."""
        old = 1
        for size, new in zip(self.shape, self.axes, strict=True):
            old *= size if new is None else int((~new).sum())
        return int(np.prod(self.shape)) - old


def new_parameters(plan: Plan | AxesPlan, grown: Any = None) -> Any:
    """The new entries of every parameter, as a tree of `NewEntries` in the shape of the grown parameters.

    Train only what is new with `jax.tree.map(lambda n, g: jnp.where(n.new(), g, 0), new_parameters(plan), grads)`.

    Args:
        plan: from `make_plan` or `plan_axes`.
        grown: a tree like the grown parameters, for a plan of `plan_axes`, which knows no tree of its own.

    Raises:
        GrowthError: a plan of `plan_axes` without such a tree.
        ParameterError: the tree is not the one that the plan's rows describe.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> plan = make_plan(tprog.named_size("3B"), tprog.named_size("7B"))
        >>> new_parameters(plan)["norm"].count
        1536
    """
    if isinstance(plan, AxesPlan):
        return own_entries(plan, grown)
    return nest(
        {
            grown.path: NewEntries(
                axes=tuple(None if along is None else along.new for along in plan.axis_maps(old)),
                shape=grown.shape,
            )
            for old, grown in plan.target_specs()
        }
    )


def own_entries(plan: AxesPlan, grown: Any) -> Any:
    """The new entries of a tree that rows describe."""
    if grown is None:
        raise GrowthError(
            "new_parameters", expected="the grown parameters beside a plan of plan_axes", got="none",
            remedy="Pass them: new_parameters(plan, grown).",
        )  # fmt: skip

    def entries(row: Row, layer: int | None, value: Any) -> NewEntries:
        placed = plan.placed(row, plan.after)
        along, shape = tuple(None if one is None else one.new for one in plan.axis_maps(placed)), placed.shape
        if row.stack is not None and layer is not None:
            # The layer's own entry of the stack's map, as an axis of length 1.
            new = np.asarray([False if along[0] is None else along[0][layer]])
            along, shape = (new, *along[1:]), (1, *shape[1:])
        if math.prod(shape) != math.prod(value.shape):
            raise ParameterError(
                f"the grown parameters: {row.pattern}", expected=f"{math.prod(shape)} entries, as after growth",
                got=f"shape {list(value.shape)}",
                remedy="Pass what `grow` returned, not the parameters before growth.",
            )  # fmt: skip
        return NewEntries(axes=along, shape=shape, array_shape=tuple(value.shape))

    return map_leaves(grown, plan, entries, grown=True, where="the grown parameters")
