"""Writing a token file: documents encoded in bounded memory, counted, hashed, and divided."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tprog import UsageError
from tprog.jsonio import write_json

from tritter_jax.data.corpus import Corpus
from tritter_jax.data.split import choose_held_out
from tritter_jax.data.text import PIECE, split_head
from tritter_jax.data.tokenizer import DEFAULT, Tokenizer
from tritter_jax.data.tokens import DESCRIPTION, DOCUMENTS, RECORD, TOKENS, VERSION, Progress, file_hash

_BATCH = 16 * PIECE


def write_tokens(
    directory: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    held_out: float,
    progress: Progress,
    special_tokens: str = DEFAULT,
) -> None:
    """Write the three files of a token file into an empty directory; arguments as for `tokenize`.

    Raises:
        UsageError: the corpus holds no text, or cannot be divided.
        FormatError: a document is not text.
    """
    writer = _Writer(tokenizer, corpus.size, progress, *tokenizer.around(special_tokens))
    with (directory / TOKENS).open("wb") as file:
        for document in corpus:
            parts: Iterable[Iterable[str]] = [document.read()]
            if len(corpus) == 1 and held_out:
                parts = split_head(document.read(), round((1 - held_out) * document.size))
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
            "special_tokens": special_tokens,
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
    before: list[int]
    after: list[int]
    max_id: int = 0
    hashes: list[int] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _bytes: list[int] = field(default_factory=list)
    _waiting: list[str] = field(default_factory=list)
    _held: int = 0
    _done: int = 0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("uint16" if self.tokenizer.vocab_size <= 1 << 16 else "uint32")

    def add(self, pieces: Iterable[str], file: BinaryIO) -> None:
        """Take one document; a document without a character leaves no trace."""
        digest, size = hashlib.sha256(), 0

        def seen() -> Iterator[str]:
            nonlocal size
            for piece in pieces:
                data = piece.encode("utf-8")
                digest.update(data)
                size += len(data)
                yield piece

        source = seen()
        first = list(islice(source, 2))
        if len(first) == 2:
            self.flush(file)
            self._tokens.append(0)
            self._write(self.before, file)
            for ids in self.tokenizer.encode_long(chain(first, source)):
                self._write(ids, file)
                self.progress(self._done + size, self.total)
            self._write(self.after, file)
            self._done += size
        elif first:
            self._waiting += first
            self._held += size
        if size:
            self.hashes.append(int.from_bytes(digest.digest()[:8], "little"))
            self._bytes.append(size)
        if self._held >= _BATCH:
            self.flush(file)

    def flush(self, file: BinaryIO) -> None:
        """Encode and write the short documents that are waiting."""
        for ids in self.tokenizer.encode_batch(self._waiting):
            self._tokens.append(0)
            for part in (self.before, ids, self.after):
                self._write(part, file)
        self._done += self._held
        self._held = 0
        self._waiting.clear()
        self.progress(self._done, self.total)

    def _write(self, ids: Sequence[int] | np.ndarray, file: BinaryIO) -> None:
        ids = np.asarray(ids, "<" + self.dtype.str[1:])
        self.max_id = max(self.max_id, int(ids.max(initial=0)))
        self._tokens[-1] += len(ids)
        file.write(ids.tobytes())

    def records(self) -> np.ndarray:
        """One record a document, nothing held out yet."""
        rows = np.zeros(len(self.hashes), RECORD)
        rows["tokens"], rows["bytes"] = self._tokens, self._bytes
        rows["start"] = np.cumsum(rows["tokens"]) - rows["tokens"]
        return rows
