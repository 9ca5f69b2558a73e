"""Checkpoints in a bucket, or wherever else fsspec reaches: gs://, s3://, az://, memory://.

Nothing can be renamed at once there. So progressive.json, without which a directory is no `.tprog`, comes last when a
checkpoint is written, and goes first when it is replaced: a reader finds a whole one, or none.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tprog.commit import new_directory, refuse_taken
from tprog.disk import file_lengths
from tprog.errors import FormatError, TritterError, UsageError
from tprog.hub_files import part_of
from tprog.layout import PROGRESSIVE
from tprog.paths import real_path, safe_file
from tprog.reader import is_checkpoint
from tprog.verify import verify


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What `upload` or `download` did: where the checkpoint is now, and its files."""

    path: str
    files: tuple[str, ...]


def upload(source: str | Path, url: str, *, overwrite: bool = False) -> Moved:
    """Put a `.tprog` into a bucket; it is verified first.

    Nothing but a checkpoint is ever replaced there; what an interrupted upload left of this one is gone over.

    Args:
        source: the checkpoint's directory.
        url: the directory to make there, such as `gs://bucket/models/a.tprog`.
        overwrite: whether a checkpoint that is there may be replaced.

    Raises:
        FormatError: the source is not whole.
        UsageError: it is no `.tprog`, the destination is taken, is a whole bucket or holds something else, or the
            bucket cannot be reached or written.
    """
    directory = real_path(source)
    if not (directory / PROGRESSIVE).is_file():
        raise UsageError(
            directory, expected=f"a .tprog, which has a {PROGRESSIVE}", got="none",
            remedy="Make one with `tritter import`.",
        )  # fmt: skip
    _require_whole(directory, directory, "Correct these first, or save the checkpoint again:")
    lengths = file_lengths(directory)
    names = [name for name in lengths if name != PROGRESSIVE]
    with _told(url):
        files, root = _open(url)
        if "/" not in root.strip("/"):
            raise UsageError(
                url, expected="a directory in a bucket", got="the bucket itself",
                remedy=f"Name one, such as {url.rstrip('/')}/{directory.name}.",
            )  # fmt: skip
        there = _listed(files, root)
        _refuse_others(url, there, lengths, overwrite=overwrite)
        # Once progressive.json is gone, nothing but the names on their way tells what is there from someone else's.
        for name in sorted(there.keys() & {PROGRESSIVE}) + sorted(there.keys() - lengths.keys()):
            files.rm_file(f"{root}/{name}")
        for name in [*names, PROGRESSIVE]:
            files.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            files.put_file(str(directory / name), f"{root}/{name}")
    return Moved(path=url, files=(*names, PROGRESSIVE))


def download(url: str, destination: str | Path | None = None, *, overwrite: bool = False) -> Moved:
    """Fetch a `.tprog` from a bucket; it appears complete and verified, or not at all.

    Args:
        url: its directory there.
        destination: the directory to make; its name, here, when None.
        overwrite: whether an existing checkpoint may be replaced.

    Raises:
        FormatError: what is there is not whole.
        UsageError: there is no `.tprog`, it cannot be reached, or the destination is taken or cannot be written.
    """
    path = real_path(url.rstrip("/").rpartition("/")[2] if destination is None else destination)
    refuse_taken(path, overwrite=overwrite, is_ours=is_checkpoint)
    with _told(url):
        files, root = _open(url)
        listed = _listed(files, root)
    if PROGRESSIVE not in listed:
        raise UsageError(
            url, expected=f"a .tprog, which has a {PROGRESSIVE}", got="another directory" if listed else "nothing",
            remedy="Check the URL; where an upload was interrupted, run it again.",
        )  # fmt: skip
    with new_directory(path, overwrite=overwrite, needed=sum(listed.values()), is_ours=is_checkpoint) as temporary:
        for name in sorted(listed):
            target = safe_file(temporary, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with _told(url):
                files.get_file(f"{root}/{name}", str(target))
        _require_whole(temporary, url, "Upload the checkpoint again, from where it is whole:")
    return Moved(path=str(path), files=tuple(sorted(listed)))


def require_writable(url: str, name: str = ".writable") -> None:
    """Make sure that files in a directory on a bucket can be written and removed: a small one is.

    Args:
        url: the directory, such as `gs://bucket/runs/a`; it need not exist.
        name: what the file is called.

    Raises:
        UsageError: there is no such bucket, or it cannot be reached or written.
    """
    with _told(url):
        files, root = _open(url)
        probe = f"{root}/{name}"
        files.info(root.partition("/")[0])
        files.pipe_file(probe, b"May be removed.")
        files.rm_file(probe)


def _open(url: str) -> tuple[Any, str]:
    scheme, _, place = url.partition("://")
    if not place.strip("/"):
        raise UsageError(
            url, expected="a bucket and a directory in it", got="neither",
            remedy=f"Name both: {scheme}://bucket/path.",
        )  # fmt: skip
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(
            url, expected="the extra bucket", got="no fsspec installed",
            remedy="Install it with `pip install 'tritter-jax[bucket]'`.",
        ) from None  # fmt: skip
    files, root = url_to_fs(url)
    return files, root.rstrip("/")


def _refuse_others(url: str, there: dict[str, int], lengths: dict[str, int], *, overwrite: bool) -> None:
    """Refuse a place with anything but a checkpoint, and one with a checkpoint that may not be replaced."""
    whole = PROGRESSIVE in there
    others = [name for name in sorted(there.keys() - lengths.keys()) if not whole or part_of(name) is None]
    if others:
        raise UsageError(
            url, expected="a free place, or a .tprog", got=", ".join(others[:3]) + (", ..." if others[3:] else ""),
            remedy="Choose another; where an upload of another checkpoint broke off, remove what it left.",
        )  # fmt: skip
    if not overwrite and (whole or not there.items() <= lengths.items()):
        raise UsageError(
            url, expected="a place that is free", got="a checkpoint there already" if whole else "a part of another",
            remedy="Choose another, or pass --overwrite (overwrite=True).",
        )  # fmt: skip


def _listed(files: Any, root: str) -> dict[str, int]:
    """Length of every file under a directory, by its name in it."""
    files.invalidate_cache()
    found = files.find(root, detail=True)
    # A name that ends so is no file: consoles make one to show an empty directory.
    return {
        name[len(root) :].lstrip("/"): int(entry["size"]) for name, entry in found.items() if not name.endswith("/")
    }


def _require_whole(directory: Path, where: object, remedy: str) -> None:
    report = verify(directory, finite=False)
    if not report.ok:
        raise FormatError(
            where, expected="every file as it is on record", got=f"{len(report.findings)} that are not",
            remedy=remedy, findings=[str(finding) for finding in report.findings],
        )  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which gcsfs prints nothing of the errors that are told by others."""
    logger = logging.getLogger("gcsfs")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """A context in which what a bucket refuses is an error that says so: each library below has errors of its own."""
    try:
        with quiet():
            yield
    except TritterError:
        raise
    except ImportError as error:
        raise UsageError(
            url, expected="what opens such a URL", got=str(error).partition("\n")[0][:200],
            remedy="Install it; for gs:// it is in `pip install 'tritter-jax[bucket]'`.",
        ) from None  # fmt: skip
    except Exception as error:
        raise UsageError(
            url, expected="a bucket that can be reached, and may be read or written",
            got=f"{type(error).__name__}: {error}".partition("\n")[0][:300],
            remedy="Check the URL, and that you are logged in (for gs://, `gcloud auth application-default login`).",
        ) from None  # fmt: skip
