"""Applying a plan: one jitted function a parameter, built from one that grows a single layer of it."""

from collections.abc import Mapping
from functools import lru_cache, partial, singledispatch
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float
from tprog import GrowthError, ParameterError, check_tree
from tprog.params import Path
from tprog.tree import flatten, nest

from tritter_jax.dtypes import require_precision
from tritter_jax.growth.leaf import LeafGrowth, Quantity, grow_stack, leaf_growth
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.plan import Plan
from tritter_jax.growth.spread import Spread, check_divides, fitting, spread_of

Tree = Mapping[str, Any]


def grow(params: Any, plan: Plan | AxesPlan, shardings: Tree | None = None, *, donate: bool = False) -> Any:
    """The grown parameters: in `plan.target.dtype` where the plan converts, else each in its own.

    Scales are multiplied in float32 (float64 for float64) and rounded once. A parameter that is sharded over a mesh
    stays sharded alike; its entries travel from device to device, and none holds a whole parameter.

    Args:
        params: tree of arrays of `plan.source`; for a plan of `plan_axes` any pytree that its rows describe.
        plan: from `make_plan` or `plan_axes`.
        shardings: a tree of `NamedSharding` for the grown parameters, such as `param_shardings(plan.target, mesh)`;
            that of each old parameter when None. Needed inside `jax.jit`, where arrays do not tell theirs.
        donate: free each old parameter as soon as its grown one is computed; `params` is of no use afterwards.

    Raises:
        ParameterError: `params` is not a tree of `plan.source`, or not of floating-point arrays.
        GrowthError: the mesh does not divide the grown parameters; nothing has been computed.
        UsageError: the plan is for float64, and JAX is not set to compute in it.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> from tritter_jax.model import init_params
        >>> small = tprog.ModelConfig(hidden_size=20, num_layers=2, num_heads=2, num_kv_heads=1,
        ...                           intermediate_size=24, vocab_size=50)
        >>> large = tprog.ModelConfig(hidden_size=40, num_layers=3, num_heads=4, num_kv_heads=1,
        ...                           intermediate_size=48, vocab_size=50)
        >>> plan = make_plan(small, large, layers=[1])
        >>> grow(init_params(small), plan)["layers"]["mlp"]["up"].shape
        (3, 48, 40)
    """
    return grow_tree(plan, params, "weight", shardings, donate=donate)


def map_gradients(gradients: Any, plan: Plan | AxesPlan) -> Any:
    """What gradients taken at the old point are at the grown point, in their own dtype.

    The same map with the gradient scales: first moments of an optimizer move alike. Entries whose gradient the old
    ones do not determine get 0 (`AxisMap.mapped` tells which).

    Raises:
        ParameterError: `gradients` is not a tree of `plan.source`.
    """
    return grow_tree(plan, gradients, "gradient")


@singledispatch
def grow_tree(plan: Any, tree: Any, quantity: Quantity, shardings: Any = None, *, donate: bool = False) -> Any:
    """The leaves of a tree under a plan's maps; each kind of plan knows its kind of tree.

    Raises:
        GrowthError: it is no plan.
    """
    raise not_a_plan(plan)


def not_a_plan(given: Any) -> GrowthError:
    """The error of something that is passed as a plan and is none."""
    return GrowthError(
        "plan", expected="a plan of make_plan or plan_axes", got=type(given).__name__, remedy="Pass one of those."
    )


