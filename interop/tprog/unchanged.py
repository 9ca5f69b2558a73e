"""Whether the files that something is made from stay as they are until it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tprog.errors import FormatError

_READ = (".safetensors", ".json")


@dataclass(frozen=True)
class Unchanged:
    """The length, time of change and inode that the files of a checkpoint had.

    Args:
        directory: the checkpoint.
        stamps: those numbers, by name in the directory.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp()); _ = (root / "a.json").write_text("{}")
        >>> before = Unchanged.of(root)
        >>> _ = (root / "a.json").write_text("{ }"); before.require()
        Traceback (most recent call last):
        tprog.errors.FormatError: ...: expected files that stay as they are while they are read, got a.json changed...
    """

    directory: Path
    stamps: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, directory: Path) -> "Unchanged":
        """The files as they are now: tensors and JSON, the directory's own and those of its parts."""
        found = sorted(path for path in directory.rglob("*") if path.suffix in _READ and path.is_file())
        return cls(directory, {path.relative_to(directory).as_posix(): _stamp(path) for path in found})

    def require(self) -> None:
        """Refuse files that are not as they were; new ones beside them do not matter.

        Raises:
            FormatError: some are not; every one is listed.
        """
        findings = []
        for name, stamp in self.stamps.items():
            try:
                now = _stamp(self.directory / name)
            except OSError:
                findings.append(f"{name} gone")
                continue
            if now != stamp:
                findings.append(f"{name} {'replaced' if now[2] != stamp[2] else 'changed'}")
        if findings:
            raise FormatError(
                self.directory,
                expected="files that stay as they are while they are read",
                got=", ".join(findings[:3]) + (f" and {len(findings) - 3} more" if len(findings) > 3 else ""),
                remedy="Nothing was written: wait until whatever writes there is done, then run it again.",
            )


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
