"""New layers that act at once copy what matters least, where that was measured."""

from dataclasses import replace

import pytest
from tprog import ModelConfig

from tritter_jax.cli.plan import warn_of_copies
from tritter_jax.growth import make_plan

SMALL = ModelConfig(hidden_size=16, num_layers=4, num_heads=2, num_kv_heads=1, intermediate_size=16, vocab_size=24)
LARGE = replace(SMALL, num_layers=6)
SCORES = [0.9, 0.2, 0.4, 0.1]


def copied(**choices):
    plan = make_plan(SMALL, LARGE, **choices)
    return [plan.stack.source[layer] for layer in plan.new_layers], plan


def test_an_inexact_copy_takes_the_expendable_layers():
    assert copied(depth="copy", scores=SCORES)[0] == [1, 3]
    assert copied(depth="copy", scores=SCORES)[1].positions == "expendable"


@pytest.mark.parametrize("choices", [{"depth": "copy"}, {"depth": "identity", "scores": SCORES}])
def test_without_scores_or_where_nothing_changes_the_rule_stays(choices):
    assert copied(**choices)[1].positions == "uniform"


def test_layers_and_rules_that_are_named_are_taken():
    assert copied(depth="copy", scores=SCORES, layers=[0, 1])[0] == [0, 1]
    assert copied(depth="copy", scores=SCORES, positions="top")[0] == [2, 3]


def test_the_warning_has_the_number_of_the_layer_that_matters_most(capsys):
    warn_of_copies(copied(depth="copy", scores=SCORES, layers=[0, 1])[1], SCORES)
    said = " ".join(capsys.readouterr().err.split())
    assert "layer 0 matters most: without it the loss rises by 2.30 nats a token" in said
    warn_of_copies(copied(depth="copy")[1], None)
    assert "tritter analyze" in capsys.readouterr().err
    warn_of_copies(copied(depth="identity")[1], SCORES)
    assert capsys.readouterr().err == ""
