"""Elastic weight consolidation: lambda / 2 sum F (theta - theta*)^2, which holds on to what earlier tasks need.

A step on a new task feels it in one of three ways:

loss + penalty(params, memory, strength)                             in the loss, clipped along with the task
optax.chain(clip, add_penalty(strength), adamw)                      as a gradient, behind the clipping
proximal(chain(clip, adamw), strength, schedule)                     as a step of its own, stable at any strength

The last two take what they hold on to with each update, `tx.update(gradients, state, params, memory=memory)`, so that
neither a compiled program nor an optimizer's state holds a copy of it. F is per token, as the loss is.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", equation 3. An explicit step of SGD
multiplies theta - theta* with 1 - rate lambda F and diverges where rate lambda F > 2; the proximal step divides it by
1 + rate lambda F (Parikh & Boyd 2014, "Proximal algorithms", section 4.2).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from tprog import UsageError

from tritter_jax.continual.memory import Memory, check_fit, check_strength
from tritter_jax.dtypes import wide_dtype


def penalty(params: Any, memory: Memory, strength: float) -> Float[Array, ""]:
    """lambda / 2 (sum F (theta - theta*)^2 + C), a term of the loss in nats a token, computed in at least float32.

    Args:
        params: the parameters theta.
        memory: F, theta* and C.
        strength: lambda.

    Raises:
        UsageError: lambda is negative or not finite.
        ParameterError: the memory is of another model.

    Example:
        >>> from tritter_jax.continual.memory import remember
        >>> float(penalty({"w": jnp.full(3, 2.0)}, remember({"w": jnp.ones(3)}, {"w": jnp.zeros(3)}), 10.0))
        60.0
    """
    check_strength(strength)
    memory = _given(memory, params)

    def leaf(theta: Array, fisher: Array, anchor: Array) -> Array:
        wide = wide_dtype(theta.dtype, fisher.dtype)
        return jnp.sum(fisher.astype(wide) * jnp.square(theta.astype(wide) - anchor.astype(wide)))

    terms = jax.tree.leaves(jax.tree.map(leaf, params, memory.fisher, memory.anchor))
    dtype = wide_dtype(*(term.dtype for term in terms))
    return strength / 2 * sum((term.astype(dtype) for term in terms), start=memory.constant.astype(dtype))


def add_penalty(strength: float) -> optax.GradientTransformationExtraArgs:
    """Add the penalty's gradient, lambda F (theta - theta*), to the gradients; `update` takes `memory`.

    Put it behind clipping, so that a large penalty does not drown the task, and before the optimizer.

    Args:
        strength: lambda.

    Raises:
        UsageError: lambda is negative or not finite; from `update`: no memory was given.
        ParameterError: from `update`: the memory is of another model.

    Example:
        >>> from tritter_jax.continual.memory import remember
        >>> params, memory = {"w": jnp.full(1, 2.0)}, remember({"w": jnp.ones(1)}, {"w": jnp.zeros(1)})
        >>> tx = optax.chain(optax.clip_by_global_norm(1.0), add_penalty(5.0), optax.sgd(0.1))
        >>> updates, _ = tx.update({"w": jnp.full(1, 3.0)}, tx.init(params), params, memory=memory)
        >>> round(float(updates["w"][0]), 4)  # -0.1 (1 + 5 * 2)
        -1.1
    """
    check_strength(strength)

    def update(
        updates: Any, state: Any, params: Any = None, *, memory: Memory | None = None, **extra: Any
    ) -> tuple[Any, Any]:
        memory = _given(memory, params)

        def leaf(gradient: Array, theta: Array, fisher: Array, anchor: Array) -> Array:
            wide = wide_dtype(theta.dtype, fisher.dtype)
            pull = strength * fisher.astype(wide) * (theta.astype(wide) - anchor.astype(wide))
            return (gradient.astype(wide) + pull).astype(gradient.dtype)

        return jax.tree.map(leaf, updates, params, memory.fisher, memory.anchor), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


class ProximalState(NamedTuple):
    """The optimizer's own state, and the number of steps taken, int32."""

    inner: Any
    steps: optax.ScaleByScheduleState


