"""Where new layers stand, and what is refused."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tprog import GrowthError, ModelConfig, named_size

from tritter_jax.growth import DEPTH, POSITIONS, make_plan, plan_from_record, plan_to_record
from tritter_jax.growth.depth import layout
from tritter_jax.growth.positions import place


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
    scores = [1 / (1 + i) for i in range(layers)]
    try:
        chosen = place(layers, added, rule, scores)
    except GrowthError:
        assert rule == "uniform" or (rule != "spread" and added > layers)
        return
    stack = layout(layers, layers + added, rule, scores=scores)
    assert [stack.source[i] for i in new_layers(stack)] == chosen
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


@pytest.mark.parametrize("rule", POSITIONS)
def test_every_rule_that_doubles_a_stack_copies_each_layer_once(rule):
    assert place(3, 3, rule, [0.5, 0.1, 0.9]) == [0, 1, 2]


def test_middle_copies_13_to_18_of_26_as_the_specification_has_it():
    assert layout(26, 32, "middle") == layout(26, 32, range(13, 19))
    assert place(26, 6, "top") == [20, 21, 22, 23, 24, 25]


@pytest.mark.parametrize("rule", ["middle", "top"])
@given(layers=st.integers(1, 40), data=st.data())
def test_a_block_of_layers_is_copied_that_begins_at_the_middle_or_ends_at_the_top(rule, layers, data):
    added = data.draw(st.integers(1, layers))
    chosen = place(layers, added, rule)
    assert chosen == list(range(chosen[0], chosen[0] + added))
    assert chosen[-1] == layers - 1 or (rule == "middle" and chosen[0] == layers // 2)


@given(scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=20), data=st.data())
def test_importance_copies_the_layers_with_the_highest_scores(scores, data):
    added = data.draw(st.integers(1, len(scores)))
    chosen = place(len(scores), added, "importance", scores)
    rest = set(range(len(scores))) - set(chosen)
    assert len(set(chosen)) == added
    assert chosen == sorted(chosen)
    assert not rest or max(scores[i] for i in rest) <= min(scores[i] for i in chosen)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "importance_scores in layer_analysis of progressive.json, got none stored"),
        ([0.5] * 25, "26 finite numbers, one for each layer, got 25"),
        ([float("nan")] * 26, "got NaN"),
    ],
)
def test_importance_without_a_score_for_each_layer_is_refused(scores, message):
    with pytest.raises(GrowthError, match=message):
        make_plan(named_size("3B"), named_size("7B"), positions="importance", scores=scores)


@pytest.mark.parametrize("rule", ["middle", "top", "importance"])
def test_a_rule_that_copies_each_layer_once_names_the_deepest_it_can(rule):
    with pytest.raises(GrowthError, match=r"at most 3 new layers.* got 4\. The nearest that works is 6 layers"):
        place(3, 4, rule, [1, 2, 3])


def test_solar_is_two_copies_of_the_stack_cut_alike():
    stack = layout(32, 48, "auto", strategy=DEPTH["solar"])
    assert stack.source == (*range(24), *range(8, 32))
    assert new_layers(stack) == list(range(24, 40))


def test_stack_is_the_whole_model_several_times():
    stack = layout(3, 9, "auto", strategy=DEPTH["stack"])
    assert stack.source == (0, 1, 2) * 3
    assert new_layers(stack) == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("name", [name for name in DEPTH if DEPTH[name].arrange])
@given(layers=st.integers(1, 40), added=st.integers(1, 100))
def test_a_strategy_that_arranges_the_stack_keeps_every_layer_or_names_the_nearest_depth(name, layers, added):
    def arranged(target: int):
        return layout(layers, target, "auto", strategy=DEPTH[name])

    try:
        stack = arranged(layers + added)
    except GrowthError as refusal:
        nearest = int(re.search(r"works is (\d+) layers", str(refusal))[1])
        assert nearest > layers
        arranged(nearest)
        for depth in range(layers + 1, layers + 2 * added):
            if abs(depth - layers - added) < abs(nearest - layers - added):
                with pytest.raises(GrowthError):
                    arranged(depth)
        return
    assert len(stack.source) == layers + added
    assert [old for old, new in zip(stack.source, stack.new, strict=True) if not new] == list(range(layers))


@pytest.mark.parametrize("choice", [{"positions": "middle"}, {"layers": [1, 2]}, {"positions": "nonsense"}])
def test_a_strategy_that_arranges_the_stack_takes_no_positions(choice):
    option = next(iter(choice))
    with pytest.raises(GrowthError, match=f"{option}: expected none with --depth solar"):
        make_plan(named_size("3B"), named_size("7B"), depth="solar", **choice)


@pytest.mark.parametrize("name", DEPTH)
def test_only_silent_new_layers_are_called_exact(name):
    source = named_size("3B")
    plan = make_plan(source, replace(source, num_layers=52), depth=name)
    assert plan.guarantee.exact == DEPTH[name].silent == DEPTH[name].preserves.function
    assert "residual stream" in plan.guarantee.reason
    assert plan.guarantee.gradients.startswith("every" if DEPTH[name].silent else "none")
    assert plan_from_record(plan_to_record(plan), plan.target) == plan
