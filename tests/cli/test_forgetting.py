"""tritter eval --baseline: what was forgotten since, as a table and in progressive.json."""

import pytest
import tprog.flax
from tprog.reader import open_checkpoint

from tests.continual.references import tiny_config
from tests.support import random_params
from tritter_jax.continual.metrics import TaskLosses

CONFIG = tiny_config(vocab_size=257, num_layers=1, dtype="float32")


@pytest.fixture
def models(tmp_path):
    """Three states of one model, and two data sets."""
    for name, words in (("a.txt", "of the sea and "), ("b.txt", "1 + 1 = 2; ")):
        (tmp_path / name).write_text("\n\n".join(words * (3 + i) for i in range(20)))
    for seed, name in enumerate(("fresh", "after-a", "after-b")):
        tprog.flax.save(tmp_path / f"{name}.tprog", random_params(CONFIG, seed=seed), CONFIG)
    return "after-b.tprog", (
        "--data",
        "a.txt",
        "--data",
        "b.txt",
        "--all",
        "--batch-size",
        4,
        "--sequence-length",
        16,
        "--tokenizer",
        "bytes",
    )


def test_losses_differences_and_forgetting_are_those_of_the_checkpoints(tritter, models):
    path, options = models
    each = {
        name: [row["loss"] for row in tritter("eval", f"{name}.tprog", *options, "--json").json["results"]]
        for name in ("fresh", "after-a", "after-b")
    }
    words = (path, "--baseline", "after-a.tprog", "--untrained", "fresh.tprog", *options)
    outcome = tritter("eval", *words, "--store", "--json")
    assert outcome.code == 0, outcome.err
    due = TaskLosses(tasks=("a.txt", "b.txt"), losses=(each["after-a"], each["after-b"]), untrained=each["fresh"])
    assert outcome.json["task_losses"] == due.to_json()
    assert open_checkpoint(path).progressive.to_json()["task_losses"] == due.to_json()
    first, second = outcome.json["results"]
    assert first["difference"] == first["forgetting"] == each["after-b"][0] - each["after-a"][0] != 0
    assert second["forgetting"] is None
    assert due.forward_transfer == pytest.approx(each["fresh"][1] - each["after-a"][1])
    shown = tritter("eval", *words).out
    assert f"{first['forgetting']:+.4f}" in shown
    assert f"forward transfer: {due.forward_transfer:+.4f}" in shown
    assert tritter("verify", path).code == 0


def test_without_a_baseline_nothing_is_said_of_forgetting_and_nothing_is_written(tritter, models):
    path, options = models
    outcome = tritter("eval", path, *options)
    assert "forgetting" not in outcome.out
    assert open_checkpoint(path).progressive.task_losses is None
    assert "expected --baseline beside them" in tritter("eval", path, *options, "--store").error


def test_what_cannot_be_compared_is_told(tritter, models, monkeypatch):
    path, options = models
    again = ("--baseline", "after-a.tprog", "--data", "a.txt")
    assert "a.txt twice" in tritter("eval", path, *options, *again).error
    assert "nowhere.tprog" in tritter("eval", path, *options, "--baseline", "nowhere.tprog").error
