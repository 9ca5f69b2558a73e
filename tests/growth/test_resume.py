"""Going on with a growth that was killed: whole files are kept, and only for the same plan and source."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tprog.flax
from tprog import ModelConfig, UsageError
from tprog.dtypes import same_bits
from tprog.journal import JOURNAL
from tprog.reader import open_checkpoint
from tprog.verify import verify

from tests.support import random_params
from tritter_jax.growth.expand import expand

SMALL = ModelConfig(
    family="llama", hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=20, vocab_size=40
)
LARGE = replace(SMALL, hidden_size=40, num_layers=3, num_heads=8, num_kv_heads=4, intermediate_size=36)
GROW = {"layers": [1], "verify": False, "shard_size": 16000}


@pytest.fixture
def source(tmp_path):
    params = random_params(SMALL)
    return tprog.flax.save(tmp_path / "from" / "poet-1K-3.tprog", params, SMALL, fisher=params)


@pytest.fixture
def killed(source, tmp_path):
    """What a run leaves that is killed amid the files of the Fisher information."""
    litter = tmp_path / "to" / ".large.tprog.01234567.tmp"

    def kill(done: int, total: int) -> None:
        if done > 0.8 * total:
            shutil.copytree(next((tmp_path / "to").glob("*.tmp")), tmp_path / "copy")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        expand(source, tmp_path / "to" / "large.tprog", LARGE, **GROW, advance=kill)
    (tmp_path / "to").mkdir()
    return (tmp_path / "copy").rename(litter)


def go_on(source, tmp_path, **changes):
    return expand(source, tmp_path / "to" / "large.tprog", LARGE, **{**GROW, "resume": True} | changes).path


def names(directory) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*.safetensors"))


@contextlib.contextmanager
def held_open(directory):
    """A context in which the inodes of a directory's files are not given out again."""
    with contextlib.ExitStack() as stack:
        for name in names(directory):
            stack.enter_context((directory / name).open("rb"))
        yield


def assert_grown(path, source, tmp_path) -> None:
    fresh = open_checkpoint(expand(source, tmp_path / "fresh.tprog", LARGE, **GROW).path)
    assert verify(path).findings == ()
    found = open_checkpoint(path)
    for ours, due in ((found, fresh), (found.part("fisher"), fresh.part("fisher"))):
        assert ours.names == due.names
        for name in due.names:
            np.testing.assert_array_equal(same_bits(ours.tensor(name)), same_bits(due.tensor(name)))


def test_whole_files_are_kept_and_the_rest_is_written(source, killed, tmp_path):
    left = {name: (killed / name).stat().st_ino for name in names(killed)}
    with held_open(killed):
        path = go_on(source, tmp_path)
    kept = [name for name in left if (path / name).stat().st_ino == left[name]]
    assert len(kept) == len(left) - 1 >= 3  # all but the one that was being written
    assert len(names(path)) > len(left)
    assert [entry.name for entry in (tmp_path / "to").iterdir()] == ["large.tprog"]
    assert not (path / JOURNAL).exists()
    assert_grown(path, source, tmp_path)


def test_a_file_that_is_not_what_was_noted_is_written_anew(source, killed, tmp_path):
    victim = killed / "weights-00002-of-00010.safetensors"
    with victim.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    inode = victim.stat().st_ino
    with held_open(killed):
        path = go_on(source, tmp_path)
    assert (path / victim.relative_to(killed)).stat().st_ino != inode
    assert_grown(path, source, tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"), [({"layers": [0]}, "plan"), ({"shard_size": 9000}, "plan"), ({"fisher": "exact"}, "plan")]
)
def test_another_plan_is_refused_and_nothing_lost(source, killed, tmp_path, changes, what):
    before = names(killed)
    with pytest.raises(UsageError, match=f"one of another {what}"):
        go_on(source, tmp_path, **changes)
    assert names(killed) == before


def test_a_changed_source_is_refused(source, killed, tmp_path):
    os.utime(source / "weights.safetensors", ns=(1, 1))
    with pytest.raises(UsageError, match="one of another source"):
        go_on(source, tmp_path)
    assert killed.is_dir()


def test_without_resume_the_litter_is_cleared(source, killed, tmp_path):
    left = {(killed / name).stat().st_ino for name in names(killed)}
    with held_open(killed):
        path = go_on(source, tmp_path, resume=False)
    assert not left & {(path / name).stat().st_ino for name in names(path)}
    assert [entry.name for entry in (tmp_path / "to").iterdir()] == ["large.tprog"]


WRITER = """
import sys, time
from tests.tprog.files import random_arrays, small_config
from tprog.journal import Journal
from tprog.source import LazyTensors, named_source
from tprog.writer import write_checkpoint
arrays = random_arrays(small_config(), 1)
def make(name):
    if name == list(arrays)[8] and sys.argv[2] == "first":
        print("half", flush=True)
        time.sleep(60)
    return arrays[name]
source = LazyTensors(named_source(arrays).specs, make)
journal = Journal({"plan": "a"}, resume=True)
path = write_checkpoint(sys.argv[1], small_config(), source, shard_size=1000, journal=journal)
print("written", flush=True)
"""


def test_a_process_that_is_killed_is_gone_on_with_by_another(tmp_path):
    def run(which: str) -> subprocess.Popen:
        command = [sys.executable, "-c", WRITER, tmp_path / "to" / "a.tprog", which]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    first = run("first")
    assert first.stdout.readline() == "half\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    (litter,) = (tmp_path / "to").glob("*.tmp")
    assert not (tmp_path / "to" / "a.tprog").exists()
    whole = {path.name: path.stat().st_ino for path in litter.glob("weights-*")}
    second = run("second")
    assert second.communicate(timeout=60)[0] == "written\n"
    kept = {name for name, inode in whole.items() if (tmp_path / "to" / "a.tprog" / name).stat().st_ino == inode}
    assert len(whole) > 2
    assert len(whole) - len(kept) <= 1
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["a.tprog"]
