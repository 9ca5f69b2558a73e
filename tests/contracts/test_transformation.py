"""Growing is a pure, linear transformation of a tree: compiled or not, on one device or on eight."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tprog import ParameterError, check_tree
from tprog.tree import flatten, nest

from tests.contracts.cases import BOTH, DEEPER, EACH_MODEL, GROWTHS, MODELS, PAIRS, cases, params_for
from tests.support import first_of, random_params
from tritter_jax.growth import WIDTH, AxisMap, grow, map_gradients
from tritter_jax.growth.axis_map import FRESH

ALL_GROWTHS = [(MODELS[0], growth) for growth in GROWTHS]
EACH_KIND = [(MODELS[0], replace(BOTH, width=width)) for width in WIDTH] + [(MODELS[0], DEEPER)]
"""For what costs much to compile."""


def assert_same(left: dict, right: dict, **tolerance: float) -> None:
    assert flatten(left).keys() == flatten(right).keys()
    for path, leaf in flatten(left).items():
        np.testing.assert_allclose(leaf, flatten(right)[path], err_msg=".".join(path), **({"rtol": 0} | tolerance))


def inner(left: dict, right: dict) -> float:
    """The sum of all products, in float64."""
    a, b = flatten(left), flatten(right)
    return sum(float(np.vdot(np.asarray(a[path], np.float64), np.asarray(b[path], np.float64))) for path in a)


@cases(PAIRS)
def test_the_result_fits_the_targets_table(model, growth):
    plan = growth.plan(model.config)
    grown = grow(params_for(plan.source), plan)
    check_tree(grown, plan.target)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(grown)} == {plan.target.dtype}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grown))


def as_matrix(along: AxisMap | None, size: int, quantity: str) -> np.ndarray:
    """An axis map as the matrix that it is, [new, old]."""
    if along is None:
        return np.eye(size)
    matrix = np.zeros((len(along), size))
    for new, old in enumerate(along.source):
        if old != FRESH:
            matrix[new, old] = along.factors(quantity)[new]
    return matrix


@pytest.mark.parametrize(("move", "quantity"), [(grow, "weight"), (map_gradients, "gradient")])
@cases(ALL_GROWTHS)
def test_a_parameter_is_multiplied_by_one_matrix_an_axis(model, growth, move, quantity):
    plan = growth.plan(model.config)
    params = params_for(plan.source)
    result = flatten(move(params, plan))
    for spec, _ in plan.target_specs():
        maps = plan.axis_maps(spec)
        expected = np.asarray(flatten(params)[spec.path], np.float64)
        for axis, along in enumerate(maps):
            matrix = as_matrix(along, spec.shape[axis], quantity)
            expected = np.moveaxis(np.tensordot(matrix, expected, (1, axis)), 0, axis)
        old = np.ix_(*[np.arange(n) if m is None else ~m.fresh for n, m in zip(spec.shape, maps, strict=True)])
        got = np.asarray(result[spec.path])
        assert got.shape == expected.shape
        np.testing.assert_allclose(got[old], expected[old], rtol=1e-6, err_msg=spec.name)


@cases(EACH_KIND)
def test_jit_equals_eager(model, growth):
    plan = growth.plan(model.config)
    params = params_for(plan.source)
    with jax.disable_jit():
        eager, mapped = grow(params, plan), map_gradients(params, plan)
    assert_same(grow(params, plan), eager, rtol=1e-6)
    assert_same(jax.jit(lambda tree: grow(tree, plan))(params), eager, rtol=1e-6)
    assert_same(map_gradients(params, plan), mapped, rtol=1e-6)


@cases(EACH_MODEL, default=EACH_MODEL[::4])
def test_the_same_seed_draws_the_same_and_another_seed_another(model, growth):
    plan = replace(growth, width="fresh").plan(model.config)
    params = params_for(plan.source)
    once = grow(params, plan)
    assert_same(grow(params, plan), once)
    if model.widens:
        one, other = (tree["layers"]["mlp"]["gate"] for tree in (once, grow(params, replace(plan, seed=1))))
        assert not np.array_equal(other, one)
        np.testing.assert_array_equal(other[:, :192, :160], one[:, :192, :160])


@cases([(model, growth) for model, growth in PAIRS if model.widens or not growth.wider])  # ternary growth is no map
def test_mapped_gradients_say_of_a_mapped_step_what_the_old_ones_said(model, growth):
    """To first order a step of the grown parameters, grown from an old one, changes the loss by as much."""
    plan = growth.plan(model.config)
    step, gradient = params_for(plan.source), random_params(plan.source, seed=1)
    there = inner(grow(step, plan), map_gradients(gradient, plan))
    assert there == pytest.approx(inner(step, gradient), rel=1e-5)


@cases(EACH_MODEL[:1])
def test_first_moments_of_an_optimizer_move_with_the_gradients(model, growth):
    plan = growth.plan(model.config)
    gradient = random_params(plan.source, seed=1)
    adam = optax.scale_by_adam()
    with jax.numpy_dtype_promotion("standard"):  # optax counts steps in int32
        _, here = adam.update(gradient, adam.init(params_for(plan.source)))
        _, there = adam.update(map_gradients(gradient, plan), adam.init(grow(params_for(plan.source), plan)))
    assert_same(map_gradients(here.mu, plan), there.mu, rtol=1e-5, atol=1e-8)


def sharded(tree: dict, mesh: jax.sharding.Mesh) -> dict:
    """Every parameter split over the mesh along its last axis that can be."""

    def place(leaf: jax.Array) -> jax.Array:
        axis = max(i for i, size in enumerate(leaf.shape) if size % mesh.size == 0)
        return jax.device_put(leaf, NamedSharding(mesh, P(*[None] * axis, "x")))

    return jax.tree.map(place, tree)


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize("move", first_of([grow, map_gradients]))
@cases(EACH_KIND)
def test_a_parameter_sharded_over_eight_devices_stays_sharded_and_equal(model, growth, move, mesh):
    plan = growth.plan(model.config)
    params = params_for(plan.source)
    split = sharded(params, mesh)
    result = move(split, plan)
    assert_same(result, move(params, plan), rtol=1e-6)
    for path, leaf in flatten(result).items():
        old = flatten(split)[path].sharding
        assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, old.spec), leaf.ndim), ".".join(path)
        assert not leaf.sharding.is_fully_replicated


@cases([(MODELS[0], BOTH), (MODELS[0], DEEPER)])
def test_donated_parameters_are_freed_and_others_are_not(model, growth):
    plan = growth.plan(model.config)
    params = random_params(plan.source)
    kept = grow(params, plan)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert_same(grow(params, plan, donate=True), kept)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("move", [grow, map_gradients])
def test_a_tree_that_is_not_the_sources_is_refused(move):
    plan = BOTH.plan(MODELS[0].config)
    params = params_for(plan.source)
    with pytest.raises(ParameterError, match=r"to (grow|map): expected .* parameters of a tritter model"):
        move(grow(params, plan), plan)
    flat = flatten(params)
    del flat["norm",]
    with pytest.raises(ParameterError, match="norm is missing; expected shape \\[160\\]"):
        move(nest(flat), plan)
    with pytest.raises(ParameterError, match="extra is unknown"):
        move(params | {"extra": jnp.zeros(3)}, plan)
