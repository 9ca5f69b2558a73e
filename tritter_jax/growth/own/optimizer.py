"""The state of any optax optimizer over a tree that rows describe, grown as the tree is."""

from typing import Any

import jax
import optax
from tprog import GrowthError

from tritter_jax.growth.moments import MomentStrategy, moment_growth
from tritter_jax.growth.optax_state import Unplaced, labelled, refuse_behind, refuse_fields
from tritter_jax.growth.own.grow import grow_by
from tritter_jax.growth.own.plan import AxesPlan


def grow_own_moments(
    opt_state: Any, plan: AxesPlan, optimizer: optax.GradientTransformation | optax.MultiSteps, chosen: MomentStrategy
) -> Any:
    """The state of an optimizer over the grown tree, from its state over the old one.

    Raises:
        GrowthError: what a field of the state holds is not known, or the strategy keeps nothing of it.
        ParameterError: the state is not over the tree that the plan's rows describe.
    """
    factors = chosen.factors
    if factors is None:
        raise GrowthError(
            f"optimizer {chosen.name}", expected="a strategy that moves moments", got="one that starts from none",
            remedy="Call optimizer.init with the grown parameters.",
        )  # fmt: skip
    refuse_behind(opt_state)
    unknown: set[str] = set()

    def moved(tree: Any) -> Any:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Unplaced)]
        kind = leaves[0].kind if leaves else "gradient"
        if kind is None:
            unknown.add(leaves[0].field)
            return tree
        values = _values(tree)
        return grow_by(
            values, plan, lambda row: moment_growth(plan, plan.placed(row, plan.before), kind, factors),
            where=f"optimizer state {leaves[0].field}" if leaves else "optimizer state",
        )  # fmt: skip

    grown = optax.tree.map_params(optimizer, moved, labelled(opt_state), is_leaf=lambda _: True)
    refuse_fields(unknown)
    return _values(grown)


def _values(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.value if isinstance(leaf, Unplaced) else leaf, tree)
