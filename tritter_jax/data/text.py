"""Text out of files and strings, in pieces of bounded size that a tokenizer may take one at a time."""

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from tprog import FormatError

PIECE = 1 << 18
"""Characters or bytes at which a text is cut; a document of any length is then encoded in bounded memory."""

_SNIFF = 1 << 13
_BOM = "\ufeff"


def looks_like_text(path: Path) -> bool:
    """Whether a file's beginning holds no NUL byte, the mark by which git too tells binary files.

    Example:
        >>> looks_like_text(Path(__file__))
        True
    """
    with path.open("rb") as file:
        return b"\0" not in file.read(_SNIFF)


def file_pieces(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file, piece by piece; a byte order mark at its start is left out.

    Raises:
        FormatError: the file holds a NUL byte or is not UTF-8; the message names the offset.
    """
    return cut_pieces(_decoded(path))


def cut_pieces(texts: Iterable[str]) -> Iterator[str]:
    """Cut running text where a whitespace follows a letter or digit, at about every `PIECE` characters.

    No byte-level tokenizer joins what lies left and right of such a place, so encoding the pieces one by one gives
    the tokens of the whole.

    Example:
        >>> text = "some words " * 50_000
        >>> pieces = list(cut_pieces([text]))
        >>> len(pieces), "".join(pieces) == text, pieces[1][:6]
        (3, True, ' some ')
    """
    held = ""
    for text in texts:
        text = held + text
        start = 0  # a place in the text, so that what is left of a long one is not copied for each piece
        while len(text) - start > PIECE:
            piece = text[start : start + PIECE + 1]
            place = _place(piece, PIECE)
            yield piece[:place]
            start += place
        held = text[start:]
    if held:
        yield held


def split_head(pieces: Iterable[str], size: int) -> Iterator[Iterator[str]]:
    """Divide a text at the last such place within its first `size` UTF-8 bytes, never holding more than a piece.

    Yields:
        The pieces of the beginning, to be taken before those of the rest, which come second where there is a rest.

    Example:
        >>> [list(part) for part in split_head(["one two three"], 10)]
        [['one two'], [' three']]
    """
    left: list[str] = []
    source = iter(pieces)

    def head() -> Iterator[str]:
        room = size
        for piece in source:
            data = piece.encode("utf-8")
            if len(data) > room:
                within = data[:room].decode("utf-8", errors="ignore")
                place = _place(piece, max(len(within), 1))
                if rest := piece[place:]:
                    left.append(rest)
                yield piece[:place]
                return
            room -= len(data)
            yield piece

    yield head()
    yield chain(left, source)


def _place(text: str, limit: int) -> int:
    """The last place at or before `limit` where whitespace follows a letter or digit; `limit` where there is none."""
    for place in range(min(limit, len(text) - 1), 0, -1):
        if text[place].isspace() and text[place - 1].isalnum():
            return place
    return limit


def _decoded(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with path.open("rb") as file:
        while True:
            block = file.read(PIECE)
            if b"\0" in block:
                raise _not_text(path, f"a NUL byte at offset {offset + block.index(0)}")
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = offset - waiting + error.start
                raise _not_text(path, f"a byte that is not UTF-8 at offset {place}") from None
            if offset == 0:
                text = text.removeprefix(_BOM)
            if text:
                yield text
            if not block:
                return
            offset += len(block)


def _not_text(path: Path, got: str) -> FormatError:
    return FormatError(path, expected="UTF-8 text", got=got, remedy="Leave this file out, or convert it to UTF-8.")
