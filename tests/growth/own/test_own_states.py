"""What hangs on a tree of one's own grows with it: optimizer states, Fisher information, masks of what is new."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tprog
from tprog import GrowthError, ParameterError, param_specs

from tests.growth.own.models import MODELS, nested_lists
from tritter_jax.growth import (
    grow,
    grow_fisher,
    grow_optimizer,
    make_plan,
    map_gradients,
    new_parameters,
    plan_axes,
    rewarm,
    train_only,
)
from tritter_jax.model import init_params


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def planned(model, **choices):
    return plan_axes(model.rows, before=model.before, after=model.after, **choices)


def same(one, other):
    leaves = jax.tree.leaves(one), jax.tree.leaves(other)
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


SMALL = tprog.ModelConfig(
    hidden_size=24, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=4, intermediate_size=20, vocab_size=30
)
LARGE = tprog.ModelConfig(
    hidden_size=40, num_layers=5, num_heads=8, num_kv_heads=4, head_dim=4, intermediate_size=28, vocab_size=30
)


def rows_of(config):
    """The parameter table of our own decoder, as a user would write it."""
    return {spec.name: " ".join(f"{axis.name}:{axis.role}".removesuffix(":none") for axis in spec.axes)
            for spec in param_specs(config)}  # fmt: skip


@pytest.mark.parametrize("choices", [{}, {"split": "even"}, {"width": "fresh", "seed": 3}], ids=str)
def test_our_own_decoder_described_by_rows_grows_bit_for_bit_as_by_its_table(choices):
    params = init_params(SMALL)
    table = make_plan(SMALL, LARGE, **choices)
    rows = plan_axes(rows_of(SMALL), before=dict(SMALL.axis_sizes), after=dict(LARGE.axis_sizes), **choices)
    assert same(grow(params, table), grow(params, rows))
    assert same(map_gradients(params, table), map_gradients(params, rows))
    optimizer = optax.adamw(1e-3)
    state = optimizer.init(params)
    state = jax.tree.map(lambda leaf: leaf + 1 if leaf.ndim else leaf, state)
    for strategy in ("asymmetric", "transport"):
        assert same(
            grow_optimizer(state, table, optimizer, strategy=strategy),
            grow_optimizer(state, rows, optimizer, strategy=strategy),
        )
    for one, other in zip(
        jax.tree.leaves(new_parameters(table)), jax.tree.leaves(new_parameters(rows, grow(params, rows))), strict=True
    ):
        assert one.count == other.count
        assert np.array_equal(one.new(), other.new())


@pytest.mark.parametrize("name", MODELS)
def test_adams_moments_follow_the_gradients(name):
    model = MODELS[name]()
    plan, optimizer = planned(model), optax.chain(optax.clip_by_global_norm(1e9), optax.adam(1e-2, b1=0.0, b2=0.0))

    def loss(params):
        return jnp.sum(model.function(params, model.inputs) ** 2)

    gradients = jax.grad(loss)(model.params)
    _, state = optimizer.update(gradients, optimizer.init(model.params))
    moved = grow_optimizer(state, plan, optimizer, strategy="transport")
    adam = next(part for part in jax.tree.leaves(moved, is_leaf=_is_adam) if _is_adam(part))
    assert int(adam.count) == 1
    # With both decays at 0 the moments are the gradients and their squares.
    assert same(adam.mu, map_gradients(gradients, plan))
    for nu, mu in zip(jax.tree.leaves(adam.nu), jax.tree.leaves(adam.mu), strict=True):
        np.testing.assert_allclose(nu, np.square(mu), rtol=1e-5, atol=1e-12)
    # The optimizer goes on with it.
    grown = grow(model.params, plan)
    updates, _ = optimizer.update(jax.grad(loss)(grown), moved, grown)
    assert jax.tree.structure(updates) == jax.tree.structure(grown)


def _is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)


def test_masked_moments_stay_masked():
    model = nested_lists()
    plan = planned(model)
    optimizer = optax.masked(optax.adam(1e-3), {"embed": True, "blocks": False, "norm": True})
    moved = grow_optimizer(optimizer.init(model.params), plan, optimizer)
    grown = grow(model.params, plan)
    assert moved.inner_state[0].mu["norm"].shape == grown["norm"].shape
    assert jax.tree.leaves(moved.inner_state[0].mu["blocks"]) == []


def test_a_state_that_nobody_knows_is_refused():
    class Unknown(optax.ScaleByAdamState):
        pass

    model = nested_lists()
    optimizer = optax.GradientTransformation(
        lambda params: Unknown(jnp.zeros(()), params, params), lambda updates, state, params=None: (updates, state)
    )
    with pytest.raises(GrowthError, match=r"optimizer state Unknown\.mu"):
        grow_optimizer(optimizer.init(model.params), planned(model), optimizer)


def test_reset_is_left_to_the_optimizers_own_init():
    model = nested_lists()
    optimizer = optax.adam(1e-3)
    with pytest.raises(GrowthError, match=r"optimizer\.init with the grown parameters"):
        grow_optimizer(optimizer.init(model.params), planned(model), optimizer, strategy="reset")


def test_fisher_information_by_preserve_keeps_the_cost_of_moving_all_copies_together():
    model = MODELS["stacked_dataclass"]()
    plan = plan_axes(model.rows, before=model.before, after={"hidden": 20, "units": 16})
    fisher = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, model.params)
    step = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), fisher)

    def cost(fisher, step):
        return sum(map(float, jax.tree.leaves(jax.tree.map(lambda f, s: jnp.sum(f * s * s), fisher, step))))

    before = cost(fisher, step)
    assert cost(grow_fisher(fisher, plan), grow(step, plan)) == pytest.approx(before, rel=1e-5)
    assert cost(grow_fisher(fisher, plan, rule="exact"), grow(step, plan)) != pytest.approx(before, rel=1e-2)


def test_only_new_entries_are_trained_and_warmed_up():
    model = nested_lists()
    plan = planned(model)
    grown = grow(model.params, plan)
    optimizer = optax.chain(optax.sgd(1.0), train_only(plan, "new"))
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, grown), optimizer.init(grown), grown)
    told = new_parameters(plan, grown)
    for entries, update in zip(jax.tree.leaves(told), jax.tree.leaves(updates), strict=True):
        assert np.array_equal(np.asarray(update) != 0, np.asarray(entries.new()))
    assert bool(jax.tree.leaves(updates["blocks"][1])[0].all()), "a new layer is new as a whole"
    chain = optax.chain(optax.sgd(1.0), rewarm(plan, steps=10))
    warmed, _ = chain.update(jax.tree.map(jnp.ones_like, grown), chain.init(grown), grown)
    values = np.abs(np.asarray(warmed["norm"]))
    assert (values[:12] == 1).all() and (values[12:] < 1).all()


def test_new_parameters_asks_for_the_tree():
    with pytest.raises(GrowthError, match=r"new_parameters\(plan, grown\)"):
        new_parameters(planned(nested_lists()))
    with pytest.raises(ParameterError, match="expected 4 layers"):
        new_parameters(planned(nested_lists()), nested_lists().params)
