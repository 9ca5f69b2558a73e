"""Growth keeps the function to the plan's stated guarantee, in every dtype."""

from dataclasses import replace

import numpy as np
import pytest
from tprog import GrowthError
from tprog.params import Axis

from tests.contracts.cases import BOTH, EACH_MODEL, EXACT, MODELS, PAIRS, REFUSED, cases, in_dtype, params_for
from tests.support import logits, random_tokens, relative_difference
from tritter_jax.growth import TOLERANCE, Plan, grow
from tritter_jax.growth.axis_map import axis_map
from tritter_jax.growth.drift import precision

FLOAT32 = 2e-6
SQUARED = 2 * FLOAT32
"""Squaring doubles a relative error; some processors' order of sums brings relu2 past FLOAT32."""
SEEN = 2e-3
"""What the negative controls must differ by: no tolerance comes near it but bfloat16's."""


def drift(plan: Plan) -> float:
    """How far growth moves the logits, computed from the stored weights in float32 (float64 for float64)."""
    compute = "float64" if plan.source.dtype == "float64" else "float32"
    tokens = random_tokens(plan.source)
    with precision(plan.source.dtype):
        params = params_for(plan.source)
        before = logits(params, tokens, plan.source, dtype=compute)
        after = logits(grow(params, plan), tokens, plan.target, dtype=compute)
        assert after.dtype == compute
        return relative_difference(after[..., : plan.source.vocab_size], before)


@cases(EXACT)
def test_float64_keeps_the_function_to_rounding(model, growth):
    plan = growth.plan(in_dtype(model.config, "float64"))
    assert plan.guarantee.exact
    assert drift(plan) < plan.guarantee.tolerance <= 1e-12


@cases(EXACT, default=EACH_MODEL)
def test_float32_keeps_the_function_to_rounding(model, growth):
    plan = growth.plan(in_dtype(model.config, "float32"))
    assert plan.guarantee.exact
    # An 8-bit activation may fall to the other of two levels: tests/growth/test_ternary.py looks closer.
    rounding = SQUARED if model.config.family_record.activation == "relu2" else FLOAT32
    bound = plan.guarantee.tolerance if plan.keeps_codes else rounding
    assert drift(plan) < bound <= plan.guarantee.tolerance


NARROW = [pytest.param(model, growth, "bfloat16", id=f"{model.name}-bfloat16") for model, growth in EACH_MODEL]
OTHERS = set(TOLERANCE) - {"float64", "float32", "bfloat16"}
NARROW += [pytest.param(*EACH_MODEL[0], dtype, id=dtype) for dtype in sorted(OTHERS)]


@pytest.mark.parametrize(("model", "growth", "dtype"), NARROW)
def test_narrow_dtypes_keep_the_function_to_the_stated_tolerance(model, growth, dtype):
    plan = growth.plan(in_dtype(model.config, dtype))
    assert drift(plan) < plan.guarantee.tolerance


@cases([(model, growth) for model, growth in PAIRS if not growth.function])
def test_what_is_not_called_exact_moves_the_logits(model, growth):
    plan = growth.plan(model.config)
    assert not plan.guarantee.exact
    assert drift(plan) > SEEN


@cases([(model, growth) for model, growth in EXACT if not growth.wider])
def test_growth_in_depth_alone_changes_no_bit_of_the_logits(model, growth):
    plan = growth.plan(in_dtype(model.config, "bfloat16"))
    assert drift(plan) == 0


@cases(REFUSED)
def test_what_would_move_ternary_codes_is_refused_with_what_works_instead(model, growth):
    with pytest.raises(GrowthError, match="copies that are all written alike") as refusal:
        growth.plan(model.config)
    assert "--width fresh takes any ratio; --split even takes whole multiples, the nearest 320" in str(refusal.value)
    assert "--allow-inexact" in str(refusal.value)


def changed(plan: Plan, **maps: tuple) -> Plan:
    """The plan with some maps replaced: `axis_role=(source, weight, gradient)`."""
    table = dict(plan.maps)
    for key, (source, weight, gradient) in maps.items():
        table[Axis(*key.rsplit("_", 1))] = axis_map(np.asarray(source).tolist(), weight, gradient)
    return replace(plan, maps=tuple(table.items()))


@pytest.mark.parametrize("model", [m for m in MODELS if m.widens], ids=lambda model: model.name)
def test_plain_net2net_duplication_is_seen(model):
    plan = BOTH.plan(model.config)
    source = np.asarray(dict(plan.maps)[Axis("hidden", "write")].source)
    ones = np.ones(len(source))
    share = 1 / np.bincount(source)[source]
    net2net = changed(plan, hidden_write=(source, ones, share), hidden_read=(source, share, ones))
    assert drift(net2net) > SEEN


def test_plain_net2net_duplication_is_exact_without_a_remainder():
    """It is the unequal numbers of copies that RMSNorm does not let through: with two of each it is exact."""
    config = in_dtype(MODELS[0].config, "float32")
    plan = replace(BOTH, split="even").plan(config)
    doubled = replace(plan, target=replace(plan.target, hidden_size=320))
    source = np.arange(320) % 160
    one, half = np.ones(320), np.full(320, 0.5)
    assert drift(changed(doubled, hidden_write=(source, one, half), hidden_gain=(source, one, half),
                         hidden_read=(source, half, one))) < FLOAT32  # fmt: skip


def test_tiled_heads_are_seen():
    """Queries in the order 0..19, 0..11 end up beside the key and value heads of others."""
    plan = BOTH.plan(MODELS[0].config)
    source, ones = np.arange(32) % 20, np.ones(32)
    share = 1 / np.bincount(source)[source]
    tiled = changed(plan, heads_copy=(source, ones, share), heads_read=(source, share, ones))
    assert drift(tiled) > SEEN


def test_tiled_kv_heads_are_seen():
    plan = BOTH.plan(MODELS[0].config)
    assert drift(changed(plan, kv_heads_copy=(np.arange(8) % 4, np.ones(8), np.full(8, 0.5)))) > SEEN


def test_a_tied_final_gain_that_is_only_copied_is_seen():
    tied = next(model for model in MODELS if model.config.tie_embeddings and model.widens)
    plan = BOTH.plan(tied.config)
    table = dict(plan.maps)
    table[Axis("hidden", "tied_gain")] = table[Axis("hidden", "gain")]
    assert drift(replace(plan, maps=tuple(table.items()))) > SEEN
