"""Which directory a source means: a path, a named size (the most trained checkpoint of it), or a model of the Hub."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tprog.errors import UsageError
from tprog.layout import newest
from tprog.paths import user_path as user_path
from tprog.sizes import SIZES, nearest_size

if TYPE_CHECKING:
    from tprog.hub import HubId


def is_size(text: str) -> bool:
    """Whether a word is one of the named sizes."""
    return text.lower() in {name.lower() for name in SIZES}


def hub_source(text: str) -> "HubId | None":
    """The model of the Hub that a source means; None where it must be meant as a path.

    Example:
        >>> hub_source("org/model@main"), hub_source("runs/poet-3B-0.tprog")
        (HubId(repository='org/model', revision='main'), None)
    """
    from tprog.hub import HubId

    source = HubId.parse(text)
    if source is None or source.repository.endswith((".tprog", ".json")) or Path(text.partition("/")[0]).exists():
        return None
    return source


@contextmanager
def perhaps_a_directory(text: str) -> Iterator[None]:
    """A context in which what the Hub refuses may as well be a mistake in a path, and is told so.

    Raises:
        UsageError: in place of the one that was raised.
    """
    try:
        yield
    except UsageError as error:
        expected = f"a directory here, or {error.expected}"
        raise UsageError(text, expected=expected, got=error.got, remedy=error.remedy) from None


def source_path(text: str, *, parts: Iterable[str] | None = None) -> Path:
    """The checkpoint a source means: a directory, for a named size the most trained `*-{size}-*.tprog` here, or a
    model of the Hub, which is fetched into its cache.

    Args:
        text: what the user wrote.
        parts: of a model of the Hub, which parts are needed; all where left out.

    Raises:
        UsageError: there is none of these.
    """

    def fetched(source: "HubId") -> Path:
        from tprog.hub import fetch

        return fetch(source, parts=parts)

    return _find(
        text,
        fetched,
        expected="a .tprog, a Hugging Face model directory, a named size, or org/name on the Hub",
        remedy=f"{nearest_size(text)}Check the path; `tritter sizes` lists the sizes.",
    )


def tokenizer_path(text: str) -> Path:
    """Where the tokenizer lies that a text means: a file or a directory here, or what `source_path` finds; of a model
    of the Hub nothing but its tokenizer is fetched.

    Raises:
        UsageError: there is none of these.
    """

    def fetched(source: "HubId") -> Path:
        from tprog.hub import fetch_tokenizer

        return fetch_tokenizer(source)

    return _find(
        text,
        fetched,
        expected="bytes, a tokenizer.json, a directory that holds one, or org/name on the Hub",
        remedy="Check the path, or train one with `tritter tokenizer train`.",
    )


def _find(text: str, fetched: Callable[["HubId"], Path], *, expected: str, remedy: str) -> Path:
    path = user_path(text)
    if path.exists():
        return path
    if is_size(text):
        return newest(text)
    if (source := hub_source(text)) is not None:
        with perhaps_a_directory(text):
            return fetched(source)
    raise UsageError(text, expected=expected, got="none of these", remedy=remedy)
