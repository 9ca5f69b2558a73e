"""What training carries from step to step."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from tprog import ModelConfig

from tritter_jax.continual import Memory
from tritter_jax.growth import MOMENTS, Plan, grow, grow_optimizer
from tritter_jax.sharding import DEFAULT_RULES, Rules, param_shardings, replicated


class TrainState(NamedTuple):
    """Parameters, the optimizer's state, the number of steps taken (int32), and the key of whatever is drawn.

    The fields may also hold what describes them: abstract shapes, or shardings.
    """

    params: Any
    opt_state: Any
    step: Any
    key: Any


def new_state(params: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(params, optimizer.init(params), jnp.int32(0), jax.random.key(seed))


def grow_state(
    state: TrainState,
    plan: Plan,
    optimizer: optax.GradientTransformation,
    shardings: TrainState | None = None,
    *,
    strategy: str = next(iter(MOMENTS)),
    donate: bool = False,
) -> TrainState:
    """The training state of the grown model; step and key are as they were.

    Args:
        state: that of `plan.source`.
        plan: from `make_plan`.
        optimizer: the optimizer of the state.
        shardings: those of the grown state, from `state_shardings`; those of the old one when None. Needed inside
            `jax.jit`, where arrays do not tell theirs.
        strategy: a key of `tritter_jax.growth.MOMENTS`.
        donate: free each old array as soon as its grown one is computed; `state` is of no use afterwards.

    Raises:
        ParameterError: parameters or moments are not those of the plan's source.
        GrowthError: the optimizer's state cannot be moved, or the mesh does not divide the grown model.
    """
    params = None if shardings is None else shardings.params
    # The moments first: whatever is refused is refused before a parameter is freed.
    opt_state = grow_optimizer(state.opt_state, plan, optimizer, params, strategy=strategy, donate=donate)
    return state._replace(params=grow(state.params, plan, params, donate=donate), opt_state=opt_state)


def state_shardings(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    config: ModelConfig,
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
) -> TrainState:
    """A state of shardings: what has the shape of a parameter lies as it does, all else on every device.

    Args:
        optimizer: the optimizer of the state.
        state: a state, or its abstract shapes.
        config: the model.
        mesh: the devices.
        rules: logical axis to mesh axis.

    Raises:
        UsageError: the mesh does not divide the model.
    """
    params, whole = param_shardings(config, mesh, rules), replicated(mesh)
    opt_state = optax.tree.map_params(
        optimizer,
        lambda leaf, sharding: leaf if isinstance(leaf, optax.MaskedNode) else sharding,
        state.opt_state,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    return TrainState(params, opt_state, whole, whole)


def memory_shardings(config: ModelConfig, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Memory:
    """A memory of shardings: Fisher information and anchor lie as the parameters do.

    Raises:
        UsageError: the mesh does not divide the model.
    """
    params, constant = param_shardings(config, mesh, rules), cast(Any, replicated(mesh))
    return Memory(params, params, constant)
