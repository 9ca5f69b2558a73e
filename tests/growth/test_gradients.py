"""At the grown point the gradient of every parameter is the mapped old one, but where `AxisMap.mapped` says no."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from tprog.tree import flatten

from tests.contracts.cases import BOTH, EXACT, MODELS, cases, in_dtype, params_for
from tests.support import gradients, random_tokens
from tritter_jax.growth import SPLITS, WIDTH, Plan, grow, make_plan, map_gradients

LARGEST = [(model, growth) for model, growth in EXACT if growth.deeper and growth.wider]
"""Every model x width strategy x split, in depth too."""

MAY_EXCEPT = {
    ("kv_heads", "copy"),  # which queries share a copy decides
    ("kv_heads", "write"),  # the same, for value
    ("layers", "residual"),  # a new layer is silent, not dead
    ("hidden", "write"),  # fresh coordinates written as zero, and the silent copies of split `first`
    ("mlp", "write"),  # fresh units
    ("heads", "read"),  # fresh heads
}


@lru_cache(maxsize=64)
def old_gradients(config):
    return gradients(params_for(config), random_tokens(config), config)


def check_gradients(plan: Plan) -> set[str]:
    """Compare gradients at the grown point with the mapped old ones; the names of the parameters that were compared.

    They agree where `mapped` says so. Where it does not, they differ: no exception is wider than it must be.
    """
    true = flatten(gradients(grow(params_for(plan.source), plan), random_tokens(plan.source), plan.target))
    said = flatten(map_gradients(old_gradients(plan.source), plan))
    compared = set()
    for spec, grown in plan.target_specs():
        error = np.abs(np.asarray(true[spec.path]) - np.asarray(said[spec.path]))
        scale = np.abs(true[spec.path]).max()
        assert scale > 0, spec.name
        maps = plan.axis_maps(spec)
        holds = [
            np.ones(size, bool) if along is None else np.asarray(along.mapped)
            for size, along in zip(grown.shape, maps, strict=True)
        ]
        if all(mask.any() for mask in holds):
            compared.add(spec.name)
            assert error[np.ix_(*holds)].max() < 1e-9 * scale, spec.name
        for axis in range(error.ndim):
            elsewhere = [np.flatnonzero(m if i != axis else ~m) for i, m in enumerate(holds)]
            if all(len(indices) for indices in elsewhere):
                others = tuple(i for i in range(error.ndim) if i != axis)
                wrong = error[np.ix_(*elsewhere)].max(axis=others)
                # A unit behind a squared ReLU may be off at every token of the batch.
                least = 0.5 if plan.source.family_record.activation == "relu2" else 1.0
                differ = (wrong > 1e-9 * scale).mean()
                assert differ >= least, f"{spec.name}, axis {axis}, is as mapped though said not to be"
    return compared


@pytest.mark.usefixtures("x64")
@cases(LARGEST)
def test_the_gradient_at_the_grown_point_is_the_mapped_old_one(model, growth):
    plan = growth.plan(in_dtype(model.config, "float64"))
    compared = check_gradients(plan)
    rest = {
        spec.name.split(".")[-1].removesuffix("_bias") for spec, _ in plan.target_specs() if spec.name not in compared
    }
    assert rest <= {"key", "value"}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("width", WIDTH)
@pytest.mark.parametrize("heads", [{"num_heads": 40, "num_kv_heads": 8}, {"num_heads": 40}], ids=["copied", "larger"])
def test_key_and_value_gradients_are_mapped_too_where_groups_stay_whole(width, heads):
    config = in_dtype(MODELS[0].config, "float64")
    plan = make_plan(config, replace(config, **heads), width=width)
    assert check_gradients(plan) == {spec.name for spec, _ in plan.target_specs()}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("width", WIDTH)
def test_only_the_stated_exceptions_are_not_mapped(width, split):
    plan = replace(BOTH, width=width, split=split).plan(MODELS[0].config)
    excepted = {(axis.name, axis.role) for axis, along in plan.maps if not all(along.mapped)}
    assert excepted <= MAY_EXCEPT
    if width == "duplicate":
        silent = {("hidden", "write")} if split == "first" else set()
        assert excepted == {("kv_heads", "copy"), ("kv_heads", "write"), ("layers", "residual")} | silent


def test_the_plan_says_when_key_and_value_gradients_are_not_mapped():
    assert "key and value" in BOTH.plan(MODELS[0].config).guarantee.gradients


@pytest.mark.usefixtures("x64")
def test_fresh_entries_learn_and_even_copies_never_separate():
    config = in_dtype(MODELS[0].config, "float64")
    tokens = random_tokens(config)
    for width, split in (("fresh", "uneven"), ("duplicate", "even")):
        plan = replace(BOTH, width=width, split=split).plan(config)
        up = np.asarray(gradients(grow(params_for(config), plan), tokens, plan.target)["layers"]["mlp"]["up"])
        old = ~np.asarray(plan.stack.new)
        if width == "fresh":
            assert (np.abs(up[old][:, 192:, :160]).max(axis=2) > 0).all()
        else:
            np.testing.assert_allclose(up[:, 192:], up[:, : 336 - 192], rtol=1e-9, atol=1e-12)
