"""Advice: a size within reach, layers from the analysis, and a paragraph that names its evidence."""

from dataclasses import replace

import pytest
from tprog import SIZES, ConfigError, GrowthError, ModelConfig, UsageError, count_parameters, named_size
from tprog.schema import LayerAnalysis, Progressive, RecommendedExpansion

from tritter_jax.analysis import Memory, advise, loss_history, next_target, recommended_target
from tritter_jax.analysis.target import SAFE_FACTOR, factor_between, layers_to_copy
from tritter_jax.growth import make_plan

PLENTY = Memory(10**15, "a pod")
SMALL = ModelConfig(hidden_size=40, num_layers=6, num_heads=5, num_kv_heads=1, intermediate_size=48, vocab_size=64)


def known(config: ModelConfig, **fields: object) -> Progressive:
    return Progressive.of(config).with_fields(**fields)


@pytest.mark.parametrize("name", list(SIZES))
def test_every_named_size_has_a_next_one_that_it_can_grow_to(name):
    config = named_size(name)
    target = next_target(config)
    assert factor_between(config, target) > 1
    assert make_plan(config, target).guarantee.exact
    advice = advise(config, Progressive.of(config), PLENTY)
    assert advice.plan.target == target
    said = factor_between(config, target) > SAFE_FACTOR
    assert ("beyond the factor of 2" in advice.record.reason) == said


def test_the_specification_s_own_case():
    advice = advise(named_size("3B"), Progressive.of(named_size("3B")), PLENTY, target=named_size("7B"))
    record = advice.record
    assert (record.next_size, record.target_hidden_size, record.target_num_layers) == ("7B", 4096, 32)
    assert record.method == "depth_and_width_upscaling"
    assert len(record.layer_duplication_indices) == 6
    assert advice.grow_now is None
    for part in ("not recorded", "no layer analysis", "no loss history", "Hoffmann", "99.3 GB", "a pod"):
        assert part in record.reason


def test_memory_decides_among_safe_sizes():
    config = named_size("30B")
    assert next_target(config) == config.resized(named_size("40B"))
    small = replace(named_size("7B"))
    assert next_target(small, 10**15).num_layers == 40
    assert next_target(small, 1).hidden_size == named_size("10B").hidden_size
    assert "must be spread over more devices" in advise(small, Progressive.of(small), Memory(1, "x")).record.reason


def test_layers_come_from_the_analysis_one_in_each_stretch():
    scores = [0.9, 0.1, 0.3, 0.2, 0.05, 0.4]
    analysis = LayerAnalysis(importance_scores=scores, expendable_layers=[4], data="text", steps=7)
    target = replace(SMALL, num_layers=9)
    advice = advise(SMALL, known(SMALL, layer_analysis=analysis), PLENTY, target=target)
    assert advice.record.layer_duplication_indices == [0, 2, 5]
    assert "copy layers 0, 2, 5" in advice.record.reason
    assert "on text, at step 7" in advice.record.reason
    assert "missed least (4)" in advice.record.reason
    without = advise(SMALL, known(SMALL), PLENTY, target=target)
    assert without.record.layer_duplication_indices == [1, 3, 5]  # the control
    with pytest.raises(UsageError, match="6 importance scores"):
        stale = LayerAnalysis(importance_scores=[0.5] * 4)
        advise(SMALL, known(SMALL, layer_analysis=stale), PLENTY, target=target)


@pytest.mark.parametrize(("layers", "added"), [(6, 1), (6, 4), (6, 6), (26, 6), (5, 12)])
def test_copied_layers_are_as_many_as_asked_for(layers, added):
    scores = [((7 * layer) % layers) / layers for layer in range(layers)]
    chosen = layers_to_copy(layers, added, scores)
    assert len(chosen) == added and chosen == sorted(chosen)
    assert added > layers or len(set(chosen)) == added


def test_more_than_twice_the_layers_and_width_alone_can_be_advised():
    deep = advise(SMALL, known(SMALL), PLENTY, target=replace(SMALL, num_layers=20))
    assert len(deep.record.layer_duplication_indices) == 14
    wide = advise(SMALL, known(SMALL), PLENTY, target=replace(SMALL, intermediate_size=96))
    assert (wide.record.method, wide.record.layer_duplication_indices) == ("width_upscaling", [])
    with pytest.raises(GrowthError, match="a larger size"):
        advise(SMALL, known(SMALL), PLENTY, target=SMALL)


@pytest.mark.parametrize(("tokens", "verdict"), [(1_000, "Train on first"), (10**9, "Grow now")])
def test_the_verdict_goes_by_the_tokens_seen(tokens, verdict):
    progressive = known(SMALL, training_progress={"tokens_seen": tokens, "steps": 10})
    advice = advise(SMALL, progressive, PLENTY)
    assert verdict in advice.record.reason
    assert advice.grow_now == (verdict == "Grow now")
    assert ("lie mostly below 20" in advice.record.reason) == advice.grow_now


def test_tokens_a_parameter_and_a_near_certainty_are_said_in_plain_figures():
    reason = advise(SMALL, known(SMALL), PLENTY, tokens_seen=2e12).record.reason
    assert f"2 T tokens, {2e12 / count_parameters(SMALL):,.0f} a parameter" in reason
    assert "this point is passed is above 99%" in reason


def test_the_loss_history_is_in_the_paragraph():
    def run(exponent: float):
        return loss_history(
            [
                {"step": step, "loss": 2 + step**-exponent, "tokens_seen": 100 * step, "learning_rate": 1.0}
                for step in range(1, 200)
            ]
        )

    falling = advise(SMALL, known(SMALL), PLENTY, history=run(0.2))
    assert "training loss still falls" in falling.record.reason
    assert "exponent 0.2" in falling.record.reason
    assert falling.tokens_seen == 19_900
    assert "step " in falling.record.reason
    assert "hardly falls any more" in advise(SMALL, known(SMALL), PLENTY, history=run(1.5)).record.reason


def test_a_stored_recommendation_is_a_target_again():
    config = named_size("3B")
    advice = advise(config, Progressive.of(config), PLENTY)
    assert recommended_target(config, advice.record) == advice.plan.target
    by_hand = RecommendedExpansion(next_size="7b", target_hidden_size=4096)
    assert recommended_target(config, by_hand) == config.resized(named_size("7B"))
    with pytest.raises(UsageError, match="num_layers 40, not 32"):
        recommended_target(config, RecommendedExpansion(next_size="7B", target_num_layers=40))
    with pytest.raises(UsageError, match="a named size, or all target dimensions"):
        recommended_target(config, RecommendedExpansion(next_size="8B"))
    with pytest.raises(ConfigError):
        recommended_target(config, RecommendedExpansion(**advice.record.to_json() | {"target_num_heads": 3}))
