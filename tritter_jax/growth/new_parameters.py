"""Which entries of a grown model are new: a product of one vector an axis, so the mask costs no memory."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool
from tprog.tree import nest

from tritter_jax.growth.plan import Plan


@dataclass(frozen=True)
class NewEntries:
    """The new entries of one grown parameter: those that are new along at least one axis.

    Args:
        axes: for each axis a bool vector, true at new indices; None where the axis did not grow.
        shape: shape of the grown parameter.
    """

    axes: tuple[Bool[np.ndarray, " _"] | None, ...]
    shape: tuple[int, ...]

    def old(self) -> Bool[Array, "..."]:
        """True at entries that continue an old one (its first copy)."""
        mask = jnp.ones(self.shape, bool)
        for axis, new in enumerate(self.axes):
            if new is not None:
                vector = jnp.asarray(~new).reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
                mask &= jnp.broadcast_to(vector, self.shape)
        return mask

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


def new_parameters(plan: Plan) -> dict[str, Any]:
    """The new entries of every parameter, as a tree of `NewEntries` in the shape of the grown parameters.

    Train only what is new with `jax.tree.map(lambda n, g: jnp.where(n.new(), g, 0), new_parameters(plan), grads)`.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> plan = make_plan(tprog.named_size("3B"), tprog.named_size("7B"))
        >>> new_parameters(plan)["norm"].count
        1536
    """
    return nest(
        {
            grown.path: NewEntries(
                axes=tuple(None if along is None else along.new for along in plan.axis_maps(old)),
                shape=grown.shape,
            )
            for old, grown in plan.target_specs()
        }
    )