def proximal(
    optimizer: optax.GradientTransformation,
    strength: float,
    rate: optax.ScalarOrSchedule,
    *,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """After each step of an optimizer the exact proximal step, theta <- (theta + c theta*) / (1 + c).

    c = rate lambda F p in the optimizer's own metric: p is 1 / (sqrt(v / (1 - beta2^t)) + eps) where it keeps Adam's
    second moments v, else 1 (SGD; Lion and Muon, whose metric is no diagonal). So it comes to rest where the task's
    gradient and the penalty's cancel, as a small explicit step would, and never overshoots. `update` takes `memory`.

    Args:
        optimizer: a chain that ends in updates to be added to the parameters.
        strength: lambda.
        rate: the optimizer's learning rate, or its schedule by the number of steps from 0.
        beta2: Adam's.
        eps: Adam's.

    Raises:
        UsageError: lambda is negative or not finite; from `update`: no memory was given.
        ParameterError: from `update`: the memory is of another model.

    Example:
        >>> from tritter_jax.continual.memory import remember
        >>> params, memory = {"w": jnp.full(1, 2.0)}, remember({"w": jnp.ones(1)}, {"w": jnp.zeros(1)})
        >>> tx = proximal(optax.sgd(0.1), 10.0, 0.1)
        >>> updates, _ = tx.update({"w": jnp.zeros(1)}, tx.init(params), params, memory=memory)
        >>> optax.apply_updates(params, updates)["w"].tolist()
        [1.0]
    """
    check_strength(strength)
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> ProximalState:
        return ProximalState(optimizer.init(params), optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)))

    def update(
        updates: Any, state: Any, params: Any = None, *, memory: Memory | None = None, **extra: Any
    ) -> tuple[Any, Any]:
        memory = _given(memory, params)
        updates, inner = optimizer.update(updates, state.inner, params, **extra)
        now = jnp.asarray(rate(state.steps.count) if callable(rate) else rate)
        moments, count = second_moments(inner, params)

        def leaf(moved: Array, theta: Array, fisher: Array, anchor: Array, moment: Array | None) -> Array:
            wide = wide_dtype(theta.dtype, fisher.dtype)
            c = now.astype(wide) * strength * fisher.astype(wide)
            if moment is not None:
                spent = -jnp.expm1(count.astype(wide) * jnp.log(jnp.asarray(beta2, wide)))
                c = c / (jnp.sqrt(moment.astype(wide) / spent) + eps)
            # At c = infinity, c / (1 + c) would be no number.
            c = jnp.minimum(c, jnp.finfo(wide).max)
            due = anchor.astype(wide) - theta.astype(wide)
            return (moved.astype(wide) + c / (1 + c) * (due - moved.astype(wide))).astype(moved.dtype)

        moved = jax.tree.map(leaf, updates, params, memory.fisher, memory.anchor, moments)
        return moved, ProximalState(inner, optax.ScaleByScheduleState(state.steps.count + 1))

    return optax.GradientTransformationExtraArgs(init, update)


def second_moments(state: Any, params: Any) -> tuple[Any, Int[Array, ""]]:
    """Adam's second moments in an optimizer's state, like `params` with None where there are none; and its count."""
    leaves, tree = jax.tree.flatten(params)
    found: list[Any] = [None] * len(leaves)
    count = jnp.ones((), jnp.int32)

    def visit(node: Any) -> None:
        nonlocal count
        if isinstance(node, optax.ScaleByAdamState):
            count = node.count
            masked = jax.tree.leaves(node.nu, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode))
            for place, leaf in enumerate(masked):
                found[place] = found[place] if isinstance(leaf, optax.MaskedNode) else leaf
        elif isinstance(node, dict):
            for part in node.values():
                visit(part)
        elif isinstance(node, tuple | list):
            for part in node:
                visit(part)

    visit(state)
    return jax.tree.unflatten(tree, found), count


def _given(memory: Memory | None, params: Any) -> Memory:
    if memory is None or params is None:
        raise UsageError(
            "update", expected="the parameters, and what to hold on to", got="none",
            remedy="Call tx.update(gradients, state, params, memory=memory).",
        )  # fmt: skip
    check_fit(memory.fisher, params, where="fisher", like="the parameters")
    check_fit(memory.anchor, params, where="anchor", like="the parameters")
    return memory
