"""Every reader takes or refuses every broken file and directory: with an error of ours, soon, and in plain text."""

import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tprog.numpy
from tprog.diff import diff
from tprog.errors import TritterError
from tprog.huggingface import export_directory, import_directory
from tprog.index_repair import repair_index
from tprog.reader import is_checkpoint, open_checkpoint, read_description
from tprog.tensorfile import TensorFile
from tprog.tokenizer import tokenizer_files
from tprog.verify import verify
from tprog.weights import find_part

from tests.tprog.broken import directories, tensor_files, whole

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SECONDS, KILOBYTES = 5, 100_000


def _verified(path: Path) -> None:
    for finding in verify(path).findings:
        assert not UNSAFE.search(str(finding))


def _opened(path: Path) -> None:
    file = TensorFile.open(path / "weights.safetensors")
    for name in file.specs:
        file.tensor(name).sum()


READERS: dict[str, Callable[[Path], Any]] = {
    "open": open_checkpoint,
    "verify": _verified,
    "parts": lambda path: open_checkpoint(path).to_parts(),
    "description": read_description,
    "tensor file": _opened,
    "numpy": lambda path: dict(tprog.numpy.load(path)),
    "tokenizer": tokenizer_files,
    "part": lambda path: find_part(path, "ewc/fisher"),
    "is ours": is_checkpoint,
    "diff": lambda path: diff(path, path),
    "import": lambda path: import_directory(path, path.with_name("imported.tprog"), overwrite=True),
    "export": lambda path: export_directory(path, path.with_name("exported"), overwrite=True),
    "repair": repair_index,
}
ONE_IN = [pytest.param(10, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
"""By default every tenth is read, by one reader; all by all readers take minutes."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return whole(tmp_path_factory.mktemp("whole") / "a.tprog")


@pytest.fixture(autouse=True)
def _no_reader_waits():
    """A reader that waits for a pipe fails instead of holding up the tests."""
    old = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("a reader waits"))
    signal.alarm(900)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def wrong_with(name: str, reader: str, path: Path) -> str | None:
    """What is wrong with one reading."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        READERS[reader](path)
    except TritterError as error:
        if UNSAFE.search(str(error)) or len(str(error)) > 50_000:
            return f"{name}, {reader}: {str(error)[:200]!r}"
    except Exception as error:
        return f"{name}, {reader}: {type(error).__name__}: {str(error)[:200]!r}"
    seconds = time.process_time() - start
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if seconds > SECONDS or kilobytes > KILOBYTES:
        return f"{name}, {reader}: {seconds:.1f} s, {kilobytes} kB"
    return None


def _readers(one_in: int) -> list[str]:
    return list(READERS) if one_in == 1 else ["verify"]


@pytest.mark.parametrize("one_in", ONE_IN)
def test_broken_tensor_files(root, tmp_path, one_in):
    path = tmp_path / "a.tprog"
    shutil.copytree(root, path)
    wrong = []
    for name, write in list(tensor_files())[::one_in]:
        (path / "weights.safetensors").unlink(missing_ok=True)
        write(path / "weights.safetensors")
        wrong += [found for reader in _readers(one_in) if (found := wrong_with(name, reader, path))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("one_in", ONE_IN)
def test_broken_directories(root, tmp_path, one_in):
    wrong = []
    for name, make in list(directories(root))[::one_in]:
        path = tmp_path / "a.tprog"
        make(path)
        for reader in _readers(one_in):
            wrong += [found] if (found := wrong_with(name, reader, path)) else []
        shutil.rmtree(path)
    assert not wrong, "\n".join(wrong)
