"""progressive.json replaced in a checkpoint that lies there."""

import os
from pathlib import Path

import pytest
from tprog import commit
from tprog.amend import amend, require_amendable
from tprog.errors import FormatError, UsageError
from tprog.reader import open_checkpoint
from tprog.verify import verify
from tprog.writer import write_checkpoint

from tests.tprog.files import random_arrays, small_config

CONFIG = small_config()


@pytest.fixture
def path(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_fields_are_replaced_and_the_manifest_still_holds(path):
    files = {entry: entry.stat().st_ino for entry in path.iterdir() if entry.name != "progressive.json"}
    manifest = open_checkpoint(path).progressive.manifest
    amend(path, training_progress={"steps": 3}, mine=[1, 2])
    amended = amend(path, layer_analysis={"importance_scores": [0.5, 0.25]})
    found = open_checkpoint(path).progressive
    assert found == amended
    assert (found.steps, found.manifest) == (3, manifest)
    assert found.to_json()["mine"] == [1, 2]
    assert amend(path, mine=None).model_extra == {}
    assert {entry: entry.stat().st_ino for entry in files} == files
    assert not verify(path).findings
    assert names(path.parent) == ["a.tprog"]


def test_a_wrong_value_and_a_killed_writer_leave_the_old_file(path, monkeypatch):
    before = (path / "progressive.json").read_bytes()
    with pytest.raises(FormatError, match="importance_scores"):
        amend(path, layer_analysis={"importance_scores": "high"})

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        amend(path, training_progress={"steps": 3})
    assert (path / "progressive.json").read_bytes() == before
    assert names(path.parent) == ["a.tprog"]


def test_what_a_writer_left_that_was_killed_outright_is_cleared(path):
    (path.parent / ".a.tprog.12345678.tmp").mkdir()
    (path.parent / ".a.tprog.12345678.tmp" / "progressive.json").write_text("{")
    amend(path, training_progress={"steps": 3})
    assert names(path.parent) == ["a.tprog"]


def test_two_writers_do_not_meet(path):
    with commit.only_writer(path), pytest.raises(UsageError, match="only writer"):
        amend(path, training_progress={"steps": 3})
    assert open_checkpoint(path).progressive.steps == 0


def test_a_hugging_face_directory_gains_metadata(path):
    (path / "progressive.json").unlink()
    amend(path, training_progress={"steps": 3})
    assert open_checkpoint(path).progressive.steps == 3


def test_what_cannot_be_written_is_refused_before_any_work(path, monkeypatch):
    refused = os.access
    monkeypatch.setattr(os, "access", lambda name, mode: Path(name) != path and refused(name, mode))
    with pytest.raises(UsageError, match="read-only"):
        require_amendable(path)
