"""The maps of any plan keep what growth rests on, whatever the sizes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tprog.params import Axis

from tests.growth.strategies import plans
from tritter_jax.growth import SPLITS, AxisMap, plan_from_record, plan_to_record
from tritter_jax.growth.axis_map import FRESH, axis_map

WRITE, READ, GAIN, TIED = (Axis("hidden", role) for role in ("write", "read", "gain", "tied_gain"))
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def over_copies(along: AxisMap, values: np.ndarray) -> np.ndarray:
    """Sum over the copies of every old entry."""
    source = np.asarray(along.source)
    old = source != FRESH
    return np.bincount(source[old], values[old])


@given(plans())
def test_over_the_copies_of_every_old_entry_weight_times_gradient_sums_to_one(plan):
    for axis, along in plan.maps:
        np.testing.assert_allclose(over_copies(along, along.share), 1, err_msg=str(axis), **CLOSE)


@given(plans())
def test_every_map_takes_each_old_entry_and_reaches_each_new_one(plan):
    for axis, along in plan.maps:
        assert len(along) == plan.target.axis_sizes[axis.name]
        assert set(along.source) - {FRESH} == set(range(plan.source.axis_sizes[axis.name]))
        assert not np.asarray(along.weight)[along.fresh].any()
        assert not np.asarray(along.gradient)[along.fresh].any()


@given(plans())
def test_copies_of_a_hidden_coordinate_carry_its_square_times_the_ratio(plan):
    maps, ratio = dict(plan.maps), plan.target.hidden_size / plan.source.hidden_size
    if ratio == 1:
        assert WRITE not in maps
        return
    np.testing.assert_allclose(over_copies(maps[WRITE], np.square(maps[WRITE].weight)), ratio, **CLOSE)


@given(plans())
def test_what_is_written_and_read_along_hidden_is_what_it_was(plan):
    maps = dict(plan.maps)
    if WRITE not in maps:
        return
    write, read, gain, tied = (np.asarray(maps[axis].weight) for axis in (WRITE, READ, GAIN, TIED))
    np.testing.assert_allclose(over_copies(maps[WRITE], write * gain * read), 1, **CLOSE)
    np.testing.assert_allclose(over_copies(maps[WRITE], write * tied * write), 1, **CLOSE)


@given(plans())
def test_what_units_and_heads_pass_on_is_what_it_was(plan):
    maps = {(axis.name, axis.role): along for axis, along in plan.maps}
    if ("mlp", "copy") in maps:
        gate, up, down = (maps["mlp", role] for role in ("copy", "write", "read"))
        assert set(np.asarray(gate.weight)[~gate.fresh]) == {1.0}
        np.testing.assert_allclose(over_copies(up, np.multiply(up.weight, down.weight)), 1, **CLOSE)
    if ("heads", "copy") in maps:
        query, out = maps["heads", "copy"], maps["heads", "read"]
        assert set(np.asarray(query.weight)[~query.fresh]) == {1.0}
        np.testing.assert_allclose(over_copies(out, np.asarray(out.weight)), 1, **CLOSE)


@given(plans(width="fresh"))
def test_a_fresh_unit_writes_zero_and_reads_something_so_that_it_can_learn(plan):
    maps = {(axis.name, axis.role): along for axis, along in plan.maps}
    fills = {key: along.fill for key, along in maps.items() if along.fresh.any()}
    zero = {("hidden", "write"), ("mlp", "write"), ("heads", "read")}
    assert {key for key, fill in fills.items() if fill == "zero"} == zero & set(fills)
    for axis, alive in (("hidden", "read"), ("mlp", "copy"), ("mlp", "read"), ("heads", "copy")):
        assert fills.get((axis, alive), "random") == "random"


@given(plans())
def test_a_plan_survives_its_record(plan):
    record = json.loads(json.dumps(plan_to_record(plan)))
    assert plan_from_record(record, plan.target) == plan


@pytest.mark.parametrize("split", SPLITS)
@given(copies=st.integers(1, 40))
def test_shares_are_not_negative_and_sum_to_one(split, copies):
    share = SPLITS[split](copies)
    assert share.shape == (copies,)
    assert (share >= 0).all()
    assert share.sum() == pytest.approx(1, rel=1e-14)


def test_the_splits_are_what_they_are_called():
    assert SPLITS["uneven"](2).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert len(set(SPLITS["uneven"](7))) == 7
    assert SPLITS["even"](4).tolist() == [0.25] * 4
    assert SPLITS["first"](3).tolist() == [1, 0, 0]


def test_new_entries_are_all_but_the_first_copies():
    along = axis_map([2, 0, 2, FRESH, 1, 0], np.ones(6), np.ones(6))
    assert along.new.tolist() == [False, False, True, True, False, True]


def test_uneven_hidden_copies_differ_so_that_they_can_separate():
    from tests.contracts.cases import BOTH, MODELS

    write = dict(BOTH.plan(MODELS[0].config).maps)[WRITE]
    pairs = {old: np.asarray(write.weight)[np.asarray(write.source) == old] for old in range(160)}
    assert all(len(set(weights)) == len(weights) for weights in pairs.values())
    assert max(len(weights) for weights in pairs.values()) == 2
    squares = next(np.square(weights) for weights in pairs.values() if len(weights) == 2)
    assert squares[1] / squares[0] == pytest.approx(2)
