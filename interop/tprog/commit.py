"""A directory that appears whole or not at all.

It is written beside its place under a hidden name, every file is brought to the disk, and a rename puts it in place;
an old directory is exchanged with it in one step. A lock file beside it keeps a second writer out, and since only the
holder of the lock writes there, whatever hidden directory the holder finds was left by a writer that died.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tprog.disk import refuse_url, require_space, sync, sync_tree, told_plainly, tree_bytes
from tprog.errors import UsageError
from tprog.paths import real_path, user_path

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def new_directory(
    path: str | Path,
    *,
    overwrite: bool = False,
    needed: int = 0,
    is_ours: Callable[[Path], bool] = lambda _: True,
    adopts: Callable[[Path], bool] = lambda _: False,
) -> Iterator[Path]:
    """A context that gives a temporary directory and, when its block succeeds, puts it at `path`.

    Args:
        path: the directory to make.
        overwrite: whether an old one may be replaced; it stays until the new one is complete.
        needed: bytes that will be written.
        is_ours: whether an old directory is of the kind that may be replaced.
        adopts: whether to go on with a temporary directory that a dead writer left, instead of a new one.

    Raises:
        UsageError: `path` is taken, somebody else is writing it, or the disk is full or not writable.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> with new_directory(root / "a") as temporary:
        ...     _ = (temporary / "file").write_text("x")
        >>> sorted(entry.name for entry in root.iterdir())
        ['a']
    """
    refuse_url(path)
    path = real_path(path)
    made = _make_parents(path)
    committed = False
    try:
        with only_writer(path, adopts) as temporary:
            refuse_taken(path, overwrite=overwrite, is_ours=is_ours)
            require_space(path, needed - tree_bytes(temporary))
            temporary.mkdir(exist_ok=True)
            yield temporary
            sync_tree(temporary)
            # The destination may have come into being meanwhile, by the hand of someone who takes no lock.
            refuse_taken(path, overwrite=overwrite, is_ours=is_ours)
            _put_in_place(temporary, path)
            committed = True
    finally:
        if not committed:
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()


@contextlib.contextmanager
def new_file(path: str | Path, *, overwrite: bool = False, needed: int = 0) -> Iterator[Path]:
    """The same for a single file: a context that gives a temporary name and puts what is written there at `path`.

    Args:
        path: the file to make.
        overwrite: whether an old file may be replaced.
        needed: bytes that will be written.

    Raises:
        UsageError: as for `new_directory`.
    """
    path = real_path(path)
    if os.path.lexists(path) and (not overwrite or not path.is_file()):
        raise UsageError(
            path, expected="a path that does not exist", got="something there already",
            remedy="Choose another path, or pass --overwrite (overwrite=True).",
        )  # fmt: skip
    holder = path.parent / f".{path.name}.new"
    with new_directory(holder, overwrite=True, needed=needed) as temporary:
        yield temporary / path.name
    (holder / path.name).replace(path)
    holder.rmdir()


@contextlib.contextmanager
def only_writer(path: Path, adopts: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """A context that keeps other writers out of a directory, and gives a temporary one's name, removed at the end.

    Args:
        path: the directory, resolved.
        adopts: whether to give one that a dead writer left; the first that it is true of is given.

    Raises:
        UsageError: somebody else is writing it, or the disk is full or not writable.
    """
    with told_plainly(path), _lock(path):
        temporary = _recover(path, adopts) or path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _make_parents(path: Path) -> list[Path]:
    """Make the parent directories; gives those that are new, innermost first."""
    missing = [parent for parent in path.parents if not parent.exists()]
    with told_plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return missing


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    if fcntl is None:  # pragma: no cover - not on Windows
        yield
        return
    name = path.parent / f".{path.name}.lock"
    while True:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed the file between our opening and locking it.
            if name.exists() and os.path.samestat(os.fstat(descriptor), name.stat()):
                break
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                path, expected="to be its only writer", got="another process that is writing it",
                remedy="Wait for that process, or choose another path.",
            ) from None  # fmt: skip
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        name.unlink(missing_ok=True)
        os.close(descriptor)


def _recover(path: Path, adopts: Callable[[Path], bool]) -> Path | None:
    """Clear what a dead writer left: put back an old directory that it had moved away, remove what is not adopted."""
    aside = _aside(path)
    if aside.is_dir() and not os.path.lexists(path):
        aside.rename(path)
    found = [
        litter
        for litter in path.parent.iterdir()
        if litter.name.startswith(f".{path.name}.") and litter.name.endswith(".tmp")
    ]
    adopted = next((litter for litter in found if litter != aside and adopts(litter)), None)
    for litter in found:
        if litter != adopted:
            shutil.rmtree(litter, ignore_errors=True)
    return adopted


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.previous.tmp"


def refuse_taken(
    path: str | Path,
    *,
    overwrite: bool = False,
    is_ours: Callable[[Path], bool] = lambda _: True,
    source: Path | None = None,
) -> None:
    """Refuse a destination that exists, before any work is done for it.

    Args:
        path: the destination.
        overwrite: whether an old one may be replaced.
        is_ours: whether an old one is of the kind that may be replaced.
        source: where the content comes from; the destination must be neither it nor inside it.

    Raises:
        UsageError: something is there, and it is not to be overwritten or not of the kind that may be.
    """
    path = user_path(path)
    if source is not None and real_path(path).is_relative_to(real_path(source)):
        raise UsageError(
            path, expected="a destination outside the source", got="the source itself, or a place inside it",
            remedy="Choose another path.",
        )  # fmt: skip
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise UsageError(
            path, expected="a path that does not exist", got="something there already",
            remedy="Choose another path, or pass --overwrite (overwrite=True).",
        )  # fmt: skip
    if not path.is_dir() or not is_ours(path):
        raise UsageError(
            path, expected="a checkpoint to overwrite", got="something else, or other files beside one",
            remedy="Only checkpoints are overwritten; remove it yourself, or choose another path.",
        )  # fmt: skip


def _put_in_place(temporary: Path, path: Path) -> None:
    if not os.path.lexists(path) or not any(path.iterdir()):
        temporary.rename(path)
    elif not _exchange(temporary, path):
        # Killed between the two renames, the next writer finds the old directory aside and puts it back.
        path.rename(_aside(path))
        temporary.rename(path)
        sync(path.parent)
        shutil.rmtree(_aside(path), ignore_errors=True)
    sync(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step; False where the system or its file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
