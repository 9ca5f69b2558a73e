"""What Fisher information keeps when it grows, in float64, for every model and strategy that keeps the function."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tprog import ParamSpec
from tprog.tree import flatten, nest

from tests.contracts.cases import BOTH, EACH_MODEL, EXACT, FRESH, MODELS, cases, in_dtype
from tritter_jax.growth import Plan, map_gradients
from tritter_jax.growth.fisher import FISHER, fisher_growth
from tritter_jax.growth.leaf import grow_stack, leaf_growth

pytestmark = pytest.mark.usefixtures("x64")
EVERY_GROWTH = [(model, growth) for model, growth in EXACT if model in MODELS[:2]]
every_case = cases(list(dict.fromkeys(EVERY_GROWTH + EACH_MODEL)))


def drawn(plan: Plan) -> dict[ParamSpec, np.ndarray]:
    """A value for every entry of the source."""
    rng = np.random.default_rng(0)
    return {old: rng.standard_normal(old.shape) for old, _ in plan.target_specs()}


def grown(x: np.ndarray, plan: Plan, spec: ParamSpec, rule: str) -> np.ndarray:
    return np.asarray(grow_stack(jnp.asarray(x), fisher_growth(plan, spec, FISHER[rule])))


def moved_along(x: np.ndarray, plan: Plan, spec: ParamSpec) -> np.ndarray:
    """How the grown weights move when the old ones move by x; fresh ones stay."""
    growth = leaf_growth(plan, spec, "gradient")
    maps = (None if along is None else replace(along, gradient=along.weight) for along in plan.axis_maps(spec))
    return np.asarray(grow_stack(jnp.asarray(x), replace(growth, maps=tuple(maps))))


@every_case
def test_exact_is_the_square_of_the_mapped_gradient(model, growth):
    plan = growth.plan(in_dtype(model.config, "float64"))
    gradients = drawn(plan)
    mapped = flatten(map_gradients(nest({spec.path: jnp.asarray(x) for spec, x in gradients.items()}), plan))
    for spec, gradient in gradients.items():
        squares = np.square(np.asarray(mapped[spec.path]))
        np.testing.assert_allclose(grown(gradient**2, plan, spec, "exact"), squares, rtol=1e-12, err_msg=spec.name)


@every_case
def test_preserve_charges_a_move_of_all_copies_what_the_old_move_cost(model, growth):
    plan = growth.plan(in_dtype(model.config, "float64"))
    for spec, move in drawn(plan).items():
        fisher = np.square(move[::-1]) + 0.1
        cost = np.sum(fisher * move**2)
        moved = moved_along(move, plan, spec)
        assert np.sum(grown(fisher, plan, spec, "preserve") * moved**2) == pytest.approx(cost, rel=1e-12), spec.name


@pytest.mark.parametrize(("growth", "kept"), [(BOTH, 0.75), (FRESH, 1.0)], ids=["copies", "fresh"])
def test_exact_forgets_that_copies_move_together(growth, kept):
    """What `preserve` is for: the exact diagonal charges a part of what moving all copies cost; of fresh ones all."""
    plan = growth.plan(in_dtype(MODELS[0].config, "float64"))
    (spec,) = [spec for spec, _ in plan.target_specs() if spec.name == "layers.mlp.gate"]
    move = drawn(plan)[spec]
    ratio = np.sum(grown(np.ones_like(move), plan, spec, "exact") * moved_along(move, plan, spec) ** 2) / np.sum(
        move**2
    )
    assert ratio == pytest.approx(1.0, rel=1e-12) if kept == 1.0 else ratio < kept
