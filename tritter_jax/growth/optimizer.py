"""The state of any optax optimizer over the parameters, grown under the same maps as the weights."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from tprog import ParameterError, ParamSpec
from tprog.tree import nest

from tritter_jax.growth.apply import Tree, grow_leaf, one_by_one, plan_spreads
from tritter_jax.growth.moments import MOMENTS, moment_growth, transport
from tritter_jax.growth.optax_state import Unplaced, labelled, refuse_behind, refuse_fields
from tritter_jax.growth.own.optimizer import grow_own_moments
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.plan import Plan, choose
from tritter_jax.growth.spread import Spread

DEFAULT = next(iter(MOMENTS))
Optimizer = optax.GradientTransformation | optax.MultiSteps


def grow_optimizer(
    opt_state: Any,
    plan: Plan | AxesPlan,
    optimizer: Optimizer,
    shardings: Tree | None = None,
    *,
    strategy: str = DEFAULT,
    donate: bool = False,
) -> Any:
    """The state of an optimizer over the grown parameters, from its state over the old ones.

    Moments keep their dtype and, where they are sharded over a mesh, their sharding. Step counts, schedules,
    hyperparameters and keys stay as they are, but for `reset`, which gives what `optimizer.init` gives.

    `transport` is exact where the plan's gradients are (`Guarantee.gradients`) and what reaches the moments is linear
    in the gradients: the factor of an active clip by the global norm is not the grown model's own.

    Args:
        opt_state: state of `optimizer` over the parameters of `plan.source`.
        plan: from `make_plan` or `plan_axes`.
        optimizer: the optimizer. One for the grown model has a state of the same structure.
        shardings: those of the grown parameters, as for `grow`.
        strategy: a key of `MOMENTS`.
        donate: free each old moment as soon as its grown one is computed; `opt_state` is of no use afterwards.

    Raises:
        GrowthError: there is no such strategy, what a field of the state holds is not known, or the mesh does not
            divide the grown moments; nothing has been computed.
        ParameterError: the state is not of that optimizer, or not over the source's parameters.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> from tritter_jax.model import init_params
        >>> small = tprog.ModelConfig(hidden_size=20, num_layers=2, num_heads=2, num_kv_heads=1,
        ...                           intermediate_size=24, vocab_size=50)
        >>> large = tprog.ModelConfig(hidden_size=20, num_layers=2, num_heads=2, num_kv_heads=1,
        ...                           intermediate_size=48, vocab_size=50)
        >>> adam = optax.adam(1e-3)
        >>> state = adam.init(init_params(small))
        >>> grow_optimizer(state, make_plan(small, large), adam)[0].nu["layers"]["mlp"]["up"].shape
        (2, 48, 20)
    """
    chosen = choose("optimizer", strategy, MOMENTS)
    if isinstance(plan, AxesPlan):
        return grow_own_moments(opt_state, plan, optimizer, chosen)
    if chosen.factors is not None:
        refuse_unknown(opt_state, plan, optimizer)
    placed = _placed(opt_state, plan, optimizer)
    _check_shapes(placed)
    placed = jax.tree.map(lambda leaf: _spread(leaf, plan, shardings) if _fits(leaf) else leaf, placed)

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, _Moment):
            return leaf.value
        if chosen.factors is None and leaf.kind != "weight":
            return leaf
        assert leaf.kind is not None
        growth = moment_growth(plan, leaf.old, leaf.kind, chosen.factors or transport)
        return grow_leaf(leaf.value, growth, leaf.spread, donate=donate)

    if chosen.factors is not None:
        leaves, structure = jax.tree.flatten(placed)
        result: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, _Moment) and result:
                value, result[-1] = one_by_one(leaf.value, result[-1])
                leaf = replace(leaf, value=value)
            result.append(moved(leaf))
        return jax.tree.unflatten(structure, result)
    return jax.tree.map(
        lambda leaf, fresh: moved(leaf) if isinstance(leaf, _Moment) and leaf.kind == "weight" else fresh,
        placed,
        _begun(placed, plan, optimizer),
    )


@dataclass(frozen=True)
class _Moment(Unplaced):
    """A moment of a parameter, with the parameter's rows before and after, and how it lies on a mesh."""

    old: ParamSpec
    new: ParamSpec
    spread: Spread | None = None


def _fits(leaf: Any) -> bool:
    return isinstance(leaf, _Moment) and leaf.value.shape == leaf.old.shape


def _spread(moment: _Moment, plan: Plan, shardings: Tree | None) -> _Moment:
    path = moment.old.path
    return replace(moment, spread=plan_spreads({path: moment.value}, plan, shardings)[path])


def _placed(opt_state: Any, plan: Plan, optimizer: Optimizer) -> Any:
    """The state with a leaf of ours in place of each of its own: optax tells which belong to a parameter."""
    rows = nest({old.path: _Rows(old, new) for old, new in plan.target_specs()})
    try:
        return optax.tree.map_params(
            optimizer,
            lambda leaf, row: (
                _Moment(leaf.value, leaf.field, leaf.kind, row.old, row.new) if isinstance(leaf, Unplaced) else leaf
            ),
            labelled(opt_state),
            rows,
            is_leaf=lambda node: isinstance(node, optax.MaskedNode),
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ParameterError(
            "optimizer state",
            expected="that of the given optimizer, a tree like the parameters for each of its moments",
            got=f"another structure ({str(error).partition(chr(10))[0][:200]})",
            remedy="Pass the optimizer that the state was made with, or start over with optimizer.init.",
        ) from None


@dataclass(frozen=True)
class _Rows:
    old: ParamSpec
    new: ParamSpec


def refuse_unknown(opt_state: Any, plan: Plan, optimizer: Optimizer) -> None:
    """Refuse moments of which it is not known how they move.

    Args:
        opt_state: state of `optimizer` over the parameters of `plan.source`, or its abstract shapes.
        plan: from `make_plan`.
        optimizer: the optimizer.

    Raises:
        GrowthError: a field is not in `STATES`, or what it averages are no gradients.
        ParameterError: the state is not of that optimizer.
    """
    refuse_fields({leaf.field for leaf in _moments(_placed(opt_state, plan, optimizer)) if leaf.kind is None})
    refuse_behind(opt_state)


def _moments(placed: Any) -> list[_Moment]:
    return [leaf for leaf in jax.tree.leaves(placed) if isinstance(leaf, _Moment)]


def _check_shapes(placed: Any) -> None:
    """Hold the shapes of all moments against the source.

    Raises:
        ParameterError: some do not fit; every one is listed.
    """
    findings = [
        f"{leaf.field} of {leaf.old.name} has shape {list(leaf.value.shape)}, expected {list(leaf.old.shape)}"
        for leaf in _moments(placed)
        if leaf.kind is not None and leaf.value.shape != leaf.old.shape
    ]
    if findings:
        raise ParameterError(
            "optimizer state",
            expected="moments shaped like the parameters of the plan's source",
            got=f"{len(findings)} that are not",
            remedy="Grow the state that belongs to the parameters, with the same plan:",
            findings=findings,
        )


def _begun(placed: Any, plan: Plan, optimizer: Optimizer) -> Any:
    """What `optimizer.init` gives for the grown parameters, lying where the old state lies."""

    def init() -> Any:
        zeros = {new.path: jnp.zeros(new.shape, plan.target.dtype) for _, new in plan.target_specs()}
        return optimizer.init(nest(zeros))

    shardings = jax.tree.map(
        lambda leaf: leaf.spread.sharding if isinstance(leaf, _Moment) and leaf.spread else None, placed
    )
    return jax.jit(init, out_shardings=shardings)()
