"""Ternary models grow with their codes and scales: transformers' BitNet class, which finds both anew, agrees."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import tprog.flax
import transformers
from tprog import GrowthError
from tprog.tree import flatten

from tests.contracts.cases import BOTH, DEEPER, FRESH, MODELS, Growth, cases, in_dtype, params_for
from tests.model.test_ternary import ONLINE
from tests.support import logits, random_params, random_tokens, relative_difference, same_values, torch_logits
from tritter_jax.growth import grow, make_plan
from tritter_jax.growth.drift import precision
from tritter_jax.growth.expand import expand

TERNARY = [model for model in MODELS if model.config.ternary]
CONFIG = TERNARY[0].config
DOUBLED = Growth(wider=True, deeper=True, split="even", sizes="doubled")
KEPT = [(model, growth) for model in TERNARY for growth in (FRESH, DEEPER, DOUBLED)]
EQUAL, ONE_LEVEL = 1e-5, 5e-2
"""Logits that are equal; and those between which an 8-bit activation fell to the other of two levels."""


def codes_and_scale(matrix: jax.Array) -> tuple[np.ndarray, float]:
    """What a BitNet layer makes of one layer's matrix."""
    wide = np.asarray(matrix, np.float64)
    scale = np.abs(wide).mean()
    return np.clip(np.round(wide / (scale or 1)), -1, 1), scale


def online(path: Path) -> torch.nn.Module:
    """A directory as transformers runs it when it makes weights ternary at every use."""
    config = path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": ONLINE}))
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "AutoBitLinear"
    return model.eval()


