"""A directory appears whole or not at all, whatever happens to its writer."""

import errno
import os
from pathlib import Path

import pytest
import tprog.numpy
from tprog import commit
from tprog.commit import new_directory
from tprog.errors import UsageError
from tprog.reader import open_checkpoint
from tprog.writer import write_checkpoint

from tests.tprog.files import assert_same_bits, random_arrays, small_config

CONFIG = small_config()


def write(path: Path, text: str, **options) -> None:
    with new_directory(path, **options) as temporary:
        (temporary / "file").write_text(text)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_directory_appears_at_the_end(tmp_path):
    with new_directory(tmp_path / "a") as temporary:
        (temporary / "file").write_text("x")
        assert not (tmp_path / "a").exists()
        assert temporary.parent == tmp_path
    assert (tmp_path / "a" / "file").read_text() == "x"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_directory(tmp_path / "new" / "deeper" / "a") as temporary:
        (temporary / "file").write_text("x")
        raise error
    assert names(tmp_path) == []


def test_what_is_there_is_not_overwritten(tmp_path):
    write(tmp_path / "a", "old")
    with pytest.raises(UsageError, match="--overwrite"):
        write(tmp_path / "a", "new")
    assert (tmp_path / "a" / "file").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_an_empty_directory_may_be_filled(tmp_path):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", "new")
    assert names(tmp_path / "a") == ["file"]


@pytest.mark.parametrize("exchange", [True, False])
def test_overwriting_keeps_the_old_one_until_the_end(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(commit, "_exchange", lambda one, other: False)
    write(tmp_path / "a", "old")
    with new_directory(tmp_path / "a", overwrite=True) as temporary:
        (temporary / "other").write_text("new")
        assert (tmp_path / "a" / "file").read_text() == "old"
    assert names(tmp_path / "a") == ["other"]
    assert names(tmp_path) == ["a"]


def test_an_error_while_overwriting_keeps_the_old_one(tmp_path):
    write(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), new_directory(tmp_path / "a", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "a" / "file").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_writer_that_died_between_two_renames_is_repaired(tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "_exchange", lambda one, other: False)
    write(tmp_path / "a", "old")
    (tmp_path / "a").rename(tmp_path / ".a.previous.tmp")
    with pytest.raises(UsageError, match="--overwrite"):
        write(tmp_path / "a", "new")
    assert (tmp_path / "a" / "file").read_text() == "old"


def test_litter_of_the_dead_is_cleared_and_nothing_else(tmp_path):
    (tmp_path / ".a.01234567.tmp").mkdir()
    (tmp_path / ".a.01234567.tmp" / "half").write_text("x")
    (tmp_path / ".b.01234567.tmp").mkdir()
    (tmp_path / ".a.lock").write_text("")
    write(tmp_path / "a", "new")
    assert names(tmp_path) == [".b.01234567.tmp", "a"]


def test_the_second_of_two_writers_is_told(tmp_path):
    with new_directory(tmp_path / "a") as temporary:
        (temporary / "file").write_text("first")
        with pytest.raises(UsageError, match="another process that is writing it"):
            write(tmp_path / "a", "second")
    assert (tmp_path / "a" / "file").read_text() == "first"


def test_what_came_into_being_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(UsageError, match="something there already"), new_directory(tmp_path / "a") as temporary:
        (temporary / "file").write_text("ours")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").write_text("theirs")
    assert (tmp_path / "a" / "file").read_text() == "theirs"
    assert names(tmp_path) == ["a"]


def test_space_is_checked_first(tmp_path):
    with pytest.raises(UsageError, match="bytes free"):
        write(tmp_path / "a", "new", needed=1 << 60)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "a full disk"), (errno.EDQUOT, "a full disk"), (errno.EROFS, "can be written")],
)
def test_a_failing_disk_is_told(tmp_path, code, message):
    with pytest.raises(UsageError, match=message), new_directory(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


def test_a_file_in_the_way_of_the_parent_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError):
        write(tmp_path / "file" / "a", "new")
    with pytest.raises(UsageError):
        write(tmp_path / "file", "new", overwrite=True)
    assert (tmp_path / "file").read_text() == "x"


def test_only_checkpoints_are_overwritten(tmp_path):
    (tmp_path / "a" / ".git").mkdir(parents=True)
    (tmp_path / "a" / "config.json").write_text("{}")
    (tmp_path / "a" / "model.safetensors").write_text("")
    with pytest.raises(UsageError, match="a checkpoint to overwrite"):
        write_checkpoint(tmp_path / "a", CONFIG, random_arrays(CONFIG), overwrite=True)
    assert names(tmp_path / "a") == [".git", "config.json", "model.safetensors"]


def test_a_checkpoint_is_overwritten_with_itself(tmp_path):
    """The source is read from its mapping while its directory is being replaced."""
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    write_checkpoint(path, CONFIG, open_checkpoint(path), overwrite=True, shard_size=1000)
    assert_same_bits(tprog.numpy.load(path), random_arrays(CONFIG))
    assert names(tmp_path) == ["a.tprog"]


def test_modes_follow_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}
