"""An option that has no effect on what is there, or contradicts another, is refused before any work is done."""

from pathlib import Path

import pytest

SIZES = {"vocab_size": 257, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
FISHER = ("--tokenizer", "bytes", "--data", "builtin:prose", "--sequence-length", 16, "--samples", 4)


@pytest.fixture
def model(tritter, config_file):
    assert tritter("init", "--config", config_file(**SIZES), "--out", "m.tprog").code == 0
    return "m.tprog"


@pytest.fixture
def deep(config_file):
    return config_file("deep.json", **SIZES, num_hidden_layers=4)


@pytest.fixture
def wide(config_file):
    return config_file("wide.json", **SIZES | {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48})


def refused(outcome, *said: str) -> bool:
    return outcome.code == 1 and all(part in outcome.error for part in said) and "Traceback" not in outcome.err


def test_fisher_refuses_what_no_stored_task_can_take_part_in(tritter, model):
    before = sorted(Path(model).rglob("*"))
    for options, said in (
        (("--tasks", "bogus", "--gamma", 7), "--tasks: expected one of separate, online, single, got 'bogus'"),
        (("--tasks", "bogus"), "--tasks: expected one of separate, online, single, got 'bogus'"),
        (("--gamma", 7), "gamma: expected a number from 0 to 1, got 7"),
        (("--gamma", 0.5), "--gamma: expected --tasks online beside it"),
        (("--gamma", 1), "--gamma: expected --tasks online beside it"),
        (("--tasks", "single", "--gamma", 0.5), "--gamma: expected --tasks online beside it"),
        (("--tasks", "separate"), "--tasks: expected a checkpoint that remembers a task"),
        (("--tasks", "online", "--gamma", 0.5), "--tasks: expected a checkpoint that remembers a task"),
        (("--estimator", "empirical", "--draws", 2), "draws: expected 1 with the estimator empirical"),
    ):
        assert refused(tritter("fisher", model, *FISHER, *options), said), options
    assert sorted(Path(model).rglob("*")) == before


def test_growth_refuses_choices_of_what_does_not_grow(tritter, model, deep, wide):
    for target, options, said in (
        (deep, ("--width", "fresh"), "--width: expected a target that is wider"),
        (deep, ("--split", "even"), "--split: expected a target that is wider"),
        (deep, ("--seed", 5), "--seed: expected something to be drawn"),
        (deep, ("--layers", "0,1", "--positions", "top"), "--positions: expected none beside --layers"),
        (wide, ("--depth", "copy"), "--depth: expected a target of more layers"),
        (wide, ("--positions", "top"), "--positions: expected a target of more layers"),
    ):
        assert refused(tritter("plan", "--from", model, "--to", target, *options), said), options
    for options in (("--optimizer", "transport"), ("--fisher", "exact")):
        outcome = tritter("expand", "--from", model, "--to", deep, "--out", "g.tprog", *options)
        assert refused(outcome, f"{options[0]}: expected a source with a part named"), options
    assert not Path("g.tprog").exists()
    # The same choices where they have an effect.
    assert tritter("plan", "--from", model, "--to", deep, "--depth", "copy").code == 0
    assert tritter("plan", "--from", model, "--to", wide, "--width", "fresh", "--split", "even").code == 0
    assert tritter("plan", "--from", model, "--to", wide, "--noise", 20, "--seed", 5).code == 0


def test_generate_refuses_choices_of_draws_where_nothing_is_drawn(tritter, model):
    for option in ("--top-k", "--seed"):
        outcome = tritter("generate", model, "--tokenizer", "bytes", "--temperature", 0, option, 5)
        assert refused(outcome, f"{option}: expected a --temperature above 0"), option


def test_two_places_to_export_to_are_refused(tritter, model):
    assert refused(tritter("export", model, "--to", "torch", "--orbax", "o"), "--to torch: expected a DESTINATION")
    assert not Path("o").exists()


def test_a_field_of_a_run_is_not_set_twice(tritter):
    for option, field, value in (
        ("--data", "data.train", "b.txt"), ("--out", "output.directory", "b"), ("--tokenizer", "data.tokenizer", "b"),
    ):  # fmt: skip
        outcome = tritter("train", option, "a", "--set", f"{field}={value}")
        assert refused(outcome, f"{option}: expected {field} to be said once"), option