@grow_tree.register
def _(
    plan: Plan, tree: Any, quantity: Quantity, shardings: Tree | None = None, *, donate: bool = False
) -> dict[str, Any]:
    check_tree(tree, plan.source, where="the parameters to grow" if quantity == "weight" else "the gradients to map")
    if quantity == "weight":
        require_precision(plan.target.dtype)
    flat, grown = flatten(tree), {}
    odd = [".".join(path) for path, leaf in flat.items() if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if odd:
        raise ParameterError(
            odd[0], expected="floating-point numbers", got=flat[tuple(odd[0].split("."))].dtype,
            remedy="Only weights and what is shaped like them can grow.", findings=odd[1:],
        )  # fmt: skip
    spreads = plan_spreads({old.path: flat[old.path] for old, _ in plan.target_specs()}, plan, shardings)
    last: Path | None = None
    for old, _ in plan.target_specs():
        x = flat[old.path]
        if last is not None:
            x, grown[last] = one_by_one(x, grown[last])
        growth = leaf_growth(plan, old, quantity)
        grown[old.path] = grow_leaf(x, growth, spreads[old.path], donate=donate)
        last = old.path
    return nest(grown)


def one_by_one(x: Any, before: Any) -> tuple[Any, Any]:
    """What is to grow next and what has grown, as they are; within `jax.jit`, the one not before the other.

    XLA would grow all parameters at the same time, which takes several times the memory of the result.
    """
    if isinstance(x, Tracer) and isinstance(before, Tracer):
        x, before = jax.lax.optimization_barrier((x, before))
    return x, before


def plan_spreads(flat: Mapping[Path, Any], plan: Plan, shardings: Tree | None) -> dict[Path, Spread | None]:
    """How each parameter lies before growth and after; None for those that lie on one device.

    Args:
        flat: the old arrays by path; some may be missing.
        plan: the growth.
        shardings: those of the grown parameters; those of the old ones when None.

    Raises:
        GrowthError: the mesh does not divide the grown parameters; every axis is listed.
    """
    given = {} if shardings is None else flatten(shardings)
    due = {path: given.get(path, _sharding(x)) for path, x in flat.items()}
    check_divides([(new, due[new.path]) for _, new in plan.target_specs() if new.path in flat])
    spreads: dict[Path, Spread | None] = {}
    for path, sharding in due.items():
        own = _sharding(flat[path])
        spreads[path] = None if sharding is None else spread_of(flat[path].shape, own or sharding, sharding)
    return spreads


def _sharding(x: Any) -> NamedSharding | None:
    """The sharding of an array that lies on several devices; None for others, and for traced ones."""
    if isinstance(x, Tracer) or not isinstance(x, jax.Array):
        return None
    return x.sharding if isinstance(x.sharding, NamedSharding) and len(x.sharding.device_set) > 1 else None


def grow_leaf(
    x: Float[Array, "..."], growth: LeafGrowth, spread: Spread | None = None, *, donate: bool = False
) -> Float[Array, "..."]:
    """One parameter, or what is shaped like it, grown; compiled once a growth.

    Args:
        x: the old array.
        growth: what to do with it.
        spread: how it lies on a mesh, if it does.
        donate: free `x`.
    """
    if growth.steps and spread is not None:
        return _in_steps(x, growth.steps, spread, donate=donate)
    concrete = isinstance(x, jax.Array) and not isinstance(x, Tracer)
    reuse = donate and concrete and _grown_shape(x, growth) == x.shape and growth.dtype in (None, x.dtype.name)
    y = _compiled(growth, spread, reuse)(x)
    if donate and concrete and not x.is_deleted():
        x.delete()
    if spread is not None and not isinstance(y, Tracer) and _meets_others(spread.mesh):
        jax.block_until_ready(y)
    return y


def _meets_others(mesh: Mesh) -> bool:
    """Whether growths in flight could wait for each other: on processors, whose threads wait in several processes.

    A collective keeps a thread of XLA's pool until the other processes have come to it; programs that were started
    together, and a compilation meanwhile, want the threads that the others need to get there.
    """
    return jax.process_count() > 1 and mesh.devices.flat[0].platform == "cpu"


def _in_steps(x: Any, steps: tuple[LeafGrowth, ...], spread: Spread, *, donate: bool) -> Any:
    """One growth after the other, each result on the mesh as far as that divides it."""
    before = spread.before
    for number, step in enumerate(steps):
        after = fitting(spread.after, _grown_shape(x, step), spread.mesh)
        x = grow_leaf(x, step, Spread(spread.mesh, before, after), donate=donate or number > 0)
        before = after
    return x


def _grown_shape(x: Any, growth: LeafGrowth) -> tuple[int, ...]:
    return tuple(size if along is None else len(along) for size, along in zip(x.shape, growth.maps, strict=True))


@lru_cache(maxsize=512)
def _compiled(growth: LeafGrowth, spread: Spread | None, reuse: bool) -> Any:
    return jax.jit(
        partial(grow_stack, growth=growth, spread=spread),
        out_shardings=spread.sharding if spread else None,
        donate_argnums=(0,) if reuse else (),
    )
