"""Train, measure, expand, train with EWC in one function: what it leaves behind, and that nothing is done twice."""

import runpy
from pathlib import Path

import pytest
from tprog import UsageError
from tprog.reader import open_checkpoint

from tritter_jax.train.config import RunConfig
from tritter_jax.train.metrics import read_metrics
from tritter_jax.train.workflow import learn_without_forgetting

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "04_learn_without_forgetting.py"))


@pytest.mark.slow
def test_the_whole_way_is_gone_once(tmp_path, token_cache):
    again = {"steps": 2, "more": 2, "samples": 8, "batch_size": 4, "cache": str(token_cache)}
    learned = EXAMPLE["learn"](tmp_path, **again)
    end = open_checkpoint(learned.second.checkpoint)
    assert end.config.num_layers == EXAMPLE["LARGE"].num_layers
    assert end.progressive.steps == 4
    told = end.progressive.to_json()["ewc_config"]
    assert (told["data"], told["lambda"], told["fisher_samples"]) == ("builtin:prose", 100, 8)
    assert [entry.fisher for entry in end.progressive.expansion_history] == ["preserve"]
    assert {"fisher", "old_params", "optimizer"} <= set(end.parts)
    assert "penalty" in read_metrics(learned.second.checkpoint.parent)[-1]
    made = {path: path.stat().st_mtime_ns for path in (learned.measured, learned.expanded)}
    assert EXAMPLE["learn"](tmp_path, **again).second.step == 4
    assert {path: path.stat().st_mtime_ns for path in made} == made


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([], ["ewc.lambda=0"], r"second: ewc\.lambda: expected a number above 0"),
        ([], ["training.steps=200"], r"second: training\.steps: expected more than the 200"),
        (["data.train=['a', 'b']"], [], r"first: data\.train: expected one corpus, got 2 of them"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_done(tmp_path, first, second, said):
    one, other = RunConfig.parse({}, first), RunConfig.parse({}, ["ewc.lambda=1", "training.steps=300", *second])
    with pytest.raises(UsageError, match=said):
        learn_without_forgetting(one, EXAMPLE["LARGE"], other, tmp_path)
    assert not list(tmp_path.iterdir())
