"""Growing a checkpoint straight onto a mesh: no host ever holds the model, old or grown."""

from typing import Any

from tprog import ParameterError
from tprog.flax_load import load_parameter
from tprog.params import flatten, nest
from tprog.reader import Checkpoint

from tritter_jax.dtypes import require_precision
from tritter_jax.growth.apply import Tree, grow_leaf
from tritter_jax.growth.compare import check_source
from tritter_jax.growth.leaf import leaf_growth
from tritter_jax.growth.plan import Plan
from tritter_jax.growth.spread import check_divides, spread_of


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
        ParameterError: there is no sharding for some parameter.
        UsageError: the plan is for float64, and JAX is not set to compute in it.
    """
    check_source(plan.source, checkpoint.config)
    require_precision(plan.target.dtype)
    given = flatten(shardings)
    missing = [new.name for _, new in plan.target_specs() if new.path not in given]
    if missing:
        raise ParameterError(
            "shardings", expected="one for every grown parameter", got=f"{len(missing)} without",
            remedy="Build the tree with `param_shardings(plan.target, mesh)`:", findings=missing,
        )  # fmt: skip
    check_divides([(new, given[new.path]) for _, new in plan.target_specs()])
    grown = {}
    for old, new in plan.target_specs():
        spread = spread_of(old.shape, given[new.path], given[new.path])
        x = load_parameter(checkpoint, checkpoint.config, old, sharding=spread.old_sharding)
        grown[new.path] = grow_leaf(x, leaf_growth(plan, old, "weight"), spread, donate=True)
    return nest(grown)
