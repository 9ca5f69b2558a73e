"""New tokens begin as average ones, and leave the logits of the old tokens as they were."""

from dataclasses import replace

import numpy as np
import pytest
from tprog import GrowthError

from tests.contracts.cases import BOTH, MODELS, in_dtype, params_for
from tests.support import logits, random_params, random_tokens, relative_difference
from tritter_jax.growth import grow, make_plan
from tritter_jax.growth.drift import measure_drift, precision

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
NEW = 150


def larger(config):
    return make_plan(config, replace(config, vocab_size=NEW))


@each_model
def test_logits_of_the_old_tokens_are_unchanged(model):
    config = in_dtype(model.config, "float64")
    plan, tokens = larger(config), random_tokens(config)
    assert plan.guarantee.exact
    assert plan.target == replace(config, vocab_size=NEW)
    with precision("float64"):
        params = random_params(config)
        before, after = logits(params, tokens, config), logits(grow(params, plan), tokens, plan.target)
    assert after.shape[-1] == NEW
    assert relative_difference(after[..., : config.vocab_size], before) < 1e-15
    assert measure_drift(before, after).max_relative < 1e-15


@each_model
def test_new_rows_lie_around_the_mean_of_the_old_and_differ(model):
    grown, old = grow(params_for(model.config), larger(model.config)), model.config.vocab_size
    rows = np.asarray(grown["embed"])
    assert np.array_equal(rows[:old], params_for(model.config)["embed"])
    apart = (rows[old:] - rows[:old].mean(axis=0)) / rows[:old].std(axis=0)
    assert apart.std() == pytest.approx(0.1, rel=0.05)
    assert len(np.unique(rows[old:], axis=0)) == NEW - old
    if "lm_head" in grown:
        rows = np.asarray(grown["lm_head"])
        apart = rows[old:] - rows[:old].mean(axis=0)
        assert np.abs(apart).mean() < 0.11 * np.abs(rows[:old]).mean()


def test_logits_of_new_tokens_are_average():
    config = in_dtype(MODELS[0].config, "float64")
    plan = larger(config)
    with precision("float64"):
        after = np.asarray(logits(grow(random_params(config), plan), random_tokens(config), plan.target))
    old, new = after[..., : config.vocab_size], after[..., config.vocab_size :]
    assert np.abs(new - old.mean(axis=-1, keepdims=True)).max() < old.std()


@pytest.mark.parametrize("width", ["duplicate", "fresh"])
@pytest.mark.parametrize("tied", [False, True])
def test_it_goes_together_with_every_other_growth(width, tied):
    config = in_dtype(replace(MODELS[0].config, tie_embeddings=tied), "float64")
    wider = replace(BOTH, width=width).plan(config)
    plan = make_plan(config, replace(wider.target, vocab_size=NEW), width=width, positions="spread")
    tokens = random_tokens(config)
    with precision("float64"):
        params = random_params(config)
        grown = grow(params, plan)
        after = logits(grown, tokens, plan.target)[..., : config.vocab_size]
        assert relative_difference(after, logits(params, tokens, config)) < 1e-12
    if width == "fresh":
        assert not np.asarray(grown["embed"])[:, 160:].any()


def test_gradients_are_not_called_the_old_ones():
    assert "softmax" in larger(MODELS[0].config).guarantee.gradients
    assert not larger(MODELS[0].config).guarantee.gradients_exact


def test_a_smaller_vocabulary_is_refused():
    with pytest.raises(GrowthError, match="vocab_size shrinks from 104 to 100"):
        make_plan(MODELS[0].config, replace(MODELS[0].config, vocab_size=100))
