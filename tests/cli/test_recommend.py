"""tritter recommend, and tritter expand that follows it."""

import json
import shutil
from pathlib import Path

import pytest
from tprog.reader import open_checkpoint

from tests.cli.conftest import LARGER


def lines(steps: int, exponent: float = 0.3) -> list[dict]:
    return [
        {"step": step, "loss": 2 + step**-exponent, "tokens_seen": 500 * step, "learning_rate": 1e-3}
        for step in range(1, steps + 1)
    ]


@pytest.fixture
def run(small, tmp_path):
    """What `tritter train` leaves, as far as advice reads it: a run with a checkpoint of step 200 and its metrics."""
    directory = tmp_path / "run"
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "run.toml").touch()
    checkpoint = directory / Path(small).name.replace("small-0", "19K-200")
    shutil.move(small, checkpoint)
    progressive = json.loads((checkpoint / "progressive.json").read_text())
    progressive["training_progress"] = {"steps": 200, "tokens_seen": 100_000}
    (checkpoint / "progressive.json").write_text(json.dumps(progressive))
    (directory / "start").mkdir()
    for name in ("config.json", "progressive.json"):
        shutil.copy(checkpoint / name, directory / "start")
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines(250)))
    size = open_checkpoint(checkpoint).progressive.current_size.model_size
    renamed = directory / f"tiny-{size}-200.tprog"
    checkpoint.rename(renamed)
    return directory, renamed


def test_advice_is_stored_and_followed(tritter, run, config_file):
    _, checkpoint = run
    larger = config_file("large.json", **LARGER)
    asked = tritter("recommend", checkpoint, "--to", larger, "--json")
    assert asked.code == 0, asked.err
    stored = open_checkpoint(checkpoint).progressive.recommended_expansion
    assert stored.to_json() == asked.json["recommended_expansion"]
    assert (stored.target_hidden_size, stored.target_num_layers, stored.target_num_kv_heads) == (64, 3, 2)
    assert (stored.method, stored.layer_duplication_indices) == ("depth_and_width_upscaling", [1])
    assert "within" in stored.reason or "beyond" in stored.reason
    # The run has gone on since the checkpoint was written; advice on the checkpoint ends where it does.
    assert asked.json["when"]["at_step"] == 200

    outcome = tritter("expand", "--from", checkpoint, "--out", "grown.tprog", "--json")
    assert outcome.code == 0, outcome.err
    assert "following the stored recommendation" in outcome.err
    assert outcome.json["plan"]["copied_layers"] == [1]
    grown = open_checkpoint("grown.tprog")
    assert (grown.config.hidden_size, grown.config.num_layers, grown.config.num_kv_heads) == (64, 3, 2)
    assert grown.progressive.recommended_expansion is None  # it has been reached
    other = tritter(
        "expand", "--from", checkpoint, "--out", "other.tprog", "--layers", "0", "--dtype", "bf16", "--json"
    )
    assert other.json["plan"]["copied_layers"] == [0]
    assert open_checkpoint("other.tprog").config.dtype == "bfloat16"


def test_expand_with_no_option_at_all_takes_the_newest_here(tritter, run, monkeypatch):
    directory, checkpoint = run
    monkeypatch.chdir(directory)
    assert "store one" in tritter("expand").error
    text = tritter("recommend", checkpoint)
    assert text.code == 0, text.err
    for part in ("power law", "Hoffmann", "tokens a parameter", "GB", "tritter expand --from"):
        assert part in " ".join(text.out.split())
    grown = tritter("expand", "--no-verify", "--json")
    assert grown.code == 0, grown.err
    assert open_checkpoint(grown.json["path"]).config.num_layers == 4
    # What was grown lies there too now, and is not the run's.
    assert tritter("recommend", directory, "--when", "--json").json["path"] == str(checkpoint)


def test_when_gives_a_step_with_its_uncertainty_and_stores_nothing(tritter, run):
    directory, checkpoint = run
    before = (checkpoint / "progressive.json").read_bytes()
    found = tritter("recommend", directory, "--when", "--json").json["when"]
    assert found["step"]["low"] < found["step"]["best"] < found["step"]["high"]
    parameters = json.loads(tritter("info", checkpoint, "--json").out)["parameters"]
    assert found["tokens"]["best"] == pytest.approx(500 * found["step"]["best"], rel=0.01)
    assert 5 * parameters < found["tokens"]["best"] < 30 * parameters
    assert found["power_law"]["exponent"]["best"] == pytest.approx(0.3, abs=0.02)
    assert not found["grow_now"]
    early = tritter("recommend", directory, "--when", "--tokens-a-parameter", 1, "--json").json["when"]
    assert early["grow_now"] and early["tokens"]["best"] == pytest.approx(found["tokens"]["best"] / 20)
    text = tritter("recommend", directory, "--when").out
    assert f"from step {found['step']['best']:,}" in text and "90 %" in text
    assert (checkpoint / "progressive.json").read_bytes() == before
    shutil.rmtree(checkpoint)
    going_on = tritter("recommend", directory, "--when", "--json").json
    assert going_on["path"] == str(directory) and going_on["when"]["at_step"] == 250
    assert "a run that has written none yet" in tritter("recommend", directory).error


def test_without_a_path_it_is_what_was_changed_last_here(tritter, run, monkeypatch, tmp_path):
    directory, checkpoint = run
    named = tritter("recommend", directory, "--when", "--json").json
    monkeypatch.chdir(directory)
    outcome = tritter("recommend", "--when", "--json")
    assert (outcome.code, outcome.json) == (0, named)
    assert str(directory.resolve()) in outcome.err or str(checkpoint.resolve()) in outcome.err
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert "a checkpoint or a run in this directory" in tritter("recommend", "--when").error


def test_wrong_questions_are_told_in_a_paragraph(tritter, run, config_file):
    directory, checkpoint = run
    assert "expected a larger size" in tritter("recommend", checkpoint, "--to", config_file()).error
    other = config_file("other.json", hidden_size=80, num_attention_heads=5)
    assert "head_dim: expected 8" in tritter("recommend", checkpoint, "--to", other).error
    assert "Did you mean" in tritter("recommend", checkpoint, "--to", "7X").error
    (directory / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n[1, 2]\nnot json')
    assert "at least 8 lines with step, loss and tokens_seen" in tritter("recommend", directory, "--when").error
    text = tritter("recommend", checkpoint).out
    assert "The run's history could not be used" in text
    (directory / "metrics.jsonl").write_bytes(b"\xff\xfe")
    assert "in order, got 0" in tritter("recommend", directory, "--when").error
