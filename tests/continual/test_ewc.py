"""The penalty in its three forms, several tasks in the memory of one, and what is refused."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tprog import ParameterError, UsageError, VerificationError

from tests.continual.references import tiny_config, tiny_params, vector
from tests.support import random_params
from tritter_jax.continual.ewc import add_penalty, penalty, proximal
from tritter_jax.continual.memory import TASKS, join, remember
from tritter_jax.growth import grow, grow_optimizer, make_plan
from tritter_jax.train.config import OptimizerSection
from tritter_jax.train.optimizer import OPTIMIZERS, make_optimizer

CONFIG = tiny_config()


def some_fisher(seed: int, config=CONFIG) -> dict:
    """Some of it zero, as dead units leave it."""
    drawn = random_params(config, seed=seed)
    return jax.tree.map(lambda leaf: jnp.where(leaf > 0.1, jnp.square(leaf), 0), drawn)


def tasks(count: int):
    return [remember(some_fisher(10 + i), random_params(CONFIG, seed=20 + i)) for i in range(count)]


def brute(params, memories) -> float:
    return sum(
        float((vector(memory.fisher) * (vector(params) - vector(memory.anchor)) ** 2).sum()) for memory in memories
    )


def joined(memories, **options) -> Any:
    memory = None
    for each in memories:
        memory = join(memory, each, **options)
    return memory


@pytest.mark.usefixtures("x64")
def test_the_penalty_is_half_lambda_times_the_weighted_squares():
    params, (memory,) = tiny_params(CONFIG), tasks(1)
    assert float(penalty(params, memory, 7.0)) == pytest.approx(3.5 * brute(params, [memory]), rel=1e-12)
    assert float(penalty(memory.anchor, memory, 7.0)) == 0


@pytest.mark.usefixtures("x64")
def test_separate_is_the_sum_of_every_tasks_own_penalty_in_the_memory_of_one():
    memories = tasks(4)
    memory = joined(memories)
    assert jax.tree.structure(memory) == jax.tree.structure(memories[0])
    for seed in (0, 1):
        params = random_params(CONFIG, seed=seed)
        assert float(penalty(params, memory, 2.0)) == pytest.approx(brute(params, memories), rel=1e-12)
        sums = jax.tree.map(lambda *leaves: sum(leaves), *(jax.grad(penalty)(params, each, 2.0) for each in memories))
        np.testing.assert_allclose(
            vector(jax.grad(penalty)(params, memory, 2.0)), vector(sums), rtol=1e-9, atol=1e-12
        )
    silent = vector(memory.fisher) == 0
    assert silent.any()
    np.testing.assert_array_equal(vector(memory.anchor)[silent], vector(memories[-1].anchor)[silent])


@pytest.mark.usefixtures("x64")
def test_online_fades_and_single_forgets():
    memories = tasks(3)
    fisher = [vector(memory.fisher) for memory in memories]
    online = joined(memories, rule="online", gamma=0.5)
    np.testing.assert_allclose(vector(online.fisher), 0.25 * fisher[0] + 0.5 * fisher[1] + fisher[2], rtol=1e-12)
    np.testing.assert_array_equal(vector(online.anchor), vector(memories[2].anchor))
    single = joined(memories, rule="single")
    np.testing.assert_array_equal(vector(single.fisher), fisher[2])
    values = {float(penalty(tiny_params(CONFIG), joined(memories, rule=rule), 1.0)) for rule in TASKS}
    assert len(values) == len(TASKS)


@pytest.mark.usefixtures("x64")
def test_the_transform_adds_the_gradient_of_the_loss_term():
    params, (memory,) = tiny_params(CONFIG), tasks(1)
    gradient = random_params(CONFIG, seed=5)
    tx = add_penalty(3.0)
    found, _ = tx.update(gradient, tx.init(params), params, memory=memory)
    due = jax.tree.map(jnp.add, gradient, jax.grad(penalty)(params, memory, 3.0))
    np.testing.assert_allclose(vector(found), vector(due), rtol=1e-12)


def test_behind_the_clipping_a_large_penalty_does_not_drown_the_task():
    params = {"task": jnp.zeros(1), "old": jnp.ones(1)}
    memory = remember({"task": jnp.zeros(1), "old": jnp.ones(1)}, jax.tree.map(jnp.zeros_like, params))
    gradient = {"task": jnp.ones(1), "old": jnp.zeros(1)}
    moved = {}
    for name, parts in (
        ("behind", (optax.clip_by_global_norm(1.0), add_penalty(1e6))),
        ("before", (add_penalty(1e6), optax.clip_by_global_norm(1.0))),
    ):
        tx = optax.chain(*parts)
        updates: Any = tx.update(gradient, tx.init(params), params, memory=memory)[0]
        moved[name] = float(updates["task"][0])
    assert moved["behind"] == 1
    assert moved["before"] < 1e-5


def run(tx, steps: int, memory, start: float = 1.0, target: float | None = None) -> np.ndarray:
    """Distances to 0 on the way, of a task whose loss is half the squared distance to `target`."""

    def step(carry: Any, _):
        params, state = carry
        gradient = jax.tree.map(lambda x: jnp.zeros_like(x) if target is None else x - target, params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(gradient, state, params, memory=memory)
        params: Any = optax.apply_updates(params, updates)
        return (params, state), params["w"][0]

    params = jax.tree.map(lambda leaf: jnp.full_like(leaf, start), memory.anchor)
    return np.asarray(jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))((params, tx.init(params)))[1])


def memory_of(fisher: float, anchor: float = 0.0):
    return remember({"w": jnp.full(1, fisher)}, {"w": jnp.full(1, anchor)})


@pytest.mark.parametrize("product", [0.5, 1.9, 2.1, 1000.0])
def test_explicit_sgd_diverges_beyond_two_and_the_proximal_step_never(product):
    strength, rate = 1e6, 0.01
    memory = memory_of(product / (strength * rate))
    explicit = np.abs(run(optax.chain(add_penalty(strength), optax.sgd(rate)), 60, memory))
    assert (explicit[-1] < 0.01) == (product < 2)
    if product > 2:
        assert not explicit[-1] < 100
    stable = np.abs(run(proximal(optax.sgd(rate), strength, rate), 60, memory))
    assert (np.diff(np.concatenate([[1.0], stable])) <= 0).all()
    assert stable[-1] < 1e-6
    np.testing.assert_allclose(stable[0], 1 / (1 + product), atol=1e-6)


def test_a_strength_beyond_all_numbers_lands_on_the_anchor():
    found = run(proximal(optax.adam(0.1), 1e30, 0.1), 3, memory_of(1e20, anchor=0.25), target=3.0)
    np.testing.assert_array_equal(found, np.float32(0.25))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_proximal_step_rests_where_task_and_penalty_balance(name):
    """Half (w - 3)^2 + 4/2 (w - 1)^2 is least at 7/5, for every metric."""
    rate = optax.exponential_decay(0.05, 100, 0.8)
    tx = {"sgd": optax.sgd, "adam": optax.adam}[name](rate)
    found = run(proximal(tx, 2.0, rate), 6000, memory_of(2.0, anchor=1.0), target=3.0)
    assert found[-1] == pytest.approx(1.4, abs=2e-3)


@pytest.mark.usefixtures("x64")
def test_the_proximal_step_is_in_adams_own_metric():
    """A small penalty pulls by rate lambda F (theta* - theta) / (sqrt(v) + eps), v with its correction."""
    params, (memory,) = tiny_params(CONFIG), tasks(1)
    rate, strength, beta2, eps = 0.01, 1e-6, 0.95, 1e-4
    adam = optax.adam(rate, b2=beta2, eps=eps)
    tx, state, plain = proximal(adam, strength, rate, beta2=beta2, eps=eps), None, adam.init(params)
    state = tx.init(params)
    square = np.zeros_like(vector(params))
    updates = moved = None
    with jax.numpy_dtype_promotion("standard"):
        for seed in (5, 6):
            gradient = random_params(CONFIG, seed=seed)
            square = beta2 * square + (1 - beta2) * vector(gradient) ** 2
            moved, state = tx.update(gradient, state, params, memory=memory)
            updates, plain = adam.update(gradient, plain, params)
    scale = rate / (np.sqrt(square / (1 - beta2**2)) + eps)
    due = scale * strength * vector(memory.fisher) * (vector(memory.anchor) - vector(params) - vector(updates))
    np.testing.assert_allclose(vector(moved) - vector(updates), due, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_both_forms(name):
    config = replace(CONFIG, dtype="float32")
    params, gradient = random_params(config), random_params(config, seed=5)
    memory = remember(some_fisher(3, config), random_params(config, seed=6))
    section = OptimizerSection(name=name)
    inner = make_optimizer(section, optax.constant_schedule(1e-3), config)
    forms = {
        strength: proximal(inner, strength, 1e-3, beta2=section.beta2, eps=section.eps) for strength in (0.0, 1e20)
    }
    moved = {}
    with jax.numpy_dtype_promotion("standard"):
        for strength, tx in forms.items():
            moved[strength] = tx.update(gradient, tx.init(params), params, memory=memory)[0]
        alone = inner.update(gradient, inner.init(params), params)[0]
        behind = optax.chain(optax.clip_by_global_norm(1.0), add_penalty(10.0), inner)
        pulled = behind.update(gradient, behind.init(params), params, memory=memory)[0]
    np.testing.assert_array_equal(vector(moved[0.0]), vector(alone))
    held = vector(memory.fisher) > 0
    landed = vector(optax.apply_updates(params, moved[1e20]))
    np.testing.assert_allclose(landed[held], vector(memory.anchor)[held], atol=1e-6)
    np.testing.assert_array_equal(vector(moved[1e20])[~held], vector(alone)[~held])
    assert np.abs(vector(pulled) - vector(alone)).max() > 1e-4


def test_the_state_of_both_forms_grows_with_the_model():
    config = replace(CONFIG, dtype="float32")
    params = random_params(config)
    plan = make_plan(config, replace(config, intermediate_size=20, num_layers=3))
    memory = remember(some_fisher(3, plan.target), random_params(plan.target, seed=6))
    for tx in (
        proximal(optax.adamw(1e-3), 10.0, 1e-3),
        optax.chain(optax.clip_by_global_norm(1.0), add_penalty(10.0), optax.adamw(1e-3)),
    ):
        state = grow_optimizer(tx.init(params), plan, tx)
        grown = grow(params, plan)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = tx.update(random_params(plan.target, seed=5), state, grown, memory=memory)
        assert np.isfinite(vector(updates)).all()
        old = remember(some_fisher(3, config), params)
        with pytest.raises(ParameterError, match=r"layers.mlp.up has shape \[2, 12, 8\], expected \[3, 20, 8\]"):
            tx.update(updates, state, grown, memory=old)


def test_what_cannot_be_held_on_to_is_refused():
    good, at = {"a": jnp.ones(2), "b": jnp.ones(3)}, {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    memory = remember(good, at)
    for fisher, anchor, said in (
        (good | {"a": jnp.array([1.0, -2.0])}, at, "fisher a has negative values, the least -2"),
        (good | {"b": jnp.array([1.0, jnp.nan, 1])}, at, "fisher b has values that are not finite"),
        (good | {"b": jnp.array([1.0, jnp.inf, 1])}, at, "fisher b has values that are not finite"),
        (good, at | {"a": jnp.array([jnp.nan, 0])}, "anchor a has values that are not finite"),
    ):
        with pytest.raises(VerificationError, match=said):
            remember(fisher, anchor)
    with pytest.raises(ParameterError) as caught:
        remember({"a": jnp.ones(3), "c": jnp.ones(1)}, at)
    assert len(caught.value.findings) == 3
    other = remember({"a": jnp.ones(2)}, {"a": jnp.ones(2)})
    with pytest.raises(ParameterError, match="b is missing"):
        join(memory, other)
    with pytest.raises(ParameterError, match="b is missing"):
        penalty(at, other, 1.0)
    for strength in (-1.0, float("nan"), float("inf")):
        for use in (lambda s: penalty(at, memory, s), add_penalty, lambda s: proximal(optax.sgd(0.1), s, 0.1)):
            with pytest.raises(UsageError, match="lambda: expected a finite number, 0 or more"):
                use(strength)
    with pytest.raises(UsageError, match="expected one of separate, online, single, got 'all'"):
        join(memory, memory, rule="all")
    with pytest.raises(UsageError, match=r"gamma: expected a number from 0 to 1, got 1\.5"):
        join(memory, memory, rule="online", gamma=1.5)
    for tx in (add_penalty(1.0), proximal(optax.sgd(0.1), 1.0, 0.1)):
        with pytest.raises(UsageError, match="what to hold on to"):
            tx.update(at, tx.init(at), at)
