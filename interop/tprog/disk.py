"""What a disk may refuse, told plainly: too little room, no access, a path that is taken by a file."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tprog.errors import UsageError

_URL = re.compile(r"(?:^|/)[a-z][a-z0-9+.-]+:/")

_SPARE = 16 << 20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}


def require_space(path: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        path: what will be written; neither it nor its parents need exist.
        needed: bytes that will be written.

    Raises:
        UsageError: fewer are free.

    Example:
        >>> require_space(Path("/nowhere/x.tprog"), 1 << 60)
        Traceback (most recent call last):
        tprog.errors.UsageError: /nowhere/x.tprog: expected ... free on the disk, got ...
    """
    there = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    free = needed + _SPARE if there is None else shutil.disk_usage(there).free
    if needed + _SPARE > free:
        raise UsageError(
            path, expected=f"{needed + _SPARE:,} bytes free on the disk", got=f"{free:,}",
            remedy="Free space, or choose another disk.",
        )  # fmt: skip


@contextlib.contextmanager
def told_plainly(path: Path) -> Iterator[None]:
    """A context in which a full or closed disk is an error that says so.

    Raises:
        UsageError: in place of an `OSError` that the person at the keyboard can mend.
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            path, expected="a path for a new directory", got=str(error), remedy="Choose another path."
        ) from None
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise UsageError(
                path, expected="room on the disk", got="a full disk", remedy="Free space, or choose another disk."
            ) from None
        if error.errno in _NO_ACCESS:
            raise UsageError(
                path, expected="a place that can be written", got=str(error), remedy="Choose another path."
            ) from None
        raise


def tree_bytes(directory: Path) -> int:
    """Bytes of all files in a directory; 0 where there is none."""
    return sum(file_lengths(directory).values())


def file_lengths(directory: Path) -> dict[str, int]:
    """The length of every file below a directory, by its relative name, in order."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}


def sync_tree(directory: Path) -> None:
    """Bring a directory and everything in it to the disk."""
    for root, _, files in os.walk(directory):
        for name in files:
            sync(Path(root, name))
        sync(Path(root))


def sync(path: Path) -> None:
    """Bring a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_url(path: str | Path) -> bool:
    """Whether this is the URL of a bucket, also after it was made a path, and that was resolved.

    Example:
        >>> is_url("gs://bucket/a.tprog"), is_url(Path("gs://bucket/a.tprog").absolute())
        (True, True)
        >>> is_url("./a.tprog"), is_url("C:/a.tprog")
        (False, False)
    """
    return _URL.search(str(path)) is not None


_MOUNT_OR_MOVE = "Mount the bucket (gcsfuse), or move .tprog checkpoints with `tritter push` and `tritter pull`."


def refuse_url(path: str | Path, *, remedy: str = _MOUNT_OR_MOVE) -> None:
    """Refuse a URL where files are opened as such.

    Raises:
        UsageError: it is one.
    """
    if is_url(path):
        raise UsageError(
            path, expected="a path of this machine, or of a bucket that is mounted on it", got="a URL", remedy=remedy,
        )  # fmt: skip
