"""Growing a checkpoint straight onto a mesh: no host ever holds the model, old or grown."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tprog import GrowthError, ParamSpec
from tprog.finite import WIDER, largest, not_finite
from tprog.flax_load import load_parameter, spread_over
from tprog.flax_state import restore_optimizer
from tprog.params import Path
from tprog.reader import Checkpoint
from tprog.source import TensorSource
from tprog.tree import nest

from tritter_jax.dtypes import require_precision
from tritter_jax.growth.apply import Tree, grow_leaf
from tritter_jax.growth.carry import NO_MOMENTS
from tritter_jax.growth.compare import check_source
from tritter_jax.growth.leaf import leaf_growth
from tritter_jax.growth.moments import MOMENTS, moment_growth, slot_kinds, unknown_slots
from tritter_jax.growth.optimizer import Optimizer, refuse_unknown
from tritter_jax.growth.plan import Plan, choose
from tritter_jax.growth.spread import Spread, check_divides, spread_of
from tritter_jax.model import abstract_params


def grow_onto(checkpoint: Checkpoint, plan: Plan, shardings: Tree) -> dict[str, Any]:
    """The grown parameters on their devices, from the source's files: what `grow` gives for the same shardings.

    One parameter after the other is read as it will lie, each process reading what its own devices hold of it, grown
    on the devices, and freed. Beside the grown parameters there is never more than one old one.

    Args:
        checkpoint: the source, open.
        plan: from `make_plan`, for the source's configuration.
        shardings: a tree of `NamedSharding` for the grown parameters, such as `param_shardings(plan.target, mesh)`.

    Raises:
        GrowthError: the plan is for another model, or the mesh does not divide the grown one; nothing has been read.
        FormatError: a grown parameter is not finite: its dtype is too narrow, or the source is not finite.
        ParameterError: there is no sharding for some parameter.
        UsageError: the plan is for float64, and JAX is not set to compute in it.
    """
    check_source(plan.source, checkpoint.config)
    require_precision(plan.target.dtype)
    spread = _spread(plan, shardings)
    grown = {}
    for old, _ in plan.target_specs():
        x = load_parameter(checkpoint, checkpoint.config, old, sharding=spread[old.path].old_sharding)
        grown[old.path] = grow_leaf(x, leaf_growth(plan, old, "weight"), spread[old.path], donate=True)
        _require_finite(grown[old.path], old.name, WIDER)
    return nest(grown)


def grow_optimizer_onto(
    checkpoint: Checkpoint,
    plan: Plan,
    optimizer: Optimizer,
    shardings: Tree,
    *,
    strategy: str = next(iter(MOMENTS)),
) -> Any:
    """The grown optimizer's state on the devices, from the source's files, one moment after the other as `grow_onto`.

    Moments keep the dtype that they are stored in. What is refused is refused before anything is read.

    Args:
        checkpoint: the source, open, with the state of an optimizer.
        plan: from `make_plan`, for the source's configuration.
        optimizer: the optimizer.
        shardings: those of the grown parameters; moments lie as they do.
        strategy: a key of `MOMENTS`; not `reset`, of which `optimizer.init` gives the state.

    Raises:
        GrowthError: the plan is for another model, the mesh does not divide the grown one, or what a field of the
            state holds is not known.
        FormatError: a grown moment is not finite.
        ParameterError: moments are missing, or there is no sharding for some parameter.
        UsageError: the checkpoint has no optimizer state.
    """
    check_source(plan.source, checkpoint.config)
    factors, spread = choose("optimizer", strategy, MOMENTS).factors, _spread(plan, shardings)
    if factors is None:
        raise GrowthError(
            f"optimizer {strategy}", expected="a strategy that moves what is stored", got="one that begins anew",
            remedy="Call `optimizer.init` on the grown parameters.",
        )  # fmt: skip
    refuse_unknown(jax.eval_shape(optimizer.init, abstract_params(plan.source)), plan, optimizer)
    kinds = slot_kinds()

    def read(slot: str, stored: TensorSource, old: ParamSpec, _: Any) -> Any:
        if slot not in kinds:
            raise unknown_slots([slot])
        x = load_parameter(stored, plan.source, old, sharding=spread[old.path].old_sharding)
        growth = moment_growth(plan, old, kinds[slot], factors)
        grown = grow_leaf(x, growth, spread[old.path], donate=True)
        _require_finite(grown, f"{slot}.{old.name}", NO_MOMENTS)
        return grown

    return restore_optimizer(checkpoint, jax.eval_shape(optimizer.init, abstract_params(plan.target)), read)


def _require_finite(x: jax.Array, name: str, remedy: str) -> None:
    if not bool(jnp.isfinite(x).all()):
        raise not_finite(name, x.dtype.name, largest(np.dtype(x.dtype)), None, remedy)


def _spread(plan: Plan, shardings: Tree) -> dict[Path, Spread]:
    """How every parameter lies on the mesh before and after."""
    given: dict[Path, Any] = dict(spread_over(shardings, plan.target))
    check_divides([(new, given[new.path]) for _, new in plan.target_specs()])
    return {old.path: spread_of(old.shape, given[new.path], given[new.path]) for old, new in plan.target_specs()}
