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


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("url", "others"),
    [
        ("memory://bucket", {"thesis.txt": b"1", "models/precious.tprog/weights.safetensors": b"2"}),
        ("memory://bucket", {}),
        ("memory://bucket/", {}),
        ("memory://bucket/models", {"precious.tprog/progressive.json": b"{}", "precious.tprog/config.json": b"{}"}),
        ("memory://bucket/models", {"thesis.txt": b"1"}),
        ("memory://bucket/llama", {"config.json": b"{}", "model.safetensors": b"2"}),
        ("memory://bucket/project", {"training/text.jsonl": b"{}"}),
    ],
)
def test_an_upload_erased_what_else_was_there(bucket, source, url, others, overwrite):
    bucket.pipe({f"{url.removeprefix('memory:/').rstrip('/')}/{name}": data for name, data in others.items()})
    before = {name: bucket.cat_file(name) for name in bucket.find("/bucket")}
    assert len(before) == len(others)
    with pytest.raises(UsageError, match=r"a free place, or a \.tprog|the bucket itself"):
        upload(source, url, overwrite=overwrite)
    assert {name: bucket.cat_file(name) for name in bucket.find("/bucket")} == before


def test_beside_a_checkpoint_in_its_directory_nothing_is_erased_and_outside_it_neither(bucket, source, tmp_path):
    upload(source, URL)
    bucket.pipe({"/bucket/models/thesis.txt": b"1", "/bucket/models/a.tprog.old/weights.safetensors": b"2"})
    upload(source, URL, overwrite=True)
    assert bucket.cat_file("/bucket/models/thesis.txt") == b"1"
    assert bucket.cat_file("/bucket/models/a.tprog.old/weights.safetensors") == b"2"
    bucket.pipe_file("/bucket/models/a.tprog/notes/thesis.txt", b"3")
    with pytest.raises(UsageError, match=r"got notes/thesis\.txt"):
        upload(source, URL, overwrite=True)
    assert bucket.cat_file("/bucket/models/a.tprog/notes/thesis.txt") == b"3"
    bucket.rm_file("/bucket/models/a.tprog/notes/thesis.txt")
    download(URL, tmp_path / "b.tprog")


def test_a_part_of_another_checkpoint_is_not_replaced_unasked(bucket, source):
    bucket.pipe_file("/bucket/models/a.tprog/config.json", b"{}")
    with pytest.raises(UsageError, match=r"got a part of another.*--overwrite"):
        upload(source, URL)
    upload(source, URL, overwrite=True)


def test_what_is_there_is_asked_anew_and_not_remembered(bucket, source, monkeypatch):
    asked = []
    for name in ("invalidate_cache", "find", "exists"):
        method = getattr(MemoryFileSystem, name)
        monkeypatch.setattr(
            MemoryFileSystem, name,
            lambda self, *args, name=name, method=method, **kw: (asked.append(name), method(self, *args, **kw))[1],
        )  # fmt: skip
    upload(source, URL)
    assert asked[:2] == ["invalidate_cache", "find"]


def test_an_object_that_stands_for_a_directory_is_no_file(bucket, source, tmp_path, monkeypatch):
    find = MemoryFileSystem.find
    monkeypatch.setattr(
        MemoryFileSystem, "find",
        lambda self, root, **options: find(self, root, **options) | {f"{root}/": {"size": 0}},
    )  # fmt: skip
    upload(source, URL)
    download(URL, tmp_path / "b.tprog")


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
        ("gs://", "expected a bucket and a directory in it"),
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
