"""`tritter` alone shows what lies here and what can be done with it next."""

import json
import os
from pathlib import Path

import pytest
from tprog.amend import amend

from tests.cli.test_every_command import parse


@pytest.fixture
def shown(tritter):
    """The commands that are shown, each held against the parser."""

    def show() -> list[str]:
        outcome = tritter()
        assert outcome.code == 0, outcome.err
        commands = [step["command"] for step in tritter("--json").json["next"]]
        for command in commands:
            assert parse(command)
            assert command in outcome.out
        return commands

    return show


def test_in_an_empty_directory_it_shows_how_to_begin(shown):
    assert {"tritter demo", "tritter plan --from 3B --to 7B"} < set(shown())


def test_with_a_checkpoint_it_follows_what_is_known_of_it(shown, tritter, config_file, tmp_path):
    assert tritter("init", "--config", config_file(), "--out", "a-test-0.tprog").code == 0
    assert shown()[0].startswith("tritter analyze a-test-0.tprog")
    path = tmp_path / "a-test-0.tprog" / "progressive.json"
    known = json.loads(path.read_text())
    known["current_size"]["model_size"] = "test"
    path.write_text(json.dumps(known))
    assert "tritter plan --from a-test-0.tprog --to 125M" in shown()
    grown = {"from_size": "a", "to_size": "b", "method": "c"}
    for field, first in (
        ({"layer_analysis": {}}, "tritter recommend a-test-0.tprog"),
        ({"recommended_expansion": {"next_size": "125M"}}, "tritter expand --from a-test-0.tprog"),
        (
            {"expansion_history": [grown]},
            "tritter train --set model.checkpoint=a-test-0.tprog",
        ),
    ):
        known |= field
        path.write_text(json.dumps(known))
        assert shown()[0].startswith(first)
    path.write_text("{")
    assert shown() == ["tritter verify a-test-0.tprog"]


def test_a_name_with_spaces_is_quoted(shown, tritter, config_file):
    assert tritter("init", "--config", config_file(), "--out", "my model-test-0.tprog").code == 0
    assert "tritter info 'my model-test-0.tprog'" in shown()


def test_with_a_run_or_a_model_directory_it_shows_what_these_are_for(shown, tmp_path):
    model = tmp_path / "llama"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").touch()
    assert "tritter import llama llama.tprog" in shown()
    (tmp_path / "runs" / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.toml").touch()
    assert shown()[0] == "tritter train --resume runs/a"
    assert not any(Path("runs/a/checkpoints").iterdir())


def test_a_directory_that_may_not_be_looked_into_is_passed_over(shown, tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    stat = Path.stat

    def refuse(self: Path, **options: bool) -> object:
        if self.parent.name == "secret":
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    assert "tritter demo" in shown()


@pytest.mark.parametrize("name", ["a.tprog", "poet"])
def test_a_checkpoint_of_any_name_was_called_a_model_to_import(shown, tritter, config_file, name):
    assert tritter("init", "--config", config_file(), "--out", "a-test-0.tprog").code == 0
    Path("a-test-0.tprog").rename(name)
    assert f"tritter info {name}" in shown()
    assert not any("import" in command for command in shown())


def test_amending_an_early_checkpoint_makes_it_no_newer(shown, tritter, config_file):
    for step in (200, 0):
        assert tritter("init", "--config", config_file(), "--out", f"a-test-{step}.tprog").code == 0
    amend("a-test-200.tprog", training_progress={"steps": 200})
    amend("a-test-0.tprog", note="read again")
    assert "tritter info a-test-200.tprog" in shown()
    grown = tritter("expand", "--to", config_file("larger.json", num_hidden_layers=3), "--json")
    assert grown.code == 0, grown.err
    assert "a-test-200.tprog" in grown.err
    assert Path(grown.json["source"]).name == "a-test-200.tprog"
    assert Path(grown.json["path"]).name.endswith("-200.tprog")


def test_a_report_in_a_run_is_no_work_of_the_run(shown):
    for name, worked, changed in (("a", 300, 400), ("b", 350, 350), ("c", 100, 900)):
        run = Path("runs", name)
        (run / "checkpoints").mkdir(parents=True)
        (run / "run.toml").touch()
        (run / "metrics.jsonl").touch()
        os.utime(run / "metrics.jsonl", (worked, worked))
        os.utime(run, (changed, changed))
    assert shown()[0] == "tritter train --resume runs/b"


def test_the_newest_is_shown(shown, tritter, config_file):
    for name in ("new", "old-test-0", "older"):
        assert tritter("init", "--config", config_file(), "--out", f"{name}.tprog").code == 0
        os.utime(f"{name}.tprog", (1, {"new": 300, "old-test-0": 200, "older": 100}[name]))
    assert "tritter info new.tprog" in shown()
    for name, when in (("a", 100), ("b", 300), ("c", 200)):
        path = Path("models", name)
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        (path / "model.safetensors").touch()
        os.utime(path, (1, when))
    os.chdir("models")
    assert "tritter info b" in shown()
