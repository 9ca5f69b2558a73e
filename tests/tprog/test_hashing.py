"""What is written block by block, past the page cache or not, is what was given, and its hash that of the file."""

import errno
import fcntl
import hashlib
import os

import numpy as np
import pytest
from tprog import hashing
from tprog.hashing import HashedFile

LENGTHS = (0, 1, hashing.BLOCK - 1, hashing.BLOCK, hashing.BLOCK + 1, 10 * hashing.BLOCK + 4097)
DIRECT = getattr(os, "O_DIRECT", 0)


def some_bytes(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, length, np.uint8)


def write(path, data: np.ndarray, step: int) -> str:
    """Write through memory that changes as soon as it was given."""
    file = HashedFile(path)
    for start in range(0, len(data), step):
        part = data[start : start + step].copy()
        file.write(part.data)
        part[:] = 0
    file.close()
    assert file.bytes_written == len(data)
    return file.sha256


def require_written(path, data: np.ndarray, step: int = 300_000) -> None:
    digest = write(path, data, step)
    assert np.array_equal(np.fromfile(path, np.uint8), data)
    assert digest == hashlib.sha256(data.data).hexdigest()


@pytest.mark.parametrize("step", [300_000, 5 << 20])
@pytest.mark.parametrize("length", LENGTHS)
def test_any_length_is_written_whole(tmp_path, length, step):
    require_written(tmp_path / "a", some_bytes(length), step)


def test_whole_blocks_go_past_the_page_cache_and_the_rest_does_not(tmp_path, monkeypatch):
    seen, real = [], os.write

    def look(descriptor: int, data: memoryview) -> int:
        seen.append((len(data), bool(DIRECT and fcntl.fcntl(descriptor, fcntl.F_GETFL) & DIRECT)))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", look)
    require_written(tmp_path / "a", some_bytes(2 * hashing.BLOCK + 5))
    blocks = [direct for length, direct in seen if length == hashing.BLOCK]
    if not any(blocks):
        pytest.skip("this file system cannot do that")
    assert seen[-1] == (5, False)
    assert len(blocks) == 2


def test_a_file_system_that_cannot_do_that_gets_the_same_bytes(tmp_path, monkeypatch):
    refused, real = [], os.write

    def refuse(descriptor: int, data: memoryview) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & DIRECT:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", refuse)
    require_written(tmp_path / "a", some_bytes(5 * hashing.BLOCK + 5))
    assert len(refused) <= 1


@pytest.mark.parametrize("most", [4096, 10_000])
def test_a_block_that_is_taken_in_parts_is_written_whole(tmp_path, monkeypatch, most):
    real = os.write

    def some(descriptor: int, data: memoryview) -> int:
        return real(descriptor, data[: min(most, len(data)) // 4096 * 4096 or len(data)])

    monkeypatch.setattr(os, "write", some)
    require_written(tmp_path / "a", some_bytes(2 * hashing.BLOCK + 5))


@pytest.mark.parametrize("blocks", [0, 1, 100])
def test_a_full_disk_is_told_of(tmp_path, monkeypatch, blocks):
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = HashedFile(tmp_path / "a")
    monkeypatch.setattr(os, "write", full)
    block = memoryview(bytes(hashing.BLOCK))
    with pytest.raises(OSError, match="No space") as caught:
        for _ in range(blocks):
            file.write(block)
        file.write(memoryview(b"abc"))
        file.close()
    assert caught.value.errno == errno.ENOSPC
    file.abort()


def test_what_is_broken_off_ends_its_threads(tmp_path):
    file = HashedFile(tmp_path / "a")
    file.write(memoryview(bytes(hashing.BLOCK + 1)))
    file.abort()
    assert not any(thread.is_alive() for thread in file._threads)
    assert (tmp_path / "a").stat().st_size == hashing.BLOCK
