"""Several processes that write one checkpoint together: what they say to each other, and when."""

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from tprog.disk import told_plainly
from tprog.errors import TritterError, UsageError


class Gang:
    """The processes of one save; this one is a gang of its own, and needs no words.

    All members make the same calls in the same order. Member 0 owns the directory; each writes the files whose
    number, divided by `count`, leaves its `rank`. Members must see the same file system.
    """

    rank = 0
    count = 1

    def share(self, text: str) -> str:
        """The text of member 0, whatever the others give."""
        return text

    def gather(self, text: str) -> list[str]:
        """The texts of all members; none returns before all have called."""
        return [text]

    def agree(self, error: BaseException | None) -> None:
        """Go on together, or not at all.

        Raises:
            UsageError: another member has failed.
        """
        said = self.gather("" if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        failed = [f"process {rank}: {text}" for rank, text in enumerate(said) if text]
        if failed:
            raise UsageError(
                "save", expected="every process to write its part", got=failed[0], remedy="Mend that, and save again."
            )


def shared_directory(
    gang: Gang, path: Path, make: Callable[[], AbstractContextManager[Path]]
) -> AbstractContextManager[Path]:
    """What `make` gives, entered by member 0 alone; the others are told its path, and how it ended.

    Raises:
        UsageError: member 0 could not make the directory, or could not put it in place.
    """
    if gang.count == 1:
        return make()
    return _lead(gang, make) if gang.rank == 0 else _follow(gang, path)


@contextlib.contextmanager
def _lead(gang: Gang, make: Callable[[], AbstractContextManager[Path]]) -> Iterator[Path]:
    told = False
    try:
        with make() as directory:
            gang.share(json.dumps({"directory": str(directory)}))
            told = True
            yield directory
    except BaseException as error:
        if not told:
            gang.share(json.dumps({"error": _line(error)}))
        gang.share(json.dumps({"error": _line(error)}))
        raise
    gang.share("{}")


@contextlib.contextmanager
def _follow(gang: Gang, path: Path) -> Iterator[Path]:
    begun = json.loads(gang.share(""))
    ended: dict[str, str] = {}
    try:
        if "directory" in begun:
            with told_plainly(path):
                yield Path(begun["directory"])
    finally:
        ended = json.loads(gang.share(""))
    if "error" in ended:
        raise UsageError(
            "save", expected="process 0 to put the directory in place", got=ended["error"],
            remedy="Mend that, and save again.",
        )  # fmt: skip


def _line(error: BaseException) -> str:
    text = str(error) if isinstance(error, TritterError) else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0][:500]
