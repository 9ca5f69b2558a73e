"""What `--data` may name: a text file, a directory, a glob, or a corpus that every Python carries."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from glob import has_magic, iglob
from pathlib import Path

from tprog import UsageError
from tprog.paths import user_path

from tritter_jax.data.structured import AS_TEXT, refuse_structured, structure_of
from tritter_jax.data.text import cut_pieces, file_pieces, looks_like_text


@dataclass(frozen=True, kw_only=True)
class Document:
    """One named text, read when it is asked for.

    Args:
        name: its name within the corpus; free of machine paths.
        size: its size in bytes.
        stamp: changes when the text does: size and time of change of a file, or a hash.
        read: gives the text in pieces.

    Example:
        >>> Document.of("greeting", "hello").text
        'hello'
    """

    name: str
    size: int
    stamp: str
    read: Callable[[], Iterable[str]]

    @classmethod
    def of(cls, name: str, text: str) -> "Document":
        """A document of a text at hand."""
        data = text.encode("utf-8")
        return cls(
            name=name, size=len(data), stamp=hashlib.sha256(data).hexdigest(), read=partial(cut_pieces, [text])
        )

    @classmethod
    def file(cls, name: str, path: Path) -> "Document":
        """A document that is a text file."""
        status = path.stat()
        stamp = f"{status.st_size} {status.st_mtime_ns}"
        return cls(name=name, size=status.st_size, stamp=stamp, read=partial(file_pieces, path))

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.read())


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Named documents in a fixed order.

    Args:
        label: a short name for files and messages.
        documents: at least one; no two of one name.
        skipped: names of files that were passed over because they are not text.

    Example:
        >>> corpus = Corpus(label="two", documents=(Document.of("a", "one"), Document.of("b", "two")))
        >>> [document.name for document in corpus], corpus.size
        (['a', 'b'], 6)
    """

    label: str
    documents: tuple[Document, ...]
    skipped: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(document.size for document in self.documents)

    @property
    def fingerprint(self) -> str:
        """A hash of the documents' names and stamps: equal while no file was changed, and quickly computed."""
        rows = "\n".join(f"{document.name!r} {document.stamp}" for document in self.documents)
        return hashlib.sha256(rows.encode("utf-8", errors="surrogateescape")).hexdigest()


def open_corpus(spec: str | Path) -> Corpus:
    """The documents that a `--data` value names; files are listed now and read later.

    Args:
        spec: a text file (one document), a directory (its text files at any depth, hidden and binary ones passed
            over), a glob such as `"notes/**/*.md"`, or a built-in corpus such as `"builtin:prose"`. `text:` before
            a path takes every file as running text, also one that holds records or a table.

    Raises:
        UsageError: nothing is there, what is there is empty or structured data, or there is no such built-in corpus.

    Example:
        >>> open_corpus("builtin:prose").documents[0].name
        'assert'
        >>> open_corpus("builtin:pros")
        Traceback (most recent call last):
        tprog.errors.UsageError: --data: expected one of builtin:code, builtin:prose, got 'builtin:pros'. Did you
        mean builtin:prose?
    """
    from tritter_jax.data.builtin import PREFIX, open_builtin

    text = os.fspath(spec)
    if text.startswith(PREFIX):
        return open_builtin(text)
    plain = text.removeprefix(AS_TEXT)
    if not plain:
        raise UsageError(
            "--data",
            expected="the path of a text file, a directory or a glob",
            got="none",
            remedy="Write . for here.",
        )
    path = user_path(plain)
    if path.is_file():
        found, among_others = [(path.name, path)], False
    elif path.is_dir():
        found, among_others = list(_walk(path)), True
    elif has_magic(plain):
        found, among_others = list(_matching(path)), True
    else:
        raise _nothing(text, path)
    texts = [pair for pair in found if looks_like_text(pair[1])] if path.is_dir() else found
    if plain == text:
        kinds = ((name, structure_of(file, among_others=among_others)) for name, file in texts)
        refuse_structured(text, [(name, kind) for name, kind in kinds if kind is not None])
    return _corpus(plain, texts, found=found)


def _nothing(text: str, path: Path) -> UsageError:
    return UsageError(
        text, expected="a text file, a directory, a glob, builtin:prose or builtin:code",
        got="neither a file nor a directory" if path.exists() else "nothing there",
        remedy="Check the path of --data.",
    )  # fmt: skip


def open_corpora(specs: Sequence[str | Path]) -> Corpus:
    """The documents of several `--data` values as one corpus; one alone is as `open_corpus` gives it.

    Args:
        specs: as for `open_corpus`; a file that several name is taken once from each.

    Raises:
        UsageError: as for `open_corpus`, or none is given.

    Example:
        >>> corpus = open_corpora(["builtin:prose", "builtin:code"])
        >>> corpus.label, corpus.documents[0].name
        ('builtin-prose-and-1-more', '0/assert')
    """
    if not specs:
        raise UsageError("--data", expected="text to train on", got="nothing", remedy="Name at least one corpus.")
    corpora = [open_corpus(spec) for spec in specs]
    if len(corpora) == 1:
        return corpora[0]
    return Corpus(
        label=f"{corpora[0].label}-and-{len(corpora) - 1}-more",
        documents=tuple(
            replace(document, name=f"{number}/{document.name}")
            for number, corpus in enumerate(corpora)
            for document in corpus
        ),
        skipped=tuple(f"{number}/{name}" for number, corpus in enumerate(corpora) for name in corpus.skipped),
    )


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(root).as_posix(), path


def _matching(pattern: Path) -> Iterator[tuple[str, Path]]:
    """The files of a glob, named from its last folder without a wildcard."""
    fixed = next(parent for parent in pattern.parents if not has_magic(str(parent)))
    for name in iglob(str(pattern), recursive=True):  # noqa: PTH207 - a Path globs only below itself
        path = Path(name)
        if path.is_file():
            yield path.relative_to(fixed).as_posix(), path


def _corpus(spec: str, pairs: list[tuple[str, Path]], *, found: list[tuple[str, Path]] | None = None) -> Corpus:
    found = pairs if found is None else found
    documents = [Document.file(name, path) for name, path in sorted(pairs)]
    kept = tuple(document for document in documents if document.size)
    if not kept:
        binary = len(found) - len(pairs)
        got = f"{binary} binary and {len(pairs)} empty files" if found else "no file at all"
        raise UsageError(
            spec, expected="text to train on", got="an empty file" if len(found) == 1 and not binary else got,
            remedy="Give files that hold UTF-8 text.",
        )  # fmt: skip
    skipped = sorted({name for name, _ in found} - {name for name, _ in pairs})
    return Corpus(label=Path(spec).name or "data", documents=kept, skipped=tuple(skipped))
