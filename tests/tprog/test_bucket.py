"""A .tprog in a bucket: whole or not there, checked on both ways, and what goes wrong there told plainly."""

import sys
from pathlib import Path

import fsspec
import pytest
import tprog.numpy
from fsspec.implementations.memory import MemoryFileSystem
from tprog import FormatError, UsageError
from tprog.bucket import download, upload
from tprog.commit import new_directory
from tprog.verify import verify
from tprog.writer import write_checkpoint

from tests.tprog.files import assert_same_bits, random_arrays, small_config

CONFIG = small_config()
URL = "memory://bucket/models/a.tprog"


@pytest.fixture
def bucket():
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/bucket", recursive=True) if files.exists("/bucket") else None


@pytest.fixture
def source(tmp_path):
    return write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG), shard_size=2000)


def names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def test_there_and_back_nothing_is_lost(bucket, source, tmp_path):
    assert upload(source, URL).path == URL
    done = download(URL, tmp_path / "b.tprog")
    assert set(done.files) == names(source) == names(tmp_path / "b.tprog")
    assert verify(tmp_path / "b.tprog").ok
    assert_same_bits(tprog.numpy.load(tmp_path / "b.tprog"), random_arrays(CONFIG))


def test_an_upload_that_breaks_off_leaves_no_checkpoint_and_the_next_one_mends_it(
    bucket, source, tmp_path, monkeypatch
):
    put, sent = MemoryFileSystem.put_file, []

    def break_off(self, here, there, **options):
        if len(sent) == 2:
            raise ConnectionResetError("lost")
        sent.append(there)
        put(self, here, there, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", break_off)
    with pytest.raises(UsageError, match="ConnectionResetError: lost"):
        upload(source, URL)
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    assert len(bucket.find("/bucket")) == 2
    with pytest.raises(UsageError, match="got another directory"):
        download(URL, tmp_path / "b.tprog")
    assert not (tmp_path / "b.tprog").exists()
    upload(source, URL)
    download(URL, tmp_path / "b.tprog")


def test_what_is_there_is_replaced_whole_and_only_if_asked(bucket, source, tmp_path):
    upload(source, URL)
    other = write_checkpoint(tmp_path / "other.tprog", CONFIG, random_arrays(CONFIG, seed=1))  # one file, not several
    with pytest.raises(UsageError, match="--overwrite"):
        upload(other, URL)
    upload(other, URL, overwrite=True)
    assert {name.removeprefix("/bucket/models/a.tprog/") for name in bucket.find("/bucket")} == names(other)
    assert_same_bits(tprog.numpy.load(download(URL, tmp_path / "b.tprog").path), random_arrays(CONFIG, seed=1))


def test_what_was_damaged_there_does_not_arrive(bucket, source, tmp_path):
    upload(source, URL)
    name = next(name for name in bucket.find("/bucket") if name.endswith(".safetensors"))
    data = bytearray(bucket.cat_file(name))
    data[-1] ^= 1
    bucket.pipe_file(name, bytes(data))
    with pytest.raises(FormatError, match=r"a\.tprog: expected every file as it is on record"):
        download(URL, tmp_path / "b.tprog")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tprog"]


def test_names_that_lead_out_are_refused(bucket, source, tmp_path, monkeypatch):
    upload(source, URL)
    find = MemoryFileSystem.find
    monkeypatch.setattr(
        MemoryFileSystem, "find",
        lambda self, root, **options: find(self, root, **options) | {f"{root}/../x": {"size": 1}},
    )  # fmt: skip
    with pytest.raises(FormatError, match="inside the directory"):
        download(URL, tmp_path / "b.tprog")


def test_a_damaged_checkpoint_is_not_sent(bucket, source):
    (source / "config.json").write_text("{}")
    with pytest.raises(FormatError):
        upload(source, URL)
    assert not bucket.exists("/bucket")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nothing://bucket/a.tprog", "Protocol not known"),
        ("memory://bucket/none.tprog", "got nothing"),
        ("s3://bucket/a.tprog", "s3fs"),
    ],
)
def test_what_cannot_be_opened_is_told(bucket, tmp_path, url, said):
    with pytest.raises(UsageError) as raised:
        download(url, tmp_path / "b.tprog")
    assert said in str(raised.value)


def test_without_fsspec_the_extra_is_named(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"pip install 'tritter-jax\[bucket\]'"):
        upload(source, URL)


def test_a_url_is_no_directory_to_make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="tritter push"), new_directory("gs://bucket/a.tprog"):
        pass
    assert list(tmp_path.iterdir()) == []
