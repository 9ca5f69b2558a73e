"""Fisher information over a tree that rows describe, grown as the tree is."""

from typing import Any

from tritter_jax.growth.fisher import FISHER, fisher_growth, grow_fisher_layer
from tritter_jax.growth.own.grow import grow_by
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.plan import choose


def grow_fisher(fisher: Any, plan: AxesPlan, *, rule: str = "preserve") -> Any:
    """The diagonal Fisher information of the grown parameters, in the dtypes that it has.

    Entries that are fresh, or begin at zero, get the median of the old ones of their leaf and layer.

    Args:
        fisher: a tree like the parameters before growth, [shape of the parameter] each.
        plan: from `plan_axes`.
        rule: a key of `FISHER`.

    Raises:
        GrowthError: there is no such rule.
        ParameterError: the tree is not the one that the plan's rows describe.

    Example:
        >>> import jax.numpy as jnp
        >>> from tritter_jax.growth import plan_axes
        >>> rows = {"up": "hidden:read mlp:copy", "down": "mlp:read hidden:write"}
        >>> plan = plan_axes(rows, before={"hidden": 2, "mlp": 1}, after={"mlp": 2}, split="even")
        >>> grow_fisher({"up": jnp.ones((2, 1)), "down": jnp.ones((1, 2))}, plan)["down"].tolist()
        [[2.0, 2.0], [2.0, 2.0]]
    """
    chosen = choose("fisher", rule, FISHER)
    return grow_by(
        fisher,
        plan,
        lambda row: fisher_growth(plan, plan.placed(row, plan.before), chosen),
        kernel=grow_fisher_layer,
        where="the Fisher information to grow",
    )
