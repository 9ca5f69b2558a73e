"""From a corpus to its token file: made once, kept in a cache, reused while corpus and tokenizer stay the same."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tprog import FormatError, UsageError
from tprog.commit import new_directory
from tprog.jsonio import write_json

from tritter_jax.data.corpus import Corpus
from tritter_jax.data.split import check_fraction, choose_held_out
from tritter_jax.data.text import PIECE, split_head
from tritter_jax.data.tokenizer import Tokenizer
from tritter_jax.data.tokens import (
    DESCRIPTION,
    DOCUMENTS,
    RECORD,
    TOKENS,
    VERSION,
    Progress,
    TokenFile,
    file_hash,
    open_tokens,
)

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None

HELD_OUT = 0.05
"""Share of the documents that is held out where the caller names none."""

_BATCH = 16 * PIECE


def cache_directory() -> Path:
    """Where token files are kept: `tritter/tokens` in the user's cache directory (XDG_CACHE_HOME, or ~/.cache)."""
    root = os.environ.get("XDG_CACHE_HOME")
    return Path(root if root else Path.home() / ".cache").expanduser() / "tritter" / "tokens"


def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    held_out: float = HELD_OUT,
    cache: str | Path | None = None,
    progress: Progress = lambda done, total: None,
) -> TokenFile:
    """The token file of a corpus, from the cache or made now.

    A document is held out by the hash of its text, so it stays on its side when other documents come and go, and
    copies of one text are on one side. A corpus of a single document is divided: its end is held out.

    Args:
        corpus: the documents.
        tokenizer: what turns them into ids.
        held_out: the share of the documents that is held out, 0 for none; at least one is where there are several.
        cache: the directory that token files are kept in; default `cache_directory()`. It may be removed at any time.
        progress: called with the bytes done and the bytes in all; not called where the file is there already.

    Raises:
        UsageError: the corpus is empty, cannot be divided, or the cache cannot be written.
        FormatError: a document is not text.

    Example:
        >>> import tempfile
        >>> from tritter_jax.data import byte_tokenizer, open_corpus
        >>> file = tokenize(open_corpus("builtin:prose"), byte_tokenizer(), cache=tempfile.mkdtemp())
        >>> file.train.documents + file.held_out.documents, file.ids.dtype
        (79, dtype('uint16'))
    """
    check_fraction(held_out)
    key = f"{VERSION} {corpus.fingerprint} {tokenizer.digest} {held_out}"
    label = re.sub(r"[^A-Za-z0-9_-]+", "_", corpus.label)[:40]
    root = cache_directory() if cache is None else Path(cache).expanduser()
    path = root / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    if (file := _opened(path)) is not None:
        return file
    with _turn(path):
        # Another process may have made it while this one waited for its turn.
        if (file := _opened(path)) is None:
            with new_directory(path, overwrite=True, needed=2 * corpus.size) as temporary:
                _make(temporary, corpus, tokenizer, held_out, progress)
            file = open_tokens(path)
    return file


def _opened(path: Path) -> TokenFile | None:
    """The token file at a path, None where there is none or a damaged one."""
    try:
        return open_tokens(path) if path.is_dir() else None
    except FormatError:
        return None


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait until no other process makes the same token file; the lock file is gone afterwards."""
    name = path.parent / f".{path.name}.turn"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(name)
    except OSError as error:
        raise UsageError(
            path.parent, expected="a cache directory that can be written", got=error.strerror or error,
            remedy="Choose another one (--cache, or XDG_CACHE_HOME).",
        ) from None  # fmt: skip
    try:
        yield
    finally:
        name.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(name: Path) -> int:
    while True:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is None:  # pragma: no cover - not on Windows
            return descriptor
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Its last holder removed the file, so others may have locked a new one meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), name.stat()):
                return descriptor
        os.close(descriptor)


def _make(directory: Path, corpus: Corpus, tokenizer: Tokenizer, held_out: float, progress: Progress) -> None:
    writer = _Writer(tokenizer, corpus.size, progress)
    with (directory / TOKENS).open("wb") as file:
        for document in corpus:
            parts: list[Iterable[str]] = [document.read()]
            if len(corpus) == 1 and held_out:
                parts = list(split_head(document.read(), round((1 - held_out) * document.size)))
            for part in parts:
                writer.add(part, file)
        writer.flush(file)
    rows = writer.records()
    if not len(rows):
        raise UsageError(corpus.label, expected="text", got="none in any document", remedy="Give another --data.")
    if len(corpus) == 1:
        rows["held_out"] = [False, True][: len(rows)]
    else:
        rows["held_out"] = choose_held_out(
            np.array(writer.hashes, np.uint64), rows["bytes"].astype(np.int64), held_out
        )
    np.save(directory / DOCUMENTS, rows)
    write_json(
        directory / DESCRIPTION,
        {
            "version": VERSION,
            "corpus": corpus.label,
            "corpus_fingerprint": corpus.fingerprint,
            "tokenizer_digest": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
            "end_of_text": tokenizer.end_of_text,
            "held_out": held_out,
            "dtype": writer.dtype.name,
            "documents": len(rows),
            "tokens": int(rows["tokens"].sum()),
            "bytes": int(rows["bytes"].sum()),
            "max_id": writer.max_id,
            "sha256": {name: file_hash(directory / name) for name in (TOKENS, DOCUMENTS)},
        },
    )


@dataclass
class _Writer:
    """Encodes texts a few megabytes at a time and appends their tokens to a file."""

    tokenizer: Tokenizer
    total: int
    progress: Progress
    max_id: int = 0
    hashes: list[int] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _bytes: list[int] = field(default_factory=list)
    _waiting: list[tuple[int, str | None]] = field(default_factory=list)
    _held: int = 0
    _done: int = 0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("uint16" if self.tokenizer.vocab_size <= 1 << 16 else "uint32")

    def add(self, pieces: Iterable[str], file: BinaryIO) -> None:
        """Take one document; a document without a character leaves no trace."""
        digest, size, row = hashlib.sha256(), 0, len(self.hashes)
        for piece in pieces:
            data = piece.encode("utf-8")
            digest.update(data)
            size += len(data)
            self._waiting.append((row, piece))
            self._held += len(data)
            if self._held >= _BATCH:
                self.flush(file, coming=row)
        if size:
            self._waiting.append((row, None))
            self.hashes.append(int.from_bytes(digest.digest()[:8], "little"))
            self._bytes.append(size)

    def flush(self, file: BinaryIO, coming: int | None = None) -> None:
        """Encode and write what is waiting."""
        encoded = iter(self.tokenizer.encode_batch([piece for _, piece in self._waiting if piece is not None]))
        self._tokens += [0] * (len(self.hashes) + (coming is not None) - len(self._tokens))
        for row, piece in self._waiting:
            ids = next(encoded) if piece is not None else np.array([self.tokenizer.end_of_text])
            self.max_id = max(self.max_id, int(ids.max(initial=0)))
            self._tokens[row] += len(ids)
            file.write(ids.astype("<" + self.dtype.str[1:]).tobytes())
        self._done += self._held
        self._held = 0
        self._waiting.clear()
        self.progress(self._done, self.total)

    def records(self) -> np.ndarray:
        """One record a document, nothing held out yet."""
        rows = np.zeros(len(self.hashes), RECORD)
        rows["tokens"], rows["bytes"] = self._tokens, self._bytes
        rows["start"] = np.cumsum(rows["tokens"]) - rows["tokens"]
        return rows
