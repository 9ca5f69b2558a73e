"""tritter analyze: progressive.json gains what the layers are worth; nothing else of the checkpoint changes."""

import json
import os
from pathlib import Path

import pytest
import tprog.numpy
from tprog.reader import open_checkpoint

from tests.cli.conftest import entries

OPTIONS = ("--tokenizer", "bytes", "--data", "builtin:prose", "--sequence-length", 32, "--samples", 40)


@pytest.fixture
def model(tritter, config_file):
    path = config_file(
        vocab_size=257, hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=3
    )
    outcome = tritter("init", "--config", path, "--out", "tiny-small-0.tprog", "--json")
    assert outcome.code == 0, outcome.err
    return Path(outcome.json["path"])


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    files = (entry for entry in path.rglob("*") if entry.is_file() and entry.name != "progressive.json")
    return {entry.name: (entry.read_bytes(), entry.stat().st_ino) for entry in files}


def test_analyze_stores_its_findings_and_touches_no_other_file(tritter, model):
    progressive = json.loads((model / "progressive.json").read_text()) | {"mine": {"kept": True}}
    (model / "progressive.json").write_text(json.dumps(progressive))
    before = contents(model)
    outcome = tritter("analyze", model, *OPTIONS, "--plot", "layers.png", "--json")
    assert outcome.code == 0, outcome.err
    assert contents(model) == before
    found = open_checkpoint(model).progressive.to_json()
    analysis = found.pop("layer_analysis")
    assert found == progressive
    assert analysis == outcome.json["layer_analysis"]
    assert len(analysis["importance_scores"]) == len(analysis["block_influence"]) == 3
    assert len(analysis["residual_norms"]) == 4
    assert all(0 <= score <= 1 for score in analysis["importance_scores"])
    assert (analysis["method"], analysis["data"]) == ("loss when skipped", "builtin:prose")
    assert analysis["tokens"] <= 40 * 32
    assert "fisher_mass" not in analysis
    assert Path("layers.png").read_bytes().startswith(b"\x89PNG")
    assert tritter("verify", model).code == 0
    assert entries(".") == {"small.json", "layers.png", "tiny-small-0.tprog"}


def test_a_person_sees_a_bar_a_layer_and_fisher_where_it_is_stored(tritter, model):
    options = (
        "--tokenizer",
        "bytes",
        "--data",
        "builtin:prose",
        "--sequence-length",
        16,
        "--batch-size",
        4,
        "--samples",
        4,
    )
    assert tritter("fisher", model, *options).code == 0
    outcome = tritter("analyze", model, *OPTIONS)
    assert outcome.code == 0, outcome.err
    for part in ("█", "expendable", "critical", "Fisher mass", "without the critical layers", "tritter-layers.png"):
        assert part in outcome.out
    fisher = tprog.numpy.load_part(model, "fisher")
    for layer, mass in enumerate(open_checkpoint(model).progressive.layer_analysis.fisher_mass):
        expected = sum(value.sum() for name, value in fisher.items() if f"layers.{layer}." in name)
        assert mass == pytest.approx(expected, rel=1e-5)


def test_importance_drives_the_positions_of_new_layers(tritter, model, config_file):
    assert tritter("analyze", model, *OPTIONS).code == 0
    checkpoint = open_checkpoint(model)
    scores = checkpoint.progressive.layer_analysis.importance_scores
    larger = config_file(
        "larger.json",
        vocab_size=257, hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=4,
    )  # fmt: skip
    plan = tritter("plan", "--from", model, "--to", larger, "--positions", "importance", "--json").json
    assert plan["copied_layers"] == [scores.index(max(scores))]


def test_what_cannot_be_analysed_is_told_in_a_paragraph(tritter, model, monkeypatch):
    Path("short.txt").write_text("Too short to tell anything.")
    before = (model / "progressive.json").read_bytes()
    short = tritter("analyze", model, *OPTIONS[:2], "--data", "short.txt", "--all").error
    assert "at least 1,000 tokens to tell layers apart, got" in short
    assert "a file that can be written" in tritter("analyze", model, *OPTIONS, "--plot", "no/such.png").error
    assert "a file that can be written" in tritter("analyze", model, *OPTIONS, "--plot", ".").error
    assert "expected a .tprog" in tritter("analyze", "nowhere", *OPTIONS).error
    refused = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(".tprog") and refused(path, mode))
    assert "got one that is read-only" in tritter("analyze", model, *OPTIONS).error
    assert (model / "progressive.json").read_bytes() == before
