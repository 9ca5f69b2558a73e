"""An optimizer's moments move as the gradients that made them."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tprog.tree import flatten

from tests.contracts.cases import (
    BOTH,
    DEEPER,
    EACH_MODEL,
    FIRST,
    FRESH,
    GROWTHS,
    MODELS,
    PAIRS,
    cases,
    in_dtype,
    params_for,
)
from tests.support import every_value, gradients, random_params, random_tokens
from tritter_jax.growth import MOMENTS, grow, grow_optimizer, map_gradients, new_parameters
from tritter_jax.growth.moments import STATES

LARGEST = [
    (model, growth)
    for model, growth in PAIRS
    if growth.deeper and (growth.wider or not model.widens) and growth.plan(model.config).guarantee.exact
]
"""Every model x width strategy x split, in depth too."""

THIRD = {model.name: (model, growth) for model, growth in EACH_MODEL[::4]}
ADAM = optax.scale_by_adam()


def accumulated(optimizer: optax.GradientTransformation, params: dict, all_gradients: list[dict]):
    """The state of an optimizer after these gradients, the parameters held still."""
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        update = jax.jit(optimizer.update)
        for one in all_gradients:
            _, state = update(one, state, params)
    return state


@lru_cache(maxsize=64)
def old_gradients(config, seed: int) -> dict:
    return gradients(params_for(config), random_tokens(config, seed=seed), config)


def largest_misfit(plan, moved: dict, true: dict) -> dict[str, float]:
    """For each parameter the largest difference of a moment over its largest value, where gradients are mapped."""
    misfits = {}
    for spec, grown in plan.target_specs():
        holds = [
            np.ones(size, bool) if along is None else np.asarray(along.mapped)
            for size, along in zip(grown.shape, plan.axis_maps(spec), strict=True)
        ]
        if all(mask.any() for mask in holds):
            got, due = (np.asarray(flatten(tree)[spec.path]) for tree in (moved, true))
            misfits[spec.name] = float(np.abs(got - due)[np.ix_(*holds)].max() / np.abs(due).max())
    return misfits


@pytest.mark.usefixtures("x64")
@cases(LARGEST, default=FIRST)
def test_transported_moments_are_those_that_the_grown_model_would_have_accumulated(model, growth):
    """Real gradients of the same batches, taken before growth and after."""
    plan = growth.plan(in_dtype(model.config, "float64"))
    params, seeds = params_for(plan.source), (0, 1)
    before = accumulated(ADAM, params, [old_gradients(plan.source, seed) for seed in seeds])
    grown = grow(params, plan)
    tokens = [random_tokens(plan.source, seed=seed) for seed in seeds]
    after = accumulated(ADAM, grown, [gradients(grown, batch, plan.target) for batch in tokens])
    moved = grow_optimizer(before, plan, ADAM, strategy="transport")
    assert int(moved.count) == int(after.count) == len(seeds)
    for field in ("mu", "nu"):
        misfits = largest_misfit(plan, getattr(moved, field), getattr(after, field))
        assert len(misfits) >= len(flatten(params)) - 4  # key and value under regrouping, and their biases
        assert max(misfits.values()) < 1e-9, (field, misfits)
    # The control: first moments' factors on second moments are seen.
    first = grow_optimizer(before._replace(mu=before.nu), plan, ADAM, strategy="transport").mu
    wrong = max(largest_misfit(plan, first, after.nu).values())
    assert wrong > 1e-2 if growth.wider else wrong < 1e-9


OPTIMIZERS = {
    "adamw": optax.adamw(1e-3),
    "adamw-clipped-on-a-schedule": optax.chain(
        optax.clip_by_global_norm(1e9), optax.adamw(optax.linear_schedule(0.0, 1e-3, 10))
    ),
    "adam-in-bfloat16": optax.adam(1e-3, mu_dtype=jnp.bfloat16),
    "amsgrad": optax.amsgrad(1e-3),
    "nadam": optax.nadam(1e-3),
    "radam": optax.radam(1e-3),
    "adabelief": optax.adabelief(1e-3, eps_root=0.0),
    "adan": optax.adan(1e-3),
    "ademamix": optax.contrib.ademamix(1e-3),
    "lion": optax.lion(1e-3),
    "sgd": optax.sgd(0.1),
    "sgd-momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop(1e-3, centered=True),
    "lamb": optax.lamb(1e-3),
    "muon": optax.contrib.muon(1e-3),
    "ema": optax.chain(optax.ema(0.9), optax.scale(-0.1)),
    "masked": optax.masked(optax.adam(1e-3), lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)),
    "injected": optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
    "accumulating": optax.MultiSteps(optax.adamw(1e-3), every_k_schedule=2),
    "every": optax.chain(optax.apply_every(2), optax.scale(-0.1)),
    "skipping": optax.apply_if_finite(optax.adamw(1e-3), 3),
}


COMMON = {"adamw-clipped-on-a-schedule", "adam-in-bfloat16", "lion", "muon", "sgd-momentum", "masked", "accumulating"}
ROUNDING = {"adam-in-bfloat16": 1e-2, "accumulating": 1e-6}
"""Of those that do not compute in float64: MultiSteps averages in float32."""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in COMMON else pytest.mark.slow) for name in OPTIMIZERS]
)
def test_every_optimizer_is_transported(name):
    """The state after mapped gradients is the mapped state, counts, schedules and accumulated gradients included."""
    optimizer = OPTIMIZERS[name]
    plan = BOTH.plan(in_dtype(MODELS[0].config, "float64"))
    params = params_for(plan.source)
    old = [random_params(plan.source, seed=seed) for seed in (1, 2, 3)]
    before = accumulated(optimizer, params, old)
    after = accumulated(optimizer, grow(params, plan), [map_gradients(one, plan) for one in old])
    moved = grow_optimizer(before, plan, optimizer, strategy="transport")
    assert jax.tree.structure(moved) == jax.tree.structure(after)
    for (path, got), due in zip(jax.tree.leaves_with_path(moved), jax.tree.leaves(after), strict=True):
        assert (got.shape, got.dtype) == (due.shape, due.dtype)
        got, due = np.asarray(got, np.float64), np.asarray(due, np.float64)
        rounding = ROUNDING.get(name, 1e-9)
        np.testing.assert_allclose(got, due, rtol=rounding, atol=rounding * np.abs(due).max(), err_msg=str(path))


@every_value(name=THIRD, strategy=MOMENTS)
def test_the_state_fits_an_optimizer_of_the_grown_model(name, strategy):
    model, growth = THIRD[name]
    plan = growth.plan(model.config)
    params = params_for(plan.source)
    optimizer = optax.adamw(1e-3, mu_dtype=jnp.bfloat16)
    moved = grow_optimizer(accumulated(optimizer, params, [params]), plan, optimizer, strategy=strategy)
    grown = grow(params, plan)
    due = optimizer.init(grown)
    assert jax.tree.structure(moved) == jax.tree.structure(due)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(moved)] == [(x.shape, x.dtype) for x in jax.tree.leaves(due)]
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(grown, moved, grown)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


@cases([(MODELS[0], growth) for growth in GROWTHS], default=[(MODELS[0], one) for one in (BOTH, FRESH, DEEPER)])
def test_asymmetric_keeps_what_the_old_entries_have_and_no_more(model, growth):
    plan = growth.plan(model.config)
    params = params_for(plan.source)
    before = accumulated(ADAM, params, [params])
    whole = grow_optimizer(before, plan, ADAM, strategy="transport")
    part = grow_optimizer(before, plan, ADAM)
    assert int(part.count) == 1
    for field in ("mu", "nu"):
        for path, entries in flatten(new_parameters(plan)).items():
            old = np.asarray(entries.old())
            got, due = (np.asarray(flatten(getattr(state, field))[path]) for state in (part, whole))
            np.testing.assert_array_equal(got[old], due[old], err_msg=str(path))
            assert not got[~old].any(), path


@cases(EACH_MODEL[:1])
def test_reset_is_what_init_gives(model, growth):
    plan = growth.plan(model.config)
    params = params_for(plan.source)
    for optimizer in (optax.adamw(1e-3), optax.adafactor(1e-3), optax.novograd(1e-3)):
        moved = grow_optimizer(accumulated(optimizer, params, [params]), plan, optimizer, strategy="reset")
        due = optimizer.init(grow(params, plan))
        assert jax.tree.structure(moved) == jax.tree.structure(due)
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(due), strict=True))


def test_a_copy_of_the_weights_in_the_state_moves_as_they_do():
    plan = BOTH.plan(MODELS[0].config)
    params = params_for(plan.source)
    optimizer = optax.contrib.schedule_free_adamw(1e-3)
    grown = flatten(grow(params, plan))
    for strategy in MOMENTS:
        moved = flatten(grow_optimizer(optimizer.init(params), plan, optimizer, strategy=strategy).z)
        assert all(np.array_equal(moved[path], grown[path]) for path in grown)


@pytest.mark.parametrize("strategy", MOMENTS)
def test_growing_a_state_is_pure_and_can_be_compiled(strategy):
    plan = replace(BOTH, split="even").plan(MODELS[0].config)
    params = params_for(plan.source)
    before = accumulated(ADAM, params, [params])
    eager = grow_optimizer(before, plan, ADAM, strategy=strategy)
    compiled = jax.jit(lambda state: grow_optimizer(state, plan, ADAM, strategy=strategy))(before)
    again = grow_optimizer(before, plan, ADAM, strategy=strategy)
    for one, other, third in zip(*map(jax.tree.leaves, (eager, compiled, again)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
        np.testing.assert_array_equal(one, third)


def test_a_donated_state_is_freed():
    plan = BOTH.plan(MODELS[0].config)
    params = params_for(plan.source)
    before = accumulated(ADAM, params, [params])
    kept = grow_optimizer(before, plan, ADAM)
    freed = grow_optimizer(before, plan, ADAM, donate=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.mu, before.nu)))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(freed), strict=True))


def test_the_table_names_fields_that_optax_has():
    """A release that renames a state must not make its moments unknown in silence."""
    known = {
        name: kind._fields
        for where in (optax, optax.contrib, optax.transforms)
        for name, kind in vars(where).items()
        if isinstance(kind, type) and hasattr(kind, "_fields")
    }
    for state, row in STATES.items():
        if state in known:
            assert set(row) <= set(known[state]), state
    assert {"ScaleByAdamState", "ScaleByLionState", "MuonState", "TraceState", "MultiStepsState"} <= known.keys()
