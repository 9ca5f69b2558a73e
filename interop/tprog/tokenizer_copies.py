"""The copies of tokenizer/ at the top of a `.tprog`, where transformers and what is built on it look for a tokenizer.

The folder is the one that is read here and that is edited; what lies at the top has its bytes, and its checksums.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from tprog.bounds import MAX_TOKENIZER_BYTES
from tprog.commit import only_writer
from tprog.disk import sync, sync_tree
from tprog.errors import FormatError, UsageError
from tprog.hashing import hash_file
from tprog.jsonio import check_large_json
from tprog.layout import CHAT_TEMPLATES, PROGRESSIVE, SPECIAL_TOKENS, TOKENIZER, is_tokenizer_file
from tprog.paths import real_path, safe_file
from tprog.schema import FileRecord, Progressive, read_progressive, write_progressive
from tprog.tokenizer import tokenizer_files

REFRESH = "tritter tokenizer refresh"
"""The command that makes the copies equal again."""


def copies_due(directory: Path) -> dict[str, Path]:
    """The files of tokenizer/ that the top has too, by their names there; none where there is no such folder.

    Raises:
        FormatError: as for `tokenizer_files`.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp()); (root / "tokenizer").mkdir()
        >>> for name in ("tokenizer.json", "special_tokens.json"):
        ...     _ = (root / "tokenizer" / name).write_text("{}")
        >>> list(copies_due(root)), list(missing_copies(root))
        (['tokenizer.json'], ['tokenizer.json'])
    """
    found = tokenizer_files(directory) if (directory / TOKENIZER).is_dir() else {}
    return {name: path for name, path in found.items() if name != SPECIAL_TOKENS}


def missing_copies(directory: Path) -> dict[str, Path]:
    """Those of `copies_due` that the top lacks: all of them in a directory that was written before there were copies.

    Raises:
        FormatError: as for `tokenizer_files`.
    """
    return {name: path for name, path in copies_due(directory).items() if not (directory / name).is_file()}


def with_copies(progressive: Progressive, directory: Path) -> Progressive:
    """Metadata whose manifest lists the copies too, those that the top still lacks among them.

    Each has what is on record of the file in tokenizer/; one that differs from that file is not added.

    Raises:
        FormatError: as for `tokenizer_files`.
    """
    if progressive.manifest is None:
        return progressive
    files = dict(progressive.manifest.files)
    added = {
        name: files[f"{TOKENIZER}/{name}"]
        for name, path in copies_due(directory).items()
        if name not in files
        and f"{TOKENIZER}/{name}" in files
        and (not (directory / name).exists() or _equal(path, directory / name))
    }
    return _recording(progressive, files | added) if added else progressive


def add_copies(directory: Path) -> None:
    """Give the copies that are missing to a `.tprog` that is being made, and put them on record.

    Raises:
        FormatError: as for `tokenizer_files`, or progressive.json is broken.
    """
    copies = missing_copies(directory)
    if not copies or not (directory / PROGRESSIVE).is_file():
        return
    copy_to(directory, copies)
    write_progressive(directory / PROGRESSIVE, with_copies(read_progressive(directory / PROGRESSIVE), directory))


def copy_findings(directory: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with the copies, as pairs of a name at the top and a problem; none are no problem.

    Raises:
        FormatError: as for `tokenizer_files`.
    """
    due = copies_due(directory)
    for name in _at_top(directory) if due else ():
        if name not in due:
            move = f"move it there or remove it, then run `{REFRESH}` on the directory"
            yield name, f"is not in {TOKENIZER}/, which is the folder that counts: {move}"
        elif not _equal(due[name], safe_file(directory, name)):
            edit = f"edit that one, then run `{REFRESH}` on the directory"
            yield name, f"differs from {TOKENIZER}/{name}, which is the file that counts: {edit}"


def belongs_to_tokenizer(name: str) -> bool:
    """Whether a file of a `.tprog` is a tokenizer's, in its folder or at the top."""
    return is_tokenizer_file(name.removeprefix(f"{TOKENIZER}/"))


