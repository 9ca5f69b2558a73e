"""Corpora that need no download, because every Python carries them. A new one is a function and a row."""

import difflib
import sysconfig
import tokenize
from collections.abc import Callable, Iterator, Mapping
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
        near = difflib.get_close_matches(name, BUILTIN, n=1)
        raise UsageError(
            "--data", expected=f"one of {', '.join(PREFIX + known for known in sorted(BUILTIN))}", got=repr(spec),
            remedy=f"Did you mean {PREFIX}{near[0]}?" if near else "Choose one of those.",
        )  # fmt: skip
    return Corpus(label=f"builtin-{name}", documents=tuple(BUILTIN[name]()))


def prose() -> Iterator[Document]:
    """The language reference of the running Python, a topic a document: about 0.5 MB of English."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document.of(name, text)


def code() -> Iterator[Document]:
    """The standard library's own sources, a file a document: about 12 MB of Python, tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        # _sysconfigdata_*.py is written by the build and names paths of its machine.
        generated = path.name.startswith("_sysconfigdata")
        if _LEFT_OUT & set(parts) or parts[0].startswith("config-") or generated or not path.stat().st_size:
            continue
        document = Document.file("/".join(parts), path)
        yield Document(
            name=document.name, size=document.size, stamp=document.stamp, read=partial(_source_pieces, path)
        )


def _source_pieces(path: Path) -> Iterator[str]:
    """A source file's text in the encoding it declares."""
    with tokenize.open(path) as file:
        yield from cut_pieces([file.read()])


BUILTIN: Mapping[str, Callable[[], Iterator[Document]]] = {"prose": prose, "code": code}
"""The built-in corpora by name."""
