"""What cannot be planned is refused, with the name of the thing, what was expected and what to do."""

from dataclasses import replace

import pytest
from tprog import GrowthError, RopeScaling, named_size

from tritter_jax.growth import DEPTH, POSITIONS, SPLITS, WIDTH, describe, make_plan, plan_from_record, plan_to_record

SMALL, LARGE = named_size("3B"), named_size("7B")


def test_a_shrink_names_every_size_that_shrinks():
    smaller = replace(LARGE, intermediate_size=4096, num_layers=20)
    with pytest.raises(GrowthError) as refusal:
        make_plan(SMALL, smaller)
    message = str(refusal.value)
    assert "num_layers shrinks from 26 to 20" in message
    assert "intermediate_size shrinks from 6912 to 4096" in message
    assert "Choose a larger target" in message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (replace(LARGE, head_dim=64), r"head_dim: expected 128, as in the source, got 64\. .*number of heads"),
        (replace(LARGE, family="mistral"), r"family: expected tritter, .*got mistral\. .*within its family"),
        (SMALL, r"target: expected a larger size, got the source's own\. There is nothing to grow"),
        (replace(SMALL, num_heads=20, num_kv_heads=5), "heads 20/4 -> 20/5: .*5 queries.* 4 slots.* is 25 query"),
        (replace(SMALL, num_heads=21, num_kv_heads=7), "heads 20/4 -> 21/7: .*5 queries.* 3 slots.* is 35 query"),
        (replace(LARGE, vocab_size=65535), r"vocab_size shrinks from 65536 to 65535\. Choose a larger target"),
        (replace(LARGE, rope_theta=1e4), "rope_theta: expected 500000.0, as in the source, got 10000.0"),
        (replace(LARGE, rope_scaling=RopeScaling.of("linear", factor=2.0)), "rope_scaling: expected None"),
        (replace(LARGE, norm_eps=1e-6), "norm_eps: expected 1e-05, as in the source, got 1e-06"),
        (replace(LARGE, tie_embeddings=True), "tie_embeddings: expected False, as in the source, got True"),
        (replace(LARGE, attention_bias=True), "attention_bias: expected False, as in the source, got True"),
        (replace(LARGE, mlp_bias=True), "mlp_bias: expected False, as in the source, got True"),
    ],
    ids=[
        "head_dim", "family", "nothing to grow", "no room", "no room, uneven kv ratio", "vocabulary", "rope_theta",
        "rope_scaling", "norm_eps", "tied", "attention bias", "mlp bias",
    ],
)  # fmt: skip
def test_a_target_that_is_another_model_is_refused(target, message):
    with pytest.raises(GrowthError, match=message):
        make_plan(SMALL, target)


def test_everything_that_differs_is_listed_at_once():
    with pytest.raises(GrowthError) as refusal:
        make_plan(SMALL, replace(LARGE, rope_theta=1e4, norm_eps=1e-6))
    assert "rope_theta" in str(refusal.value)
    assert "norm_eps: 1e-05 -> 1e-06" in str(refusal.value)


def test_llama_and_tritter_are_one_class_and_may_grow_into_each_other():
    plan = make_plan(replace(SMALL, family="llama"), LARGE)
    assert plan.target.family == "llama"
    assert make_plan(SMALL, replace(LARGE, family="llama")).target.family == "tritter"


def test_what_growth_does_not_touch_stays_the_sources():
    source = replace(SMALL, max_position_embeddings=1234, initializer_range=0.01, extra={"eos_token_id": 7})
    plan = make_plan(source, replace(LARGE, dtype="bfloat16"))
    assert plan.target == replace(source.resized(LARGE), dtype="bfloat16")
    assert plan.guarantee.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("option", "rows"), {"depth": DEPTH, "positions": POSITIONS, "split": SPLITS, "width": WIDTH}.items()
)
def test_an_unknown_name_is_refused_with_the_names_there_are_and_the_nearest(option, rows):
    name = next(iter(rows))
    with pytest.raises(GrowthError) as refusal:
        make_plan(SMALL, LARGE, **{option: name[:-1] + "_"})
    message = str(refusal.value)
    assert message.startswith(f"{option}: expected one of {', '.join(rows)}, got '{name[:-1]}_'")
    assert f"Did you mean {name}?" in message
    with pytest.raises(GrowthError, match=f"got 'xyz'. Choose one with --{option}"):
        make_plan(SMALL, LARGE, **{option: "xyz"})


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_jax_would_cut_is_refused(seed):
    with pytest.raises(GrowthError, match="seed: expected a number from 0 to 4294967295"):
        make_plan(SMALL, LARGE, seed=seed)
    assert make_plan(SMALL, LARGE, seed=(1 << 32) - 1).seed == 4294967295


def test_a_record_of_a_newer_version_is_refused():
    plan = make_plan(SMALL, LARGE)
    with pytest.raises(GrowthError, match=r"expected version 1, got 2\. A newer release wrote it"):
        plan_from_record(plan_to_record(plan) | {"version": 2}, plan.target)


@pytest.mark.parametrize(
    "field", ["source", "target", "layer_sources", "new_layers", "width", "split", "seed", "depth"]
)
def test_a_record_without_a_field_names_it(field):
    plan = make_plan(SMALL, LARGE)
    record = plan_to_record(plan)
    del record[field]
    with pytest.raises(GrowthError, match=f"expected a field '{field}', got nothing"):
        plan_from_record(record, plan.target)


@pytest.mark.parametrize(
    "edit",
    [
        {"layer_sources": [0, 1, 2]},
        {"layer_sources": [*range(31), 31]},
        {"layer_sources": "all"},
        {"new_layers": [4, 9]},
        {"new_layers": 4},
        {"source": [2560, 26]},
        {"target": {}},
        {"seed": "x"},
    ],
    ids=str,
)
def test_a_record_that_was_edited_is_refused_and_not_followed(edit):
    plan = make_plan(SMALL, LARGE)
    with pytest.raises(GrowthError, match=r"expansion_history\.plan: .*The record was edited"):
        plan_from_record(plan_to_record(plan) | edit, plan.target)


def test_a_record_brings_back_explicit_layers_and_the_sources_sizes():
    narrow = replace(LARGE, dtype="bfloat16")
    plan = make_plan(SMALL, narrow, layers=range(13, 19), width="fresh", split="even", seed=5)
    back = plan_from_record(plan_to_record(plan), plan.target)
    assert back == plan
    assert back.source == SMALL
    assert (back.positions, back.seed, back.new_layers) == ("explicit", 5, plan.new_layers)
    assert (back.convert, back.target.dtype) == (True, "bfloat16")


def test_a_plan_describes_what_comes_from_where():
    plan = make_plan(SMALL, LARGE, positions="spread")
    described = describe(plan)
    assert described["sizes"]["hidden_size"] == [2560, 4096]
    assert described["sizes"]["num_heads"] == [20, 32]
    assert described["new_layers"] == list(plan.new_layers)
    assert described["copied_layers"] == [4, 8, 12, 17, 21, 25]
    assert described["guarantee"]["exact"] is True
    assert described["guarantee"]["tolerance"] == plan.guarantee.tolerance