def refresh_tokenizer(path: str | Path) -> tuple[str, ...]:
    """Make the copies at the top equal to tokenizer/, as somebody has edited it, and put its checksums on record.

    Args:
        path: a `.tprog`, or any model directory with a folder tokenizer/.

    Returns:
        Names of the files that were written or removed at the top, or whose checksum on record was another.

    Raises:
        UsageError: there is no such folder, somebody else is writing the checkpoint, or it cannot be written.
        FormatError: a file in tokenizer/ is no JSON though its name says so, or progressive.json is broken.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp(), "a"); (root / "tokenizer").mkdir(parents=True)
        >>> _ = (root / "tokenizer" / "tokenizer.json").write_text("{}")
        >>> refresh_tokenizer(root), list(missing_copies(root))
        (('tokenizer.json',), [])
    """
    directory = real_path(path)
    if not copies_due(directory):
        raise UsageError(
            directory, expected=f"a checkpoint with a tokenizer in its folder {TOKENIZER}", got="none",
            remedy="Give a .tprog that has one: `tritter import` and `tritter train` write it.",
        )  # fmt: skip
    with only_writer(directory) as temporary:
        for name in (name for name in copies_due(directory) if name.endswith(".json")):
            check_large_json(safe_file(directory, f"{TOKENIZER}/{name}"), MAX_TOKENIZER_BYTES)
        file = directory / PROGRESSIVE
        known = read_progressive(file) if file.is_file() else None
        before = dict(known.manifest.files) if known is not None and known.manifest is not None else {}
        due = copies_due(directory)
        stale = {name: path for name, path in due.items() if not _equal(path, directory / name)}
        # What is on record was a copy; any other file at the top is somebody's own, and `verify` speaks of it.
        gone = [name for name in _at_top(directory) if name not in due and name in before]
        put_copies(directory, stale, temporary)
        after = {name: record for name, record in before.items() if not belongs_to_tokenizer(name)} | _records(
            directory
        )
        if known is not None and before and after != before:
            write_progressive(temporary / PROGRESSIVE, _recording(known, after))
            sync_tree(temporary)
            (temporary / PROGRESSIVE).replace(file)
        for name in gone:
            (directory / name).unlink()
        sync(directory)
    names = before.keys() | after.keys() if before else ()
    other = {name for name in names if before.get(name) != after.get(name)}
    return tuple(sorted({*stale, *gone, *other}))


def put_copies(directory: Path, copies: dict[str, Path], temporary: Path) -> None:
    """Put copies at the top of a directory that others may be reading: each appears whole.

    Args:
        directory: the checkpoint.
        copies: some of `copies_due`.
        temporary: a place beside the directory, which is made where it is missing.
    """
    temporary.mkdir(exist_ok=True)
    copy_to(temporary, copies)
    sync_tree(temporary)
    for name in copies:
        (directory / name).parent.mkdir(exist_ok=True)
        (temporary / name).replace(directory / name)
    shutil.rmtree(temporary / CHAT_TEMPLATES, ignore_errors=True)


def copy_to(directory: Path, copies: Mapping[str, Path]) -> None:
    """Write copies into a directory that nobody reads yet, byte for byte."""
    for name, path in copies.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(path.read_bytes())


def _recording(progressive: Progressive, files: dict[str, FileRecord]) -> Progressive:
    assert progressive.manifest is not None
    manifest = progressive.manifest.model_copy(update={"files": dict(sorted(files.items()))})
    return progressive.model_copy(update={"manifest": manifest})


def _records(directory: Path) -> dict[str, FileRecord]:
    """The tokenizer's files as they are, in its folder and at the top."""
    found: dict[str, FileRecord] = {}
    due = copies_due(directory)
    for name, path in tokenizer_files(directory).items():
        size, digest = hash_file(path)
        record = FileRecord(bytes=size, sha256=digest)
        found |= {f"{TOKENIZER}/{name}": record} | ({name: record} if name in due else {})
    return found


def _at_top(directory: Path) -> list[str]:
    """Names of the tokenizer's files at the top."""
    found = (*directory.iterdir(), *directory.glob(f"{CHAT_TEMPLATES}/*"))
    names = (path.relative_to(directory).as_posix() for path in found if path.is_file())
    return sorted(name for name in names if is_tokenizer_file(name))


def _equal(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size and hash_file(one) == hash_file(other)
    except (OSError, FormatError):
        return False
