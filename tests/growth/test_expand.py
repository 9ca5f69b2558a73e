"""Expanding a checkpoint on disk: room is asked for first, the source is watched, nothing half-written is left."""

import os
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import tprog.flax
from tprog import FormatError, ModelConfig, UsageError
from tprog.reader import open_checkpoint

from tests.support import random_params
from tritter_jax.growth.expand import expand

SMALL = ModelConfig(
    family="llama", hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=20, vocab_size=40
)
LARGE = replace(SMALL, hidden_size=40, num_layers=3, num_heads=8, num_kv_heads=4, intermediate_size=36)
QUICK = {"layers": [1], "verify": False}


@pytest.fixture
def source(tmp_path):
    params = random_params(SMALL)
    return tprog.flax.save(tmp_path / "from" / "poet-1K-3.tprog", params, SMALL, fisher=params, shard_size=8000)


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_disk_is_asked_for_room_before_anything_is_run(source, tmp_path, monkeypatch):
    stages = []
    usage = namedtuple("usage", "total used free")(1 << 40, 1 << 40, 20 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    expand(source, tmp_path / "fits.tprog", LARGE, layers=[1], progress=stages.append)
    assert stages
    stages.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=16 << 20))
    with pytest.raises(UsageError, match="bytes free on the disk"):
        expand(source, tmp_path / "deeper" / "large.tprog", LARGE, layers=[1], progress=stages.append)
    assert stages == []
    assert names(tmp_path) == ["fits.tprog", "from"]


def test_every_byte_of_weights_and_parts_is_counted(source, tmp_path):
    told = []
    done = expand(source, tmp_path / "large.tprog", LARGE, **QUICK, advance=lambda *at: told.append(at))
    result = open_checkpoint(done.path)
    due = sum(spec.nbytes for part in (result, result.part("fisher")) for spec in part.specs.values())
    assert told[-1] == (due, due)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def shards(source):
    return sorted(source.glob("weights-*.safetensors"))


def appended(source):
    with shards(source)[0].open("ab") as file:
        file.write(b"x")


def replaced(source):
    shutil.copy2(shards(source)[0], source / "copy")
    (source / "copy").rename(shards(source)[0])


def touched(source):
    os.utime(source / "config.json", ns=(1, 1))


def removed(source):
    shards(source)[0].unlink()


@pytest.mark.parametrize(
    ("change", "verify"), [(appended, False), (replaced, False), (touched, False), (removed, False), (touched, True)]
)
def test_a_source_that_changes_underfoot_is_told(source, tmp_path, change, verify):
    def meddle(stage: str) -> None:
        if stage == "growing and writing":
            change(source)

    with pytest.raises(FormatError, match="stay as they are"):
        expand(source, tmp_path / "large.tprog", LARGE, layers=[1], verify=verify, progress=meddle)
    assert names(tmp_path) == ["from"]


def test_what_is_written_beside_the_source_files_does_not_matter(source, tmp_path):
    (source / "notes.txt").write_text("a")

    def meddle(stage: str) -> None:
        (source / "new.json").write_text("{}")
        (source / "notes.txt").write_text("another")

    assert expand(source, tmp_path / "large.tprog", LARGE, layers=[1], progress=meddle).path.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_growth_leaves_nothing(source, tmp_path, error):
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            assert any(name.endswith(".tmp") for name in names(tmp_path / "to"))
            raise error

    with pytest.raises(error):
        expand(source, tmp_path / "to" / "large.tprog", LARGE, **QUICK, advance=interrupt)
    assert names(tmp_path) == ["from"]
