"""New entries are warmed up again, or trained alone: by optax transforms that know them from the plan."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tprog import ModelConfig
from tprog.tree import flatten

from tests.support import random_params
from tritter_jax.growth import grow, grow_optimizer, make_plan, new_parameters, rewarm, scale_entries, train_only

SMALL = ModelConfig(hidden_size=12, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=8, vocab_size=11)
LARGE = replace(SMALL, hidden_size=20, num_layers=3, num_heads=4, intermediate_size=12)
PLAN = make_plan(SMALL, LARGE, layers=[1])
RATE = 1e-3
BEFORE = 3000


def largest_steps(optimizer: optax.GradientTransformation, count: int, updates: int) -> dict[str, np.ndarray]:
    """The largest update, over the learning rate, of old and of new entries: `updates` steps of one gradient.

    The optimizer is an Adam that had been stepping by RATE for `count` updates when the model grew.
    """
    grown = grow(random_params(SMALL), PLAN)
    told = flatten(new_parameters(PLAN))
    gradient = jax.tree.map(jnp.ones_like, grown)
    state = optimizer.init(grown)
    adam = optax.adam(RATE)
    steady = jax.tree.map(jnp.ones_like, random_params(SMALL))
    decayed = {"mu": 1 - 0.9**count, "nu": 1 - 0.999**count}
    old = adam.init(steady)
    moments = {name: jax.tree.map(lambda leaf, by=by: leaf * by, steady) for name, by in decayed.items()}
    even = grow_optimizer((old[0]._replace(count=jnp.int32(count), **moments), old[1]), PLAN, adam)
    state = (even, *state[1:])
    seen: dict[str, list[float]] = {"old": [], "new": []}
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(optimizer.update)
        for _ in range(updates):
            steps, state = update(gradient, state, grown)
            flat = {path: np.abs(np.asarray(leaf)) / RATE for path, leaf in flatten(steps).items()}
            for pick, largest in seen.items():
                picked = (flat[path][np.asarray(getattr(entries, pick)())] for path, entries in told.items())
                largest.append(max(values.max(initial=0) for values in picked))
    return {pick: np.asarray(largest) for pick, largest in seen.items()}


def test_without_rewarming_new_entries_take_steps_far_above_the_learning_rate():
    new = largest_steps(optax.chain(optax.adam(RATE)), 10**6, 12)["new"]
    assert new[0] == pytest.approx(3.16, rel=0.01)
    assert new[-1] == pytest.approx(6.7, rel=0.02)


@pytest.mark.parametrize("before", [100, BEFORE, None], ids=str)
def test_the_correction_alone_makes_every_step_one_learning_rate(before):
    count = before if before is not None else 10**6
    steps = largest_steps(optax.chain(optax.adam(RATE), rewarm(PLAN, steps=0, before=before)), count, 30)
    np.testing.assert_allclose(steps["new"], 1.0, rtol=2e-3)


def test_the_warm_up_is_linear_and_only_for_the_new():
    steps = largest_steps(optax.chain(optax.adam(RATE), rewarm(PLAN, steps=20)), 10**6, 30)
    np.testing.assert_allclose(steps["new"], np.minimum(np.arange(1, 31) / 20, 1.0), rtol=2e-3)
    plain = largest_steps(optax.chain(optax.adam(RATE)), 10**6, 30)
    np.testing.assert_allclose(steps["old"], plain["old"], rtol=1e-6)


def test_an_optimizer_without_moments_is_warmed_up_without_a_correction():
    factor = rewarm(PLAN, steps=4, betas=None)
    ones = jax.tree.map(jnp.ones_like, grow(random_params(SMALL), PLAN))
    state = factor.init(ones)
    for due in (0.25, 0.5, 0.75, 1.0, 1.0):
        updates, state = factor.update(ones, state)
        assert float(updates["embed"].min()) == due
        assert float(updates["embed"].max()) == 1.0


@pytest.mark.parametrize("pick", ["old", "new"])
def test_train_only_leaves_every_bit_of_the_rest(pick):
    params = grow(random_params(SMALL), PLAN)
    optimizer = optax.chain(optax.adamw(RATE, weight_decay=0.1), train_only(PLAN, pick))
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    after = optax.apply_updates(params, updates)
    for path, entries in flatten(new_parameters(PLAN)).items():
        trained = np.asarray(getattr(entries, pick)())
        was, now = np.asarray(flatten(params)[path]), np.asarray(flatten(after)[path])
        np.testing.assert_array_equal(now[~trained], was[~trained], err_msg=str(path))
        assert (now[trained] != was[trained]).all(), path


def test_the_state_is_one_count_whatever_the_model():
    state = scale_entries(PLAN, "new", lambda count: 0.5).init(random_params(LARGE))
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [()]
