"""tritter fisher: a checkpoint gains its Fisher information and its anchor, and loses nothing."""

import numpy as np
import pytest
import tprog.numpy
from tprog import disk
from tprog.reader import open_checkpoint

from tritter_jax.cli import progress
from tritter_jax.train import refresh


@pytest.fixture
def model(tritter, config_file):
    path = config_file(vocab_size=257, hidden_size=16, num_attention_heads=2, intermediate_size=24)
    outcome = tritter("init", "--config", path, "--out", "tiny-small-0.tprog", "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json["path"]


OPTIONS = (
    "--tokenizer", "bytes", "--data", "builtin:prose", "--sequence-length", 16, "--batch-size", 4, "--samples", 10,
)  # fmt: skip


def test_fisher_writes_information_anchor_and_unit_into_the_checkpoint(tritter, model, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    before = tprog.numpy.load(model)
    outcome = tritter("fisher", model, *OPTIONS, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["path"] == model
    assert (outcome.json["samples"], outcome.json["tokens"]) == (10, 160)
    assert 0 < outcome.json["relative_change"] < 1
    lines = [line for line in outcome.err.splitlines() if "change" in line]
    assert [line.split(",")[0] for line in lines] == [f"measuring: {done} % of 10 rows" for done in (40, 80)]
    found = open_checkpoint(model)
    assert set(found.parts) >= {"fisher", "old_params"}
    said = found.progressive.to_json()["ewc_config"]
    assert said["enabled"] and said["fisher_samples"] == 10
    assert (said["estimator"], said["unit"], said["draws"]) == ("sampled", "per token", 1)
    after = tprog.numpy.load(model)
    fisher, anchor = found.part("fisher"), found.part("old_params")
    assert set(fisher.names) == set(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
        np.testing.assert_array_equal(anchor.tensor(name), value)
        assert (np.asarray(fisher.tensor(name)) >= 0).all()
        assert np.asarray(fisher.tensor(name)).max() > 0, name
    assert tritter("verify", model).code == 0


def test_a_new_checkpoint_in_bfloat16_leaves_the_old_one_alone(tritter, model):
    spread = ("--mesh", "data=2,fsdp=2,rules.vocab=none")
    narrow = ("--dtype", "bf16", "--compute-dtype", "bf16")
    outcome = tritter("fisher", model, *OPTIONS, "--estimator", "empirical", *narrow, *spread, "--out", "b.tprog")
    assert outcome.code == 0, outcome.err
    assert "empirical Fisher information over 10 rows, 160 tokens" in outcome.out
    assert not {"fisher", "old_params"} & set(open_checkpoint(model).parts)
    specs = open_checkpoint("b.tprog").part("fisher").specs
    assert {spec.dtype.name for spec in specs.values()} == {"bfloat16"}


def test_expanding_says_what_is_guessed_and_measures_it_where_data_are_given(
    tritter, model, config_file, monkeypatch
):
    sizes = {"vocab_size": 257, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    grow = ("--from", model, "--to", config_file("l.json", **sizes, num_hidden_layers=3))
    refused = tritter("expand", *grow, "--out", "a.tprog", "--refresh-fisher", "builtin:prose").error
    assert "--refresh-fisher: expected a source with Fisher information" in refused
    assert "new entries; they get the median of their kind" in tritter("plan", *grow).out
    assert tritter("fisher", model, *OPTIONS).code == 0
    guessed = tritter("expand", *grow, "--out", "a.tprog", "--no-verify").out
    assert "640 new entries have the median of their kind" in guessed  # attention out and down of one layer
    again = ("--refresh-fisher", "builtin:prose", "--tokenizer", "bytes")
    with monkeypatch.context() as patch:
        usage = disk.shutil.disk_usage("/")
        patch.setattr(disk.shutil, "disk_usage", lambda _: usage._replace(free=disk._SPARE + 1000))
        patch.setattr(refresh, "estimate_fisher", None)  # nothing is measured
        assert "bytes free on the disk" in tritter("expand", *grow, "--out", "b.tprog", *again).error
    measured = tritter("expand", *grow, "--out", "b.tprog", "--no-verify", *again).out
    assert "640 new entries were measured on builtin:prose" in measured
    one, other = (open_checkpoint(path).part("fisher") for path in ("a.tprog", "b.tprog"))
    parted = {name for name in one.names if not np.array_equal(one.tensor(name), other.tensor(name))}
    assert {name.split(".", 3)[3] for name in parted} == {"self_attn.o_proj.weight", "mlp.down_proj.weight"}


def test_what_cannot_be_measured_is_told_in_a_paragraph(tritter, model):
    ask = (*OPTIONS[:-2], "--samples")
    assert "--samples: expected at most" in tritter("fisher", model, *ask, 10_000_000).error
    assert "expected one of sampled, empirical" in tritter("fisher", model, *OPTIONS, "--estimator", "batched").error
    assert "expected one of float32, bfloat16" in tritter("fisher", model, *OPTIONS, "--dtype", "fp16").error
    assert "mesh.date is no field (did you mean data?" in tritter("fisher", model, *OPTIONS, "--mesh", "date=2").error
    assert "vocab has length 257" in tritter("fisher", model, *OPTIONS, "--mesh", "tensor=2").error
    assert (
        "--batch-size: expected a multiple of 8, as data x fsdp, got 4"
        in tritter("fisher", model, *OPTIONS, "--mesh", "data=8").error
    )
    assert "draws" in tritter("fisher", model, *OPTIONS, "--draws", 0).error
    assert "fisher" not in open_checkpoint(model).parts
