"""Writing a token file: documents encoded in bounded memory, counted, hashed, and divided."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tprog import UsageError
from tprog.jsonio import write_json

from tritter_jax.data.corpus import Corpus
from tritter_jax.data.split import choose_held_out
from tritter_jax.data.text import PIECE, split_head
from tritter_jax.data.tokenizer import Tokenizer
from tritter_jax.data.tokens import DESCRIPTION, DOCUMENTS, RECORD, TOKENS, VERSION, Progress, file_hash

_BATCH = 16 * PIECE


def write_tokens(directory: Path, corpus: Corpus, tokenizer: Tokenizer, held_out: float, progress: Progress) -> None:
    """Write the three files of a token file into an empty directory.

    Raises:
        UsageError: the corpus holds no text, or cannot be divided.
        FormatError: a document is not text.
    """
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
