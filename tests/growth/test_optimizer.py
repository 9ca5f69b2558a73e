"""States that cannot be grown are refused with what to do; sharded ones keep their shardings."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tprog import GrowthError, ParameterError
from tprog.tree import flatten

from tests.contracts.cases import BOTH, MODELS, params_for
from tests.support import first_of
from tritter_jax.growth import MOMENTS, grow, grow_optimizer, make_plan

PLAN = BOTH.plan(MODELS[0].config)
MOVES = [name for name, row in MOMENTS.items() if row.factors is not None]


def grow_state(optimizer, strategy: str = "transport", params: dict | None = None):
    return grow_optimizer(optimizer.init(params or params_for(PLAN.source)), PLAN, optimizer, strategy=strategy)


@pytest.mark.parametrize("strategy", MOVES)
@pytest.mark.parametrize(
    ("optimizer", "field"),
    [(optax.adafactor(1e-3), "FactoredState.v"), (optax.novograd(1e-3), "ScaleByNovogradState.mu")],
    ids=["adafactor", "novograd"],
)
def test_a_state_of_which_nothing_is_known_is_refused_by_name(optimizer, field, strategy):
    with pytest.raises(GrowthError, match=rf"{field}: .* not known how it moves\. Add a row .*--optimizer reset"):
        grow_state(optimizer, strategy)


@pytest.mark.parametrize("strategy", MOVES)
def test_momentum_of_normalised_updates_is_refused(strategy):
    with pytest.raises(GrowthError, match=r"TraceState: .* of what ScaleByRmsState makes .* first in the chain"):
        grow_state(optax.rmsprop(1e-3, momentum=0.9), strategy)


def test_the_order_in_a_chain_decides_whether_moments_are_of_gradients():
    before = optax.chain(optax.trace(0.9), optax.scale_by_adam())
    behind = optax.chain(optax.scale_by_adam(), optax.trace(0.9))
    assert grow_state(before)[0].trace["embed"].shape == (104, 256)
    with pytest.raises(GrowthError, match="ScaleByAdamState makes of them"):
        grow_state(behind)
    labels = jax.tree.map(lambda leaf: "adam" if leaf.ndim > 1 else "sgd", params_for(PLAN.source))
    beside = optax.partition({"adam": optax.adam(1e-3), "sgd": optax.sgd(1e-3, momentum=0.9)}, labels)
    assert len(jax.tree.leaves(grow_state(beside))) == len(jax.tree.leaves(beside.init(params_for(PLAN.source))))


@pytest.mark.parametrize("strategy", MOMENTS)
def test_the_state_of_another_optimizer_is_refused(strategy):
    state = optax.sgd(0.1, momentum=0.9).init(params_for(PLAN.source))
    with pytest.raises(ParameterError, match=r"optimizer state: expected that of the given optimizer"):
        grow_optimizer(state, PLAN, optax.adam(1e-3), strategy=strategy)


@pytest.mark.parametrize("strategy", MOVES)
def test_the_state_over_other_parameters_is_refused_with_every_misfit(strategy):
    with pytest.raises(ParameterError) as caught:
        grow_state(optax.adam(1e-3), strategy, grow(params_for(PLAN.source), PLAN))
    assert "ScaleByAdamState.mu of embed has shape [104, 256], expected [104, 160]" in str(caught.value)
    assert len(caught.value.findings) == 2 * len(flatten(params_for(PLAN.source)))
    fewer = {name: leaf for name, leaf in params_for(PLAN.source).items() if name != "norm"}
    with pytest.raises(ParameterError, match="another structure"):
        grow_state(optax.adam(1e-3), strategy, fewer)


def test_an_unknown_strategy_is_refused_with_the_nearest():
    with pytest.raises(GrowthError, match="Did you mean transport"):
        grow_state(optax.adam(1e-3), "transprot")


@pytest.mark.parametrize("strategy", first_of(MOMENTS))
def test_a_state_sharded_over_eight_devices_stays_sharded_and_equal(strategy):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    plan = make_plan(MODELS[0].config, replace(MODELS[0].config, hidden_size=256))

    def place(leaf: jax.Array) -> jax.Array:
        axis = max(i for i, size in enumerate(leaf.shape) if size % mesh.size == 0)
        return jax.device_put(leaf, NamedSharding(mesh, P(*[None] * axis, "x")))

    params = params_for(plan.source)
    optimizer = optax.adam(1e-3)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(params, optimizer.init(params))
    split = (state[0]._replace(mu=jax.tree.map(place, state[0].mu), nu=jax.tree.map(place, state[0].nu)), state[1])
    moved = grow_optimizer(split, plan, optimizer, strategy=strategy)
    whole = grow_optimizer(state, plan, optimizer, strategy=strategy)
    for field in ("mu", "nu"):
        for path, leaf in flatten(getattr(moved[0], field)).items():
            old = flatten(getattr(split[0], field))[path].sharding
            assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, old.spec), leaf.ndim), path
            np.testing.assert_array_equal(leaf, flatten(getattr(whole[0], field))[path])


def test_moments_in_a_narrow_dtype_stay_in_it_and_are_rounded_once():
    optimizer = optax.adam(1e-3, mu_dtype=jnp.bfloat16)
    wide = optax.adam(1e-3)
    params = params_for(PLAN.source)
    with jax.numpy_dtype_promotion("standard"):
        narrow, full = (tx.update(params, tx.init(params))[1] for tx in (optimizer, wide))
    exact = full[0]._replace(mu=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow[0].mu))
    got = grow_optimizer(narrow, PLAN, optimizer, strategy="transport")[0].mu
    due = grow_optimizer((exact, full[1]), PLAN, wide, strategy="transport")[0].mu
    for path, leaf in flatten(got).items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf, flatten(due)[path].astype(jnp.bfloat16))
