"""From a corpus to its token file: made once, kept in a cache, reused while corpus and tokenizer stay the same."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tprog import FormatError, UsageError
from tprog.commit import new_directory
from tprog.paths import user_path

from tritter_jax.data.corpus import Corpus
from tritter_jax.data.split import check_fraction
from tritter_jax.data.tokenizer import DEFAULT, Tokenizer
from tritter_jax.data.tokens import VERSION, Progress, TokenFile, open_tokens
from tritter_jax.data.writing import write_tokens

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None

HELD_OUT = 0.05
"""Share of the documents that is held out where the caller names none."""


def cache_directory() -> Path:
    """Where token files are kept: `tritter/tokens` in the user's cache directory (XDG_CACHE_HOME, or ~/.cache)."""
    root = os.environ.get("XDG_CACHE_HOME")
    return user_path(root or "~/.cache") / "tritter" / "tokens"


def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    held_out: float = HELD_OUT,
    special_tokens: str = DEFAULT,
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
        special_tokens: where BOS and EOS go, a key of `tritter_jax.data.tokenizer.SPECIAL`.
        cache: the directory that token files are kept in; default `cache_directory()`. It may be removed at any time.
        progress: called with the bytes done and the bytes in all; not called where the file is there already.

    Raises:
        UsageError: there is no such place for BOS and EOS, the corpus is empty or cannot be divided, or the cache
            cannot be written.
        FormatError: a document is not text.

    Example:
        >>> import tempfile
        >>> from tritter_jax.data import byte_tokenizer, open_corpus
        >>> file = tokenize(open_corpus("builtin:prose"), byte_tokenizer(), cache=tempfile.mkdtemp())
        >>> file.train.documents + file.held_out.documents, file.ids.dtype
        (79, dtype('uint16'))
    """
    check_fraction(held_out)
    around = f"{special_tokens} {tokenizer.around(special_tokens)}"
    key = f"{VERSION} {corpus.fingerprint} {tokenizer.digest} {held_out} {around}"
    label = re.sub(r"[^A-Za-z0-9_-]+", "_", corpus.label)[:40]
    root = cache_directory() if cache is None else user_path(cache)
    path = root / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    if (file := _opened(path)) is not None:
        return file
    with _turn(path):
        # Another process may have made it while this one waited for its turn.
        if (file := _opened(path)) is None:
            with new_directory(path, overwrite=True, needed=2 * corpus.size) as temporary:
                write_tokens(temporary, corpus, tokenizer, held_out, progress, special_tokens)
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
