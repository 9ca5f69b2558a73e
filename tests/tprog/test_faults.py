"""What happens to files when a writer is killed, the disk is full or read-only, or two write at once."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tprog.hashing
import tprog.numpy
from tprog import commit
from tprog.errors import UsageError
from tprog.writer import write_checkpoint

from tests.tprog.files import assert_same_bits, random_arrays, small_config

CONFIG = small_config()
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}

SAVER = """
import sys
from pathlib import Path
from tests.tprog.files import random_arrays, small_config
from tprog import commit
from tprog.writer import write_checkpoint
if sys.argv[3] == "two renames":
    commit._exchange = lambda one, other: False
config = small_config()
seed = int(sys.argv[2])
print("ready", flush=True)
while True:
    write_checkpoint(Path(sys.argv[1]), config, random_arrays(config, seed), overwrite=True, shard_size=1000)
    print(seed, flush=True)
    seed += 1
"""

WRITER = """
import sys, time
from pathlib import Path
from tests.tprog.files import random_arrays, small_config
from tprog.errors import UsageError
from tprog.writer import write_checkpoint
config = small_config()
def slowly():
    for pair in random_arrays(config, int(sys.argv[2])).items():
        time.sleep(0.05)
        yield pair
print("ready", flush=True)
sys.stdin.readline()
try:
    write_checkpoint(Path(sys.argv[1]), config, slowly())
    print("written")
except UsageError as error:
    print(error)
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def start(code: str, *arguments: object) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def seed_of(path: Path, seeds: range | set[int]) -> int | None:
    """Which save a checkpoint holds, whole; None where it is a mix."""
    loaded = tprog.numpy.load(path)
    for seed in seeds:
        if all(loaded[name].tobytes() == array.tobytes() for name, array in random_arrays(CONFIG, seed).items()):
            return seed
    return None


@pytest.mark.parametrize("way", ["exchange", "two renames"])
@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_save_keeps_a_whole_checkpoint(tmp_path, kills, way):
    """SIGKILL at random moments of a process that overwrites in a loop: what is there is one save, unmixed."""
    path = tmp_path / "a.tprog"
    write_checkpoint(path, CONFIG, random_arrays(CONFIG, 0))
    current, chooser = 0, random.Random(7)
    for kill in range(kills):
        first = 1 + 1000 * kill
        saver = start(SAVER, path, first, way)
        time.sleep(chooser.uniform(0, 0.15))
        saver.send_signal(signal.SIGKILL)
        done = [int(line) for line in saver.communicate()[0].split()]
        if way == "two renames" and not path.exists():
            with pytest.raises(UsageError, match="something there already"):
                write_checkpoint(path, CONFIG, random_arrays(CONFIG))
        # The last that was reported, or the one that was just being put in place.
        allowed = {done[-1], done[-1] + 1} if done else {current, first}
        found = seed_of(path, allowed)
        assert found is not None, f"none of saves {allowed} is there whole"
        current = found
    write_checkpoint(path, CONFIG, random_arrays(CONFIG, 5), overwrite=True)
    assert names(tmp_path) == ["a.tprog"]
    assert seed_of(path, {5}) == 5


def test_a_mix_of_two_saves_is_told_from_a_whole_one(tmp_path):
    """The comparison that the kills are judged by can fail."""
    mixed = random_arrays(CONFIG, 0) | {"model.norm.weight": random_arrays(CONFIG, 1)["model.norm.weight"]}
    write_checkpoint(tmp_path / "a.tprog", CONFIG, mixed)
    assert seed_of(tmp_path / "a.tprog", {0, 1}) is None


def test_of_two_writers_one_wins_and_the_other_is_told(tmp_path):
    path = tmp_path / "a.tprog"
    writers = [start(WRITER, path, seed) for seed in (1, 2)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [writer.communicate()[0].strip() for writer in writers]
    winner = said.index("written")
    assert "another process that is writing it" in said[1 - winner]
    assert seed_of(path, {1, 2}) == winner + 1
    assert names(tmp_path) == ["a.tprog"]


@pytest.mark.parametrize("after", [0, 100, 2000, 5000])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_fills_up_leaves_the_old_checkpoint_and_no_litter(tmp_path, monkeypatch, after, overwrite):
    path = tmp_path / "a.tprog"
    if overwrite:
        write_checkpoint(path, CONFIG, random_arrays(CONFIG, 1))
    written, real = 0, os.write

    def write(descriptor, data):
        nonlocal written
        written += len(data)
        if written > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(tprog.hashing.os, "write", write)
        with pytest.raises(UsageError, match="a full disk"):
            write_checkpoint(path, CONFIG, random_arrays(CONFIG, 2), overwrite=True)
    assert names(tmp_path) == (["a.tprog"] if overwrite else [])
    if overwrite:
        assert_same_bits(tprog.numpy.load(path), random_arrays(CONFIG, 1))


@contextlib.contextmanager
def small_disk(directory: Path, options: str):
    """A file system of its own, where this may be made."""
    directory.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], capture_output=True)
    if done.returncode:
        pytest.skip("mounting takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def test_a_really_full_disk(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    with small_disk(disk, "size=64k"):
        config = small_config(vocab_size=2000)
        with pytest.raises(UsageError, match="bytes free on the disk"):
            write_checkpoint(disk / "a.tprog", config, random_arrays(config))
        monkeypatch.setattr(commit, "require_space", lambda path, needed: None)
        with pytest.raises(UsageError, match="a full disk"):
            write_checkpoint(disk / "a.tprog", config, random_arrays(config))
        assert names(disk) == []
        write_checkpoint(disk / "a.tprog", CONFIG, random_arrays(CONFIG))
        assert names(disk) == ["a.tprog"]


def test_a_read_only_disk(tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "size=32m"):
        path = write_checkpoint(disk / "a.tprog", CONFIG, random_arrays(CONFIG))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for destination in (path, disk / "b.tprog", disk / "new" / "b.tprog"):
            with pytest.raises(UsageError, match="a place that can be written"):
                write_checkpoint(destination, CONFIG, random_arrays(CONFIG), overwrite=True)
        assert names(disk) == ["a.tprog"]
        assert_same_bits(tprog.numpy.load(path), random_arrays(CONFIG))


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(UsageError, match="a place that can be written"):
        write_checkpoint(tmp_path / "closed" / "a.tprog", CONFIG, random_arrays(CONFIG))
