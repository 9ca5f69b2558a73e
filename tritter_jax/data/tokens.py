"""The token file: a corpus tokenised once, mapped into memory, its held-out documents known.

{directory}/tokens.bin       token ids, uint16 or uint32, little-endian; with BOS and EOS where they were asked for
            documents.npy    one record a document: start, tokens, bytes, held_out
            tokens.json      what it was made from, counts, and the hash of either file; written last
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, Integer
from tprog import FormatError, UsageError
from tprog.jsonio import read_json

VERSION = 2
TOKENS, DOCUMENTS, DESCRIPTION = "tokens.bin", "documents.npy", "tokens.json"
RECORD = np.dtype([("start", "<u8"), ("tokens", "<u8"), ("bytes", "<u8"), ("held_out", "?")])

_CHECKED = 1 << 30
"""Largest token file whose every byte is checked on opening; of a larger one the sizes are, until `verify`."""


@dataclass(frozen=True, eq=False)
class TokenView:
    """Some documents of a token file as one stream of tokens.

    Args:
        ids: the whole file's token ids.
        extents: start and end of each run of neighbouring documents, [runs, 2].
        documents: number of documents.
        bytes: UTF-8 bytes of their text, for bits per byte; end-of-text tokens count none.
        end_of_text: the id that ends each document.
        max_id: the largest id of the whole file.
        digest: a hash of what the file holds.

    Example:
        >>> ids = np.arange(10, dtype=np.uint16)
        >>> view = TokenView(ids, np.array([[0, 3], [8, 10]]), 2, 3, 9, 9, "")
        >>> len(view), view.read(1, 4).tolist(), view.around(3, 4).tolist()
        (5, [1, 2, 8, 9], [8, 9, 0, 1])
    """

    ids: Integer[np.ndarray, " _"]
    extents: Int64[np.ndarray, "runs 2"]
    documents: int
    bytes: int
    end_of_text: int
    max_id: int
    digest: str

    @cached_property
    def _ends(self) -> Int64[np.ndarray, " runs"]:
        return np.cumsum(self.extents[:, 1] - self.extents[:, 0])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def tokens(self) -> Integer[np.ndarray, " tokens"]:
        """All token ids, in memory."""
        return self.read(0, len(self))

    def read(self, start: int, count: int) -> Integer[np.ndarray, " _"]:
        """At most `count` token ids from a place on; fewer at the end."""
        parts: list[np.ndarray] = []
        stop = min(start + count, len(self))
        run = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            end = int(self._ends[run])
            shift = int(self.extents[run, 1]) - end
            parts.append(self.ids[start + shift : min(stop, end) + shift])
            start, run = end, run + 1
        return np.concatenate(parts) if parts else self.ids[:0]

    def around(self, start: int, count: int) -> Integer[np.ndarray, " _"]:
        """`count` token ids from a place on, going on from the beginning at the end."""
        first = self.read(start % len(self), count)
        parts = [first]
        while (missing := count - sum(map(len, parts))) > 0:
            parts.append(self.read(0, missing))
        return np.concatenate(parts)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse tokens that a model has no row for.

        Raises:
            UsageError: the largest id is not below `vocab_size`.
        """
        if self.max_id >= vocab_size:
            raise UsageError(
                "--data", expected=f"token ids below the model's vocab_size {vocab_size}",
                got=f"the id {self.max_id}",
                remedy="Tokenise with the model's own tokenizer, or use a model with a larger vocabulary.",
            )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenFile:
    """A token file that was opened and found whole.

    Args:
        path: its directory.
        description: tokens.json.
        ids: all token ids, mapped into memory, read-only.
        records: one record a document, of dtype `RECORD`.

    Example:
        >>> import tempfile
        >>> from tritter_jax.data import byte_tokenizer, open_corpus, tokenize
        >>> file = tokenize(open_corpus("builtin:prose"), byte_tokenizer(), cache=tempfile.mkdtemp())
        >>> len(file.train) + len(file.held_out) == len(file.ids)
        True
        >>> open_tokens(file.path).digest == file.digest
        True
    """

    path: Path
    description: dict
    ids: Integer[np.ndarray, " _"]
    records: np.ndarray

    @property
    def digest(self) -> str:
        """A hash of tokens, documents and split: what a place in the data is a place in."""
        sums = self.description["sha256"]
        return hashlib.sha256(f"{sums[TOKENS]} {sums[DOCUMENTS]}".encode()).hexdigest()

    @property
    def max_id(self) -> int:
        """The largest token id."""
        return self.description["max_id"]

    @cached_property
    def train(self) -> TokenView:
        """The documents to train on."""
        return self._view(~self.records["held_out"])

    @cached_property
    def held_out(self) -> TokenView:
        """The documents never trained on; empty where none were held out."""
        return self._view(self.records["held_out"])

    @cached_property
    def everything(self) -> TokenView:
        """All documents, for scoring a data set that no model was trained on."""
        return self._view(np.ones(len(self.records), bool))

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse tokens that a model has no row for; raises as `TokenView.check_vocabulary` does."""
        self.everything.check_vocabulary(vocab_size)

    def verify(self) -> None:
        """Check every byte against the hashes of tokens.json.

        Raises:
            FormatError: a file was changed.
        """
        for name in (TOKENS, DOCUMENTS):
            if file_hash(self.path / name) != self.description["sha256"][name]:
                raise damaged(self.path / name, "bytes of another hash")

    def _view(self, chosen: Bool[np.ndarray, " documents"]) -> TokenView:
        rows = self.records[chosen]
        starts = rows["start"].astype(np.int64)
        ends = starts + rows["tokens"].astype(np.int64)
        first = np.append(True, starts[1:] != ends[:-1])[: len(starts)]
        last = np.append(first[1:], True)[: len(starts)]
        return TokenView(
            ids=self.ids,
            extents=np.stack([starts[first], ends[last]], axis=1),
            documents=len(rows),
            bytes=int(rows["bytes"].sum()),
            end_of_text=self.description["end_of_text"],
            max_id=self.max_id,
            digest=self.digest,
        )


def open_tokens(directory: str | Path) -> TokenFile:
    """Open a token file, checking that it is whole.

    Raises:
        FormatError: a file is missing, cut short or changed, or of another version.
    """
    directory = Path(directory)
    description = read_json(directory / DESCRIPTION)
    if description.get("version") != VERSION:
        raise damaged(directory, f"version {description.get('version')!r}")
    try:
        count, dtype = int(description["tokens"]), np.dtype("<" + np.dtype(description["dtype"]).str[1:])
        records = np.load(directory / DOCUMENTS, allow_pickle=False)
        size = (directory / TOKENS).stat().st_size
        if size != count * dtype.itemsize or not {TOKENS, DOCUMENTS} <= set(description["sha256"]):
            raise damaged(directory, f"{size} bytes for {count} tokens")
        if records.dtype != RECORD or not _tile(records, count):
            raise damaged(directory / DOCUMENTS, "records that do not add up to the tokens")
        if not all(isinstance(description[name], int) for name in ("max_id", "end_of_text")):
            raise damaged(directory / DESCRIPTION, "ids that are no numbers")
        ids = np.memmap(directory / TOKENS, dtype=dtype, mode="r", shape=(count,))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise damaged(directory, f"{type(error).__name__}: {error}"[:200]) from None
    file = TokenFile(path=directory, description=description, ids=ids, records=records)
    if size <= _CHECKED:
        file.verify()
        if (most := int(ids.max())) > file.max_id:
            raise damaged(directory / DESCRIPTION, f"the id {most} above max_id {file.max_id}")
    return file


def _tile(records: np.ndarray, count: int) -> bool:
    """Whether the documents lie one after another and fill the file."""
    ends = np.cumsum(records["tokens"])
    return len(ends) > 0 and int(ends[-1]) == count and bool((records["start"] == ends - records["tokens"]).all())


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(where: Path, got: str) -> FormatError:
    """The error of a token file that is not whole."""
    return FormatError(where, expected="a whole token file", got=got, remedy="Remove it; it is made anew.")


Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
