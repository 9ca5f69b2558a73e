"""Fisher information grown and refreshed, against what is measured on the grown model."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import tprog.flax
from tprog import UsageError
from tprog.reader import open_checkpoint
from tprog.tree import flatten

from tests.continual.references import tiny_config
from tests.support import random_params
from tritter_jax.growth import make_plan
from tritter_jax.growth.expand import expand
from tritter_jax.train.fisher import measure_fisher
from tritter_jax.train.refresh import measure_grown

CONFIG = tiny_config(vocab_size=258, num_layers=1, dtype="float32")
LARGE = replace(CONFIG, num_layers=2, hidden_size=12, intermediate_size=16)
TEXT = "".join(f"{i} times {i} is {i * i}.\n\n" for i in range(400))
ROWS = {"samples": 16, "batch_size": 8, "sequence_length": 12, "tokenizer": "bytes"}


@pytest.fixture
def measured(tmp_path):
    """A checkpoint with its empirical Fisher information, and what that was measured on."""
    (tmp_path / "text.txt").write_text(TEXT)
    path = tprog.flax.save(tmp_path / "m.tprog", random_params(CONFIG), CONFIG)
    text, options = str(tmp_path / "text.txt"), ROWS | {"cache": tmp_path / "cache"}
    measure_fisher(open_checkpoint(path), text, estimator="empirical", **options)
    return open_checkpoint(path), text, options


@pytest.mark.parametrize("width", ["duplicate", pytest.param("fresh", marks=pytest.mark.slow)])
def test_exact_and_refreshed_it_is_what_is_measured_on_the_grown_model(measured, tmp_path, width):
    checkpoint, text, options = measured
    plan = make_plan(CONFIG, LARGE, width=width)
    found = measure_grown(checkpoint, plan, text, **options)
    refreshed = expand(checkpoint, tmp_path / "refreshed.tprog", plan, fisher="exact", measured=found).path
    guessed = expand(checkpoint, tmp_path / "guessed.tprog", plan, fisher="exact", verify=False).path
    bare = tprog.flax.save(tmp_path / "bare.tprog", tprog.flax.load(refreshed), LARGE)
    measure_fisher(open_checkpoint(bare), text, estimator="empirical", **options)
    due, one, other = (flatten(tprog.flax.load_part(path, "fisher")) for path in (bare, refreshed, guessed))
    off = 0.0
    for path, true in due.items():
        true = np.asarray(true)
        np.testing.assert_allclose(one[path], true, rtol=1e-3, atol=1e-4 * true.max(), err_msg=str(path))
        off = max(off, float(np.abs(np.asarray(other[path]) - true).max() / true.max()))
    assert off > 0.01  # the control: medians are guesses
    out = np.asarray(due["layers", "attention", "out"])[list(plan.new_layers)]
    assert out.max() > 0  # projections that write zeros have a Fisher information


def test_without_anything_to_refresh_it_is_refused_before_anything_is_measured(measured, tmp_path):
    checkpoint, text, options = measured
    plan = make_plan(CONFIG, LARGE)
    bare = open_checkpoint(tprog.flax.save(tmp_path / "bare.tprog", tprog.flax.load(checkpoint), CONFIG))
    with pytest.raises(UsageError, match=r"--refresh-fisher: expected a source with Fisher information"):
        measure_grown(bare, plan, text, **options)
    foreign = checkpoint.progressive.ewc_config.to_json() | {"estimator": "kfac"}
    parts = {name: tprog.flax.load_part(checkpoint, name) for name in ("fisher", "old_params")}
    progressive = checkpoint.progressive.with_fields(ewc_config=foreign)
    path = tprog.flax.save(
        tmp_path / "k.tprog", tprog.flax.load(checkpoint), CONFIG, progressive=progressive, **parts
    )
    with pytest.raises(UsageError, match="estimated as one of sampled, empirical, got 'kfac'"):
        measure_grown(open_checkpoint(path), plan, text, **options)


def test_as_many_rows_are_used_as_before(measured):
    checkpoint, text, options = measured
    told = []
    measure_grown(checkpoint, make_plan(CONFIG, LARGE), text, report=told.append, **(options | {"samples": None}))
    assert told[-1].rows == ROWS["samples"]
    assert all(bool((np.asarray(leaf) >= 0).all()) for leaf in jax.tree.leaves(told[-1].total.squares))
