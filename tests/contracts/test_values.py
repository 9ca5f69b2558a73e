"""What grown entries hold: rounded once, in the right dtype, and fresh ones as their axis asks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import ParameterError, UsageError

from tests.contracts.cases import BOTH, DEEP, EACH_MODEL, MODELS, cases, in_dtype, params_for
from tests.support import same_values
from tritter_jax.growth import grow, make_plan, map_gradients

FRESH = replace(BOTH, width="fresh")
WIDENED = [model for model in MODELS if model.widens]
each_widened = pytest.mark.parametrize("model", WIDENED, ids=lambda model: model.name)


@cases([(model, growth) for model, growth in EACH_MODEL if model.widens])  # ternary ones mind the rounding to come
def test_bfloat16_weights_are_scaled_in_float32_and_rounded_once(model, growth):
    narrow = params_for(in_dtype(model.config, "bfloat16"))
    in_float32 = growth.plan(in_dtype(model.config, "float32"))
    wide = grow(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow), in_float32)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide)
    assert same_values(grow(narrow, growth.plan(in_dtype(model.config, "bfloat16"))), rounded)


def test_a_target_of_another_dtype_is_converted_to_it():
    model = MODELS[0]
    plan = BOTH.plan(model.config)
    narrow = make_plan(plan.source, in_dtype(plan.target, "bfloat16"), positions=plan.positions)
    assert narrow.guarantee.dtype == "bfloat16"
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), grow(params_for(plan.source), plan))
    assert same_values(grow(params_for(plan.source), narrow), rounded)


def test_a_plan_may_convert_to_the_dtype_that_most_weights_have_already():
    config = in_dtype(MODELS[0].config, "bfloat16")
    plan = make_plan(config, replace(config, **DEEP), convert=True)
    params = params_for(config)
    mixed = params | {"norm": params["norm"].astype(jnp.float32)}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(grow(mixed, plan))} == {"bfloat16"}


def test_float64_that_jax_would_narrow_is_refused():
    plan = BOTH.plan(in_dtype(MODELS[0].config, "float64"))
    with pytest.raises(UsageError, match="JAX to compute in float64"):
        grow(params_for(MODELS[0].config), plan)


def test_whole_numbers_are_not_grown():
    params = params_for(MODELS[0].config)
    counted = params | {"norm": jnp.arange(160)}
    with pytest.raises(ParameterError, match="norm: expected floating-point numbers, got int32"):
        grow(counted, BOTH.plan(MODELS[0].config))


def test_gradients_keep_their_own_dtype():
    plan = BOTH.plan(in_dtype(MODELS[0].config, "bfloat16"))
    gradients = params_for(in_dtype(MODELS[0].config, "float32"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(map_gradients(gradients, plan))} == {"float32"}


def test_parameters_of_several_dtypes_keep_theirs():
    plan = BOTH.plan(in_dtype(MODELS[0].config, "bfloat16"))
    params = params_for(plan.source)
    mixed = params | {"norm": params["norm"].astype(jnp.float32)}
    grown = grow(mixed, plan)
    assert grown["norm"].dtype == jnp.float32
    assert grown["embed"].dtype == jnp.bfloat16


@each_widened
def test_fresh_coordinates_are_written_as_zero_and_read_at_random(model):
    plan = FRESH.plan(model.config)
    params, grown = params_for(plan.source), grow(params_for(plan.source), plan)
    old = ~np.asarray(plan.stack.new)
    assert not np.asarray(grown["embed"])[:, 160:].any()
    assert not np.asarray(grown["layers"]["mlp"]["down"])[:, 160:].any()
    assert not np.asarray(grown["layers"]["mlp"]["up"])[:, 192:, :160].any()
    gate = np.asarray(grown["layers"]["mlp"]["gate"])[old]
    for layer, before in zip(gate, np.asarray(params["layers"]["mlp"]["gate"]), strict=True):
        scaled = before * np.sqrt(160 / 256)
        np.testing.assert_allclose(layer[:192, :160], scaled, rtol=1e-5)
        for drawn in (layer[:, 160:], layer[192:]):
            assert drawn.std() == pytest.approx(np.sqrt(np.square(scaled).mean()), rel=0.03)
            assert abs(drawn.mean()) < 0.05 * drawn.std()
            assert len(np.unique(drawn)) > 0.99 * drawn.size


@each_widened
def test_fresh_gains_are_the_mean_of_the_old_ones(model):
    plan = FRESH.plan(model.config)
    gains = np.asarray(grow(params_for(plan.source), plan)["layers"]["attention_norm"])
    np.testing.assert_allclose(gains[:, 160:], gains[:, :160].mean(axis=1, keepdims=True).repeat(96, 1), rtol=1e-6)


def test_no_two_layers_draw_the_same():
    gate = np.asarray(grow(params_for(MODELS[0].config), FRESH.plan(MODELS[0].config))["layers"]["mlp"]["gate"])
    drawn = gate[..., 160:]
    assert len({layer.tobytes() for layer in drawn}) == len(drawn)