def apart(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The largest difference in every sequence, over the largest logit."""
    return np.abs(after - before).max(axis=(1, 2)) / np.abs(before).max()


@cases(KEPT)
def test_transformers_bitnet_gives_the_same_logits(model, growth, tmp_path):
    plan = growth.plan(model.config)
    params, tokens = params_for(plan.source), random_tokens(plan.source, (40, 3))
    source = online(tprog.flax.save(tmp_path / "source.tprog", params, plan.source))
    grown = online(tprog.flax.save(tmp_path / "grown.tprog", grow(params, plan), plan.target))
    differences = apart(torch_logits(source, tokens), torch_logits(grown, tokens))
    assert np.median(differences) < EQUAL / 5
    assert (differences < EQUAL).mean() > 0.8
    assert differences.max() < ONE_LEVEL


def test_a_model_is_no_steadier_against_the_rounding_of_its_own_embedding():
    """The control for the few sequences that differ: the last bit of the input alone does as much."""
    params, tokens = params_for(CONFIG), random_tokens(CONFIG, (200, 17))
    moved = params | {"embed": params["embed"] * np.float32(1 + 2e-7)}
    differences = apart(*(np.asarray(logits(tree, tokens, CONFIG)) for tree in (params, moved)))
    assert np.median(differences) < EQUAL / 5
    assert EQUAL < differences.max() < ONE_LEVEL


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@cases([(model, growth) for model, growth in KEPT if growth.wider])
def test_old_entries_keep_their_codes_and_scales_are_what_their_outputs_are_due(model, growth, dtype):
    with precision(dtype):
        plan = growth.plan(in_dtype(model.config, dtype))
        params = random_params(plan.source)
        before, after = flatten(params), flatten(grow(params, plan))
    seen = 0
    for spec, _ in plan.target_specs():
        if not spec.kernel:
            continue
        layer_map, *inner = plan.axis_maps(spec)
        due = np.prod([np.max(along.weight) for along in inner if along is not None and along.fill == "zero"] or [1])
        for new, old in enumerate(layer_map.source):
            if plan.stack.new[new] and spec.axes[0].role == "residual":
                assert not np.asarray(after[spec.path][new]).any()
                continue
            was, scale = codes_and_scale(before[spec.path][old])
            codes, grown_scale = codes_and_scale(after[spec.path][new])
            assert grown_scale == pytest.approx(due * scale, rel=1e-4 if dtype == "bfloat16" else 1e-6), spec.name
            kept = [np.flatnonzero(~m.fresh) if m else np.arange(n) for m, n in zip(inner, was.shape, strict=True)]
            sources = [m.gather[k] if m else k for m, k in zip(inner, kept, strict=True)]
            np.testing.assert_array_equal(codes[np.ix_(*kept)], was[np.ix_(*sources)], err_msg=spec.name)
            for axis, along in enumerate(inner):
                if along is not None and along.fill == "zero" and along.fresh.any():
                    rows = np.take(codes, np.flatnonzero(along.fresh), axis=axis)
                    assert not rows.any(), f"{spec.name} writes where it should be silent"
                    assert np.take(np.asarray(after[spec.path][new]), np.flatnonzero(along.fresh), axis=axis).any()
            seen += 1
    assert seen > 20


def test_plain_zero_padding_flips_codes():
    """The control: fresh rows and columns of zeros lower the mean, and with it the threshold."""
    up = np.asarray(params_for(CONFIG)["layers"]["mlp"]["up"][0])
    padded = np.pad(up, ((0, 144), (0, 96)))
    assert (codes_and_scale(padded)[0][:192, :160] != codes_and_scale(up)[0]).mean() > 0.1


def test_what_reads_keeps_every_bit_of_its_weights():
    plan = FRESH.plan(CONFIG)
    grown, params = grow(params_for(CONFIG), plan), params_for(CONFIG)
    old = np.flatnonzero(~np.asarray(plan.stack.new))
    for name in ("query", "key"):
        there = np.asarray(grown["layers"]["attention"][name])[old]
        there = there[:, : params["layers"]["attention"][name].shape[1], :, :160]
        np.testing.assert_allclose(there, params["layers"]["attention"][name], rtol=2e-6)


@cases([(model, DOUBLED) for model in TERNARY])
def test_whole_multiples_copy_bits(model, growth):
    plan = growth.plan(in_dtype(model.config, "bfloat16"))
    up = np.asarray(grow(params_for(plan.source), plan)["layers"]["mlp"]["up"].astype(jnp.float32))
    was = np.asarray(params_for(plan.source)["layers"]["mlp"]["up"].astype(jnp.float32))[list(plan.stack.source)]
    np.testing.assert_array_equal(up, np.tile(was, (1, 2, 2)))


def test_fresh_rows_that_are_silent_learn_and_can_wake():
    from tests.support import gradients

    plan = FRESH.plan(in_dtype(CONFIG, "float64"))
    with precision("float64"):
        grown = grow(random_params(plan.source), plan)
        up = np.asarray(gradients(grown, random_tokens(CONFIG), plan.target)["layers"]["mlp"]["up"])
    old = np.flatnonzero(~np.asarray(plan.stack.new))
    learning = np.abs(up[old][..., :160]).max(axis=2) > 0  # a squared ReLU may be off at every token
    assert learning[:, 192:].mean() > learning[:, :192].mean() - 0.1 > 0.3


@pytest.mark.parametrize(
    ("changes", "choices", "message"),
    [
        ({}, {}, r"ternary bitnet model, hidden 160 -> 256: expected copies that are all written alike, .*320"),
        ({}, {"split": "even"}, "--split even takes whole multiples, the nearest 320"),
        (
            {"num_kv_heads": 16},
            {"width": "fresh"},
            r"heads 20/5 -> 32/16: expected groups of 4 queries.*got groups of 2, .* 64/16 heads are whole groups",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused_with_the_reason_and_what_works(changes, choices, message):
    target = replace(FRESH.plan(CONFIG).target, **changes)
    with pytest.raises(GrowthError, match=message) as refusal:
        make_plan(CONFIG, target, positions="spread", **choices)
    assert "--allow-inexact" in str(refusal.value)


@pytest.mark.parametrize("choices", [{}, {"split": "even"}, {"width": "fresh", "kv": 16}])
def test_it_is_done_all_the_same_where_inexact_is_allowed_and_the_plan_says_so(choices, tmp_path):
    choices = dict(choices)
    target = replace(FRESH.plan(CONFIG).target, num_kv_heads=choices.pop("kv", 8))
    source = tprog.flax.save(tmp_path / "a-x-0.tprog", params_for(CONFIG), CONFIG)
    done = expand(source, tmp_path / "b-x-0.tprog", target, allow_inexact=True, positions="spread", **choices)
    assert not done.plan.guarantee.exact
    assert "which the norm behind" in done.plan.guarantee.reason or "several scales" in done.plan.guarantee.reason
    assert 1e-3 < done.drift.max_relative < 5


@cases([(model, growth) for model, growth in KEPT if growth.wider])
def test_expanding_a_file_holds_the_growth_to_double_precision(model, growth, tmp_path):
    config = in_dtype(model.config, "bfloat16")
    source = tprog.flax.save(tmp_path / "a-x-0.tprog", params_for(config), config)
    choices = {"width": growth.width, "split": growth.split, "positions": "spread"}
    done = expand(source, tmp_path / "b-x-0.tprog", growth.plan(config).target, **choices)
    assert done.plan.guarantee.exact
    assert done.drift.before_rounding < 1e-12
    assert done.drift.max_relative < done.plan.guarantee.tolerance


def test_norms_inside_the_layers_are_no_obstacle_without_rounding():
    model = next(model for model in MODELS if model.name == "bitnet-unquantised")
    plan = BOTH.plan(model.config)
    assert plan.guarantee.exact
    assert not plan.keeps_codes
    with pytest.raises(GrowthError, match="got groups of 2, which the norm behind the heads would see"):
        make_plan(model.config, replace(plan.target, num_kv_heads=16))


def test_two_growths_of_a_ternary_model_in_a_row_are_one():
    one = FRESH.plan(CONFIG)
    other = make_plan(one.target, replace(one.target, intermediate_size=400), width="fresh", seed=4)
    params = params_for(CONFIG)
    assert one.then(other).guarantee.exact
    assert same_values(
        jax.tree.map(lambda leaf: leaf.shape, grow(params, one.then(other))),
        jax.tree.map(lambda leaf: leaf.shape, grow(grow(params, one), other)),
    )
    tokens = random_tokens(CONFIG, (40, 3))
    after = np.asarray(logits(grow(params, one.then(other)), tokens, other.target))
    assert np.median(apart(np.asarray(logits(params, tokens, CONFIG)), after)) < EQUAL
    assert relative_difference(after, logits(params, tokens, CONFIG)) < ONE_LEVEL
