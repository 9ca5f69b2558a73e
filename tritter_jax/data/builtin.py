"""Corpora that need no download, because every Python carries them. A new one is a function and a row."""

import os
import sysconfig
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from tprog import UsageError

from tritter_jax.data.corpus import Corpus, Document
from tritter_jax.data.text import cut_pieces

PREFIX = "builtin:"

_LEFT_OUT = {
    "site-packages", "dist-packages",  # not the standard library
    "test", "tests", "idle_test",
    "pydoc_data",  # the prose corpus
    "__pycache__",
}  # fmt: skip


def open_builtin(spec: str) -> Corpus:
    """A built-in corpus by its name.

    Raises:
        UsageError: there is none of that name.

    Example:
        >>> open_builtin("builtin:code").documents[0].name
        '__future__.py'
    """
    name = spec.removeprefix(PREFIX)
    if name not in BUILTIN:
        raise UsageError.unknown("--data", spec, [PREFIX + known for known in sorted(BUILTIN)])
    documents = tuple(BUILTIN[name]())
    if not documents:
        raise UsageError(
            spec, expected="a Python with its standard library in files", got="one without",
            remedy="Give a file or a directory instead.",
        )  # fmt: skip
    return Corpus(label=f"builtin-{name}", documents=documents)


def prose() -> Iterator[Document]:
    """The language reference of the running Python, a topic a document: about 0.5 MB of English."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document.of(name, text)


def code() -> Iterator[Document]:
    """The standard library's own sources, a file a document: about 12 MB of Python, tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(_sources(root)):
        document = Document.file(name, root / name)
        if document.size:
            yield replace(document, read=partial(_source_pieces, root / name))


def _sources(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith("config-")]
        for name in files:
            # _sysconfigdata_*.py is written by the build and names paths of its machine.
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                yield Path(folder, name).relative_to(root).as_posix()


def _source_pieces(path: Path) -> Iterator[str]:
    """A source file's text in the encoding it declares."""
    with tokenize.open(path) as file:
        yield from cut_pieces([file.read()])


BUILTIN: Mapping[str, Callable[[], Iterator[Document]]] = {"prose": prose, "code": code}
"""The built-in corpora by name."""
