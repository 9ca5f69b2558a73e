"""Regrouping of heads: every query keeps its own key and value head."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tprog import GrowthError, ModelConfig
from tprog.params import Axis

from tests.growth.strategies import head_patterns
from tritter_jax.growth import WIDTH, make_plan
from tritter_jax.growth.axis_map import FRESH
from tritter_jax.growth.heads import kv_copies

QUERIES, KV = Axis("heads", "copy"), Axis("kv_heads", "copy")


def regroup(heads: int, kv: int, new_heads: int, new_kv: int, width: str = "duplicate"):
    """The old heads that the new query heads and kv heads come from."""
    source = ModelConfig(
        hidden_size=8, num_layers=1, num_heads=heads, num_kv_heads=kv, head_dim=2, intermediate_size=8, vocab_size=7
    )
    plan = make_plan(source, replace(source, num_heads=new_heads, num_kv_heads=new_kv), width=width)
    maps = dict(plan.maps)
    assert maps[QUERIES].source == maps[Axis("heads", "read")].source
    return list(maps[QUERIES].source), list(maps[KV].source)


def test_20_query_heads_on_4_become_32_on_8():
    queries, kv = regroup(20, 4, 32, 8)
    assert kv == [0, 0, 1, 1, 2, 2, 3, 3]
    first = [0, 1, 2, 3, 4, 0, 1, 2]
    assert queries == [5 * group + i for group in range(4) for i in first]
    assert queries[8:16] == [5, 6, 7, 8, 9, 5, 6, 7]


def test_fresh_query_heads_stand_behind_the_old_ones_of_their_group():
    queries, kv = regroup(4, 2, 8, 2, width="fresh")
    assert kv == [0, 1]
    assert queries == [0, 1, FRESH, FRESH, 2, 3, FRESH, FRESH]


def test_a_kv_ratio_that_is_no_whole_number_gives_the_first_heads_one_copy_more():
    queries, kv = regroup(8, 4, 12, 6)
    assert kv == [0, 0, 1, 1, 2, 3]
    assert queries == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("width", WIDTH)
@given(pattern=head_patterns())
def test_every_query_keeps_its_own_kv_head_or_there_is_no_room(width, pattern):
    heads, kv, new_heads, new_kv = pattern
    group, slots = heads // kv, new_heads // new_kv
    if (new_heads, new_kv) == (heads, kv):
        return
    if new_kv // kv * slots < group:
        with pytest.raises(GrowthError, match="room for the"):
            regroup(*pattern, width=width)
        return
    queries, kv_source = regroup(*pattern, width=width)
    assert sorted(kv_source) == kv_source
    assert max(map(kv_source.count, range(kv))) - min(map(kv_source.count, range(kv))) <= 1
    assert set(queries) - {FRESH} == set(range(heads))
    for new, old in enumerate(queries):
        if old != FRESH:
            assert kv_source[new // slots] == old // group


@given(pattern=head_patterns())
def test_a_refused_regrouping_names_the_nearest_that_works(pattern):
    heads, kv, new_heads, new_kv = pattern
    if new_kv // kv * (new_heads // new_kv) >= heads // kv:
        return
    with pytest.raises(GrowthError) as refusal:
        regroup(*pattern)
    works = int(re.search(r"works is (\d+) query heads", str(refusal.value))[1])
    assert works > new_heads
    regroup(heads, kv, works, new_kv)
    if works - new_kv >= heads:
        with pytest.raises(GrowthError):
            regroup(heads, kv, works - new_kv, new_kv)


@given(kv=st.integers(1, 4), group=st.integers(1, 4), times=st.integers(2, 3))
def test_key_and_value_gradients_are_known_where_whole_groups_are_copied(kv, group, times):
    for new_heads, new_kv in ((kv * group * times, kv), (kv * group * times, kv * times)):
        source = ModelConfig(
            hidden_size=8, num_layers=1, num_heads=kv * group, num_kv_heads=kv, head_dim=2, intermediate_size=8,
        )  # fmt: skip
        plan = make_plan(source, replace(source, num_heads=new_heads, num_kv_heads=new_kv))
        assert all(dict(plan.maps)[KV].mapped)
        assert plan.guarantee.gradients.startswith("every")


def test_fewer_kv_heads_are_refused_where_a_recorded_plan_asks_for_them():
    source = ModelConfig(hidden_size=32, num_layers=1, num_heads=4, num_kv_heads=4, intermediate_size=8)
    target = ModelConfig(hidden_size=32, num_layers=1, num_heads=4, num_kv_heads=2, intermediate_size=8)
    with pytest.raises(GrowthError, match="kv heads: expected at least the source's 4, got 2"):
        kv_copies(source, target)
