"""The learning rate of a run that names none: by what is trained, said and recorded."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tprog
from tprog.reader import open_checkpoint

from tests.cli.conftest import tritter  # noqa: F401
from tests.support import random_params
from tritter_jax.train import loop, setup
from tritter_jax.train.config import RunConfig
from tritter_jax.train.metrics import read_metrics
from tritter_jax.train.setup import prepare

AGAIN = ("model.config=", "training.steps=10")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, token_cache):
    """The `.tprog` of a run of four steps at a peak of 3e-3, which ends at a tenth of it."""
    from tests.train.conftest import small_run

    chosen = small_run(
        tmp_path_factory.mktemp("rate"), token_cache, "training.steps=4", "optimizer.learning_rate=3e-3"
    )
    return loop.train(prepare(chosen)).checkpoint


def recorded(settings: RunConfig) -> float | None:
    return RunConfig.load(Path(settings.output.directory, "run.toml")).optimizer.learning_rate


def test_from_scratch_it_is_the_rate_of_random_weights(settings):
    chosen = settings("training.steps=1")
    run = prepare(chosen)
    assert (run.settings.optimizer.learning_rate, run.rate_from) == (1e-3, "the default from scratch")
    loop.train(run)
    assert recorded(chosen) == 1e-3


def test_from_a_checkpoint_it_is_what_its_own_run_ended_with(settings, trained):
    chosen = settings(*AGAIN, f"model.checkpoint={trained}", "schedule.name=constant", "schedule.warmup=0")
    run = prepare(chosen)
    assert run.settings.optimizer.learning_rate == pytest.approx(3e-4)
    assert run.rate_from == "what the checkpoint's own run ended with"
    loop.train(run)
    assert recorded(chosen) == pytest.approx(3e-4)
    rates = {line["learning_rate"] for line in read_metrics(Path(chosen.output.directory)) if "loss" in line}
    np.testing.assert_allclose(sorted(rates), [3e-4], rtol=1e-6)


def test_from_a_checkpoint_that_was_stopped_it_is_the_rate_it_stopped_at(settings, trained, tmp_path):
    stopped = shutil.copytree(trained, tmp_path / "stopped.tprog")
    scheduler = stopped / "training" / "scheduler.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"steps": 400}))
    found = prepare(settings(*AGAIN, f"model.checkpoint={stopped}")).settings.optimizer.learning_rate
    assert found == pytest.approx(3e-3, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": {"name": "warmup-cosine", "warmup": 2, "final": 0.0}},  # decayed to nothing
        {"schedule": {"name": "theirs"}},
        {"schedule": None},
        {"learning_rate": "fast"},
        {"learning_rate": 1e30},
        {"steps": None},
    ],
    ids=str,
)
def test_where_the_end_of_its_run_is_not_known_it_is_that_of_trained_weights(settings, trained, tmp_path, changes):
    other = shutil.copytree(trained, tmp_path / "other.tprog")
    scheduler = other / "training" / "scheduler.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | changes))
    run = prepare(settings(*AGAIN, f"model.checkpoint={other}"))
    assert (run.settings.optimizer.learning_rate, run.rate_from) == (1e-4, "the default from a checkpoint")


def test_weights_without_a_run_are_trained_at_the_rate_of_trained_weights(settings, whole, tmp_path):
    from tprog.writer import write_checkpoint

    config = open_checkpoint(next(whole.glob("*.tprog"))).config
    arrays = tprog.flax.to_tensors(random_params(config), config)
    bare = write_checkpoint(tmp_path / "bare.tprog", config, arrays)
    run = prepare(settings(*AGAIN, f"model.checkpoint={bare}", "data.tokenizer=bytes"))
    assert run.settings.optimizer.learning_rate == 1e-4


def test_resuming_from_moments_that_are_stored_makes_no_fresh_ones(settings, trained, monkeypatch):
    run = prepare(settings(*AGAIN, f"model.checkpoint={trained}"))
    held: list[int] = []
    load = setup.load_optimizer

    def counted(*arguments, **options):
        # The arrays there are while the moments load: those of the parameters alone.
        known = {id(leaf) for leaf in before}
        held.append(sum(leaf.nbytes for leaf in jax.live_arrays() if id(leaf) not in known))
        return load(*arguments, **options)

    monkeypatch.setattr(setup, "load_optimizer", counted)
    before = jax.live_arrays()
    state = run.first_state()
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert len(held) == 1
    assert held[0] < 1.5 * parameters
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)) > 1.9 * parameters


def test_a_rate_that_is_given_is_taken(settings, trained):
    run = prepare(settings(*AGAIN, f"model.checkpoint={trained}", "optimizer.learning_rate=0.01"))
    assert (run.settings.optimizer.learning_rate, run.rate_from) == (0.01, "as given")


@pytest.mark.parametrize(("changes", "said"), [((), "the checkpoint's"), (("--tokenizer", "bytes"), "bytes")])
def test_the_command_says_tokenizer_and_rate(tritter, trained, token_cache, tmp_path, changes, said):  # noqa: F811
    fields = (f"data.cache='{token_cache}'", f"model.checkpoint={trained}", "training.steps=1", "data.batch_size=1")
    options = [text for field in fields for text in ("--set", field)]
    outcome = tritter("train", *options, "--out", tmp_path / "run", *changes)
    assert outcome.code == 0, outcome.err
    assert f"tokenizer: {said}, " in outcome.err
    assert "at its peak: what the checkpoint's own run ended with" in outcome.err
