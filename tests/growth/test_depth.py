"""Where new layers stand, and what is refused."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tprog import GrowthError, ModelConfig, named_size

from tritter_jax.growth import DEPTH, POSITIONS, make_plan
from tritter_jax.growth.depth import layout


def new_layers(stack) -> list[int]:
    return [i for i, new in enumerate(stack.new) if new]


def test_uniform_is_llama_pros_rule_from_26_to_32_layers():
    stack = layout(26, 32, "uniform")
    assert new_layers(stack) == [4, 9, 14, 19, 24, 29]
    assert [stack.source[i] for i in new_layers(stack)] == [3, 7, 11, 15, 19, 23]


def test_uniform_refuses_22_to_32_and_names_the_nearest_depth_that_works():
    with pytest.raises(GrowthError, match=r"The nearest that works is 33 layers; --positions spread takes any"):
        layout(22, 32, "uniform")


@given(layers=st.integers(1, 60))
def test_the_depth_that_uniform_names_works_and_none_is_nearer(layers):
    works, named = [], {}
    for depth in range(layers + 1, 2 * layers + 2):
        try:
            layout(layers, depth, "uniform")
            works.append(depth)
        except GrowthError as refusal:
            named[depth] = int(re.search(r"works is (\d+) layers", str(refusal))[1])
    for wanted, nearest in named.items():
        assert nearest in works
        assert abs(nearest - wanted) == min(abs(depth - wanted) for depth in works)


@pytest.mark.parametrize("rule", POSITIONS)
@given(layers=st.integers(1, 40), added=st.integers(1, 40))
def test_a_rule_gives_that_many_layers_each_right_after_its_source_or_refuses(rule, layers, added):
    try:
        stack = layout(layers, layers + added, rule)
    except GrowthError:
        assert rule != "spread" or added > layers
        return
    assert sum(stack.new) == added
    assert len(stack.source) == layers + added
    assert [old for old, new in zip(stack.source, stack.new, strict=True) if not new] == list(range(layers))
    assert all(stack.source[i] == stack.source[i - 1] for i in new_layers(stack))


@given(layers=st.integers(2, 40), data=st.data())
def test_spread_leaves_gaps_that_differ_by_one_at_most(layers, data):
    added = data.draw(st.integers(1, layers))
    stack = layout(layers, layers + added, "spread")
    sources = [stack.source[i] for i in new_layers(stack)]
    gaps = [b - a for a, b in zip([-1, *sources], sources, strict=False)]
    assert max(gaps) - min(gaps) <= 1
    assert sources[-1] == layers - 1


@given(layers=st.integers(1, 40), added=st.integers(0, 40))
def test_auto_is_uniform_where_that_gives_as_many_and_spread_elsewhere(layers, added):
    source = ModelConfig(hidden_size=8, num_layers=layers, num_heads=2, num_kv_heads=1, intermediate_size=8)
    plan = make_plan(source, replace(source, num_layers=layers + added, intermediate_size=9))
    try:
        assert plan.stack == layout(layers, layers + added, "uniform")
        assert plan.positions == "uniform"
    except GrowthError:
        assert plan.positions == "spread"
        assert plan.stack == layout(layers, layers + added, "spread")


def test_spread_and_uniform_agree_where_uniform_divides_evenly():
    assert layout(24, 32, "spread") == layout(24, 32, "uniform")


def test_explicit_layers_13_to_18_are_copied_in_place():
    stack = layout(26, 32, range(13, 19))
    assert new_layers(stack) == [14, 16, 18, 20, 22, 24]
    assert [stack.source[i] for i in new_layers(stack)] == [13, 14, 15, 16, 17, 18]


def test_the_order_of_explicit_layers_does_not_matter():
    assert layout(6, 8, [4, 1]) == layout(6, 8, [1, 4])


@pytest.mark.parametrize(
    ("layers", "message"),
    {
        "too high": ([24, 26], "numbers from 0 to 25, got 26"),
        "negative": ([-1, 3], "numbers from 0 to 25, got -1"),
        "repeated": ([3, 3, 4, 5, 6, 7], "each layer once, got 3 repeated"),
        "too few": ([3, 4], "6 of them, to go from 26 to 32 layers, got 2"),
        "too many": (range(13, 20), "6 of them, to go from 26 to 32 layers, got 7"),
        "none": ([], "6 of them"),
    }.values(),
    ids=["too high", "negative", "repeated", "too few", "too many", "none"],
)
def test_explicit_layers_that_do_not_fit_are_refused(layers, message):
    with pytest.raises(GrowthError, match=message) as refusal:
        layout(26, 32, layers)
    assert "--layers 13-18" in str(refusal.value)


def test_layers_to_copy_are_refused_where_no_layer_is_added():
    source = named_size("10B")
    with pytest.raises(GrowthError, match="0 of them, to go from 40 to 40 layers, got 1"):
        make_plan(source, replace(source, intermediate_size=2 * source.intermediate_size), layers=[3])


def test_a_plan_with_explicit_layers_says_so():
    plan = make_plan(named_size("3B"), named_size("7B"), layers=range(13, 19))
    assert plan.positions == "explicit"
    assert plan.new_layers == (14, 16, 18, 20, 22, 24)


@pytest.mark.parametrize("name", DEPTH)
def test_only_silent_new_layers_are_called_exact(name):
    plan = make_plan(named_size("3B"), named_size("7B"), depth=name)
    assert plan.guarantee.exact == DEPTH[name].silent
    assert "residual stream" in plan.guarantee.reason
