"""The training step and the evaluation step: pure functions, jitted once a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Shaped
from tprog import ModelConfig

from tritter_jax.continual import Memory, penalty
from tritter_jax.model import token_losses
from tritter_jax.model.remat import DEFAULT
from tritter_jax.sharding import DEFAULT_RULES, Rules, batch_sharding, param_shardings, replicated, split_batch
from tritter_jax.train.processors import product_options
from tritter_jax.train.state import TrainState, memory_shardings, state_shardings

Metrics = dict[str, Float[Array, ""] | Bool[Array, ""]]


class Sums(NamedTuple):
    """Negative log-likelihood summed over tokens, in nats, and the number of tokens."""

    nll: Float[Array, ""]
    tokens: Float[Array, ""]


def token_nll(
    params: Any,
    windows: Int[Array, "b s1"],
    config: ModelConfig,
    *,
    weights: Shaped[Array, "b s"] | None = None,
    dtype: str | None = None,
    remat: str = DEFAULT,
) -> Sums:
    """Sum of the negative log-likelihood of each window's tokens but the first, given those before.

    Args:
        params: tree of parameters.
        windows: token ids [B, S + 1].
        config: the model.
        weights: 0 for targets that do not count (padding), 1 for the others; None for all.
        dtype: dtype of the computation up to the logits; the loss is computed in at least float32.
        remat: what the backward pass computes again, a key of `tritter_jax.model.REMAT`.
    """
    loss = token_losses(params, windows, config, dtype=dtype, remat=remat)
    if weights is None:
        return Sums(jnp.sum(loss), jnp.asarray(loss.size, loss.dtype))
    counted = jnp.sum(weights.astype(bool), dtype=jnp.int32)  # ones added up in float32 stop counting at 2^24
    return Sums(jnp.sum(loss * weights.astype(loss.dtype)), counted.astype(loss.dtype))


def train_step(
    state: TrainState,
    windows: Int[Array, "b s1"],
    memory: Memory | None = None,
    *,
    number: Int[Array, ""] | int | None = None,
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    strength: float = 0.0,
    accumulate: int = 1,
    dtype: str | None = None,
    remat: str = DEFAULT,
) -> tuple[TrainState, Metrics]:
    """One step on one batch; where loss or gradient is not finite, the state stays as it was.

    Args:
        state: what came out of the last step.
        windows: token ids [B, S + 1]; `accumulate` divides B.
        memory: what to hold on to of earlier tasks, for an optimizer that takes it.
        number: number of steps that the caller has asked for before. Where the state has taken fewer, one of them was
            not finite, and this one changes nothing either: the caller may ask for steps before it has looked at
            the last, and no batch behind a bad one is learned. None takes the step from any state.
        config: the model.
        optimizer: an optax chain.
        strength: lambda, for `penalty` among the numbers.
        accumulate: number of parts whose gradients are summed one after the other, to save memory.
        dtype: dtype of the computation; masters and moments keep theirs.
        remat: what the backward pass computes again, a key of `tritter_jax.model.REMAT`.

    Returns:
        The next state, and `loss` (mean nats a token), `grad_norm`, both of the task alone, `finite`, and, with a
        memory, `penalty`.
    """

    def loss(params: Any, part: Int[Array, "b s1"]) -> Float[Array, ""]:
        sums = token_nll(params, part, config, dtype=dtype, remat=remat)
        return sums.nll / sums.tokens

    if accumulate == 1:
        value, gradients = jax.value_and_grad(loss)(state.params, windows)
    else:
        # Every part has rows of every shard, which stay where they are.
        parts = windows.reshape(-1, accumulate, windows.shape[1]).swapaxes(0, 1)

        def add(total: Any, part: Int[Array, "b s1"]) -> tuple[Any, None]:
            part = split_batch(part)
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(state.params, part)), None

        shapes = jax.eval_shape(jax.value_and_grad(loss), state.params, parts[0])
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zero, parts)
        value, gradients = jax.tree.map(lambda leaf: leaf / jnp.asarray(accumulate, leaf.dtype), total)

    norm = optax.tree.norm(gradients)
    metrics = {"loss": value, "grad_norm": norm}
    if memory is not None:
        metrics["penalty"] = penalty(state.params, memory, strength)
    finite = jnp.all(jnp.stack([jnp.isfinite(value) for value in metrics.values()]))
    if number is not None:
        finite &= state.step == number
    held = {} if memory is None else {"memory": memory}

    def update(state: TrainState) -> TrainState:
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, **held)
        return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1, state.key)

    return jax.lax.cond(finite, update, lambda same: same, state), metrics | {"finite": finite}


TrainStep = Callable[..., tuple[TrainState, Metrics]]
"""From a state, a batch, the number of steps before, and a memory if there is one, to the next state and numbers."""


def compile_train_step(
    abstract: TrainState,
    mesh: Mesh,
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    *,
    rules: Rules = DEFAULT_RULES,
    strength: float = 0.0,
    **options: Any,
) -> TrainStep:
    """`train_step` jitted over a mesh, the state sharded by the rules and donated; a `strength` wants a memory.

    Raises:
        UsageError: the mesh does not divide the model.
    """
    state = state_shardings(optimizer, abstract, config, mesh, rules)
    held = (memory_shardings(config, mesh, rules),) if strength else ()

    def step(state: Any, windows: Any, number: Any, *held: Any) -> tuple[TrainState, Metrics]:
        return train_step(
            state, windows, *held, number=number, config=config, optimizer=optimizer, strength=strength, **options
        )

    return jax.jit(
        step,
        in_shardings=(state, batch_sharding(mesh), replicated(mesh), *held),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
        compiler_options=product_options(mesh.devices.flat[0].platform),
    )


def compile_all_finite(mesh: Mesh) -> Callable[[Any], Bool[Array, ""]]:
    """Whether every number of a tree of arrays is finite, jitted over a mesh; integers and keys are passed over."""

    def all_finite(tree: Any) -> Bool[Array, ""]:
        numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in numbers]))

    return jax.jit(all_finite, out_shardings=replicated(mesh))


def compile_eval_step(
    mesh: Mesh, config: ModelConfig, *, rules: Rules = DEFAULT_RULES, dtype: str | None = None
) -> Callable[[Any, Any, Any], Sums]:
    """`token_nll` with weights, jitted over a mesh."""

    def run(params: Any, windows: Int[Array, "b s1"], weights: Shaped[Array, "b s"]) -> Sums:
        return token_nll(params, windows, config, weights=weights, dtype=dtype)

    params, rows = param_shardings(config, mesh, rules), batch_sharding(mesh)
    return jax.jit(run, in_shardings=(params, rows, rows), out_shardings=replicated(mesh))
