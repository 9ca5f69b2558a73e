"""What a save that was killed leaves to go on with: what it was made from, and which of its files are whole."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from tprog.errors import FormatError, UsageError
from tprog.hashing import hash_file
from tprog.jsonio import read_json, write_json
from tprog.schema import FileRecord

JOURNAL = ".journal.json"
"""Name of the file beside those that it speaks of; it is gone when the save is put in place."""


class Journal:
    """The whole files of one save, noted as each is finished.

    Args:
        made_from: digests of all that decides what is written, by what they are of.
        resume: whether to go on with a save of the same that was killed.

    Example:
        >>> import tempfile
        >>> directory = Path(tempfile.mkdtemp())
        >>> Journal({"plan": "a"}).begin(directory)
        >>> Journal({"plan": "b"}, resume=True).adopts(directory)
        Traceback (most recent call last):
        tprog.errors.UsageError: ...: expected a save of the same plan to go on with, got one of another plan...
        >>> Journal({"plan": "a"}, resume=True).adopts(directory)
        True
    """

    def __init__(self, made_from: Mapping[str, str], *, resume: bool = False) -> None:
        self.made_from = dict(made_from)
        self.resume = resume
        self.save_id = uuid.uuid4().hex
        self._files: dict[str, FileRecord] = {}
        self._directory = Path()

    def adopts(self, directory: Path) -> bool:
        """Whether a directory that a writer left is to be gone on with; its files that are not whole are removed.

        Raises:
            UsageError: it was made from something else.
        """
        try:
            found = read_json(directory / JOURNAL) if self.resume else {}
            made_from, save_id = found["made_from"], found["save_id"]
            noted = {name: FileRecord(**record) for name, record in found["files"].items()}
        except (FormatError, OSError, KeyError, TypeError, ValueError):
            return False  # killed before there was anything to note, or not to be gone on with
        other = [what for what, digest in self.made_from.items() if made_from.get(what) != digest]
        if other:
            raise UsageError(
                directory,
                expected=f"a save of the same {' and '.join(other)} to go on with",
                got=f"one of another {' and another '.join(other)}",
                remedy="Leave --resume out: it is then cleared, and the work begun anew.",
            )
        self.save_id = save_id
        self._files = {name: record for name, record in noted.items() if _is_whole(directory / name, record)}
        for root, _, names in os.walk(directory):
            for path in (Path(root, name) for name in names):
                if path.relative_to(directory).as_posix() not in self._files:
                    path.unlink()
        return True

    def begin(self, directory: Path) -> None:
        """Begin to write there, or go on with what is there."""
        self._directory = directory
        self._write()

    def find(self, name: str) -> FileRecord | None:
        """The record of a file that is there whole."""
        return self._files.get(name)

    def note(self, name: str, record: FileRecord) -> None:
        """A file is whole, and on the disk."""
        self._files[name] = record
        self._write()

    def end(self) -> None:
        """All is written."""
        (self._directory / JOURNAL).unlink()

    def _write(self) -> None:
        files = {name: record.to_json() for name, record in self._files.items()}
        new = self._directory / f"{JOURNAL}.new"
        write_json(new, {"made_from": self.made_from, "save_id": self.save_id, "files": files})
        new.replace(self._directory / JOURNAL)


def _is_whole(path: Path, record: FileRecord) -> bool:
    try:
        return path.stat().st_size == record.bytes and hash_file(path)[1] == record.sha256
    except (OSError, FormatError):
        return False
