"""A plan after a plan is one plan, and gives what growing twice gives."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tprog import GrowthError
from tprog.tree import flatten

from tests.contracts.cases import BOTH, MODELS, WIDE, in_dtype, params_for
from tests.growth.strategies import plans
from tests.support import logits, random_params, random_tokens, relative_difference, same_values
from tritter_jax.growth import WIDTH, grow, make_plan, map_gradients, new_parameters, plan_from_record, plan_to_record
from tritter_jax.growth.drift import precision

CONFIG = MODELS[0].config
HALFWAY = {"hidden_size": 200, "num_heads": 24, "num_kv_heads": 4, "intermediate_size": 250, "vocab_size": 110}
FURTHER = {**WIDE, "num_layers": 7, "vocab_size": 120}
ROUTES = [
    pytest.param({"width": width}, {"width": then, "depth": depth}, id=f"{width}-{then}-{depth}", marks=marks)
    for width, then, depth, marks in (
        ("duplicate", "fresh", "copy", ()),
        ("duplicate", "duplicate", "identity", pytest.mark.slow),
        ("fresh", "duplicate", "identity", pytest.mark.slow),
        ("fresh", "fresh", "identity", pytest.mark.slow),
    )
]


def two(config, first: dict, second: dict):
    """A growth in every size, and another one of its result."""
    one = make_plan(config, replace(config, **HALFWAY, num_layers=4), layers=[1], **first)
    return one, make_plan(one.target, replace(one.target, **FURTHER), positions="spread", **second)


def assert_close(left: dict, right: dict, bound: float) -> None:
    assert flatten(left).keys() == flatten(right).keys()
    for path, leaf in flatten(left).items():
        assert relative_difference(leaf, flatten(right)[path]) < bound, ".".join(path)


@pytest.mark.parametrize(("first", "second"), ROUTES)
def test_a_composed_plan_gives_what_growing_twice_gives(first, second):
    config = in_dtype(CONFIG, "float64")
    one, other = two(config, first, second)
    with precision("float64"):
        params = random_params(config)
        twice = grow(grow(params, one), other)
        once = grow(params, one.then(other))
        assert_close(once, twice, 1e-12)
        assert_close(map_gradients(params, one.then(other)), map_gradients(map_gradients(params, one), other), 1e-12)


def test_where_nothing_is_scaled_it_is_the_same_bit_for_bit():
    one = make_plan(CONFIG, replace(CONFIG, num_layers=4), layers=[1], noise=20, seed=3)
    other = make_plan(one.target, replace(one.target, num_layers=6), positions="top")
    params = params_for(CONFIG)
    assert same_values(grow(params, one.then(other)), grow(grow(params, one), other))


@pytest.mark.parametrize("width", WIDTH)
def test_the_function_is_that_of_the_source(width):
    config = in_dtype(CONFIG, "float64")
    one, other = two(config, {"width": width}, {"width": width})
    plan = one.then(other)
    assert plan.guarantee.exact
    tokens = random_tokens(config)
    with precision("float64"):
        params = random_params(config)
        after = logits(grow(params, plan), tokens, plan.target)[..., : config.vocab_size]
        assert relative_difference(after, logits(params, tokens, config)) < plan.guarantee.tolerance


def test_the_promise_is_what_both_keep():
    one, other = two(CONFIG, {}, {"depth": "copy"})
    assert (one.guarantee.exact, other.guarantee.exact) == (True, False)
    plan = one.then(other)
    assert not plan.guarantee.exact
    assert "zero to the residual stream" in plan.guarantee.reason
    assert "change the residual stream" in plan.guarantee.reason
    assert plan.guarantee.gradients.startswith("none")
    assert (plan.depth, plan.width) == ("identity then copy", "duplicate")


@given(first=plans(), data=st.data())
def test_new_entries_of_a_composed_plan_are_those_of_either(first, data):
    grown = first.target
    second = make_plan(
        grown, replace(grown, intermediate_size=grown.intermediate_size + data.draw(st.integers(1, 9)))
    )
    both, one, other = (flatten(new_parameters(plan)) for plan in (first.then(second), first, second))
    for path, entries in both.items():
        for new, before, after in zip(entries.axes, one[path].axes, other[path].axes, strict=True):
            if new is not None:
                kept = (0 if before is None else (~before).sum()) or (~after).sum()
                assert (~new).sum() == kept


def test_three_in_a_row_may_be_bracketed_either_way():
    one = make_plan(CONFIG, replace(CONFIG, num_layers=4), layers=[1])
    two_ = make_plan(one.target, replace(one.target, intermediate_size=300))
    three = make_plan(two_.target, replace(two_.target, hidden_size=200))
    assert one.then(two_).then(three) == one.then(two_.then(three))


def test_a_composed_plan_survives_its_record():
    plan = BOTH.plan(CONFIG)
    more = plan.then(make_plan(plan.target, replace(plan.target, num_layers=9), positions="top", noise=10, seed=5))
    record = json.loads(json.dumps(plan_to_record(more)))
    assert plan_from_record(record, more.target) == more


def test_a_plan_for_another_model_does_not_follow():
    plan = BOTH.plan(CONFIG)
    with pytest.raises(
        GrowthError, match=r"(?s)plan: expected a model with fingerprint .*num_layers: the plan has 3"
    ):
        plan.then(make_plan(CONFIG, replace(CONFIG, num_layers=5)))
    narrow = in_dtype(plan.target, "bfloat16")
    with pytest.raises(GrowthError, match="for float32 weights, got one for bfloat16"):
        plan.then(make_plan(narrow, replace(narrow, num_layers=9)))
