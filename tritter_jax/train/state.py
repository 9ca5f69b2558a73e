"""What training carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from tprog import ModelConfig

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
