"""The tokens of a long text, encoded in overlapping pieces: those of the whole, for every tokenizer.

A piece is encoded with some of the text before and after it. Where two neighbours agree on all tokens around the
place between them, neither the beginning of the one nor the end of the other reaches there. Where they do not agree,
they are joined and encoded as one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer

MARGIN = 1 << 11
"""Characters that a piece shares with each of its neighbours."""
TOGETHER = 8
"""Pieces that are encoded in parallel."""


class Spans(NamedTuple):
    """Token ids, and where in the text each begins and ends."""

    ids: Integer[np.ndarray, " tokens"]
    spans: Int64[np.ndarray, "tokens 2"]

    def moved(self, by: int) -> "Spans":
        """The same tokens in a text that begins earlier."""
        return Spans(self.ids, self.spans + by)

    def place(self, at: int) -> int:
        """Number of the first token that begins at or behind a place."""
        behind = self.spans[:, 0] >= at
        return int(behind.argmax()) if behind.any() else len(self.ids)

    def near(self, at: int) -> "Spans":
        """The tokens that are at least in part within half a margin of a place."""
        chosen: Bool[np.ndarray, " tokens"] = (self.spans[:, 1] > at - MARGIN // 2) & (
            self.spans[:, 0] < at + MARGIN // 2
        )
        return Spans(self.ids[chosen], self.spans[chosen])


@dataclass
class _Piece:
    """A piece of the text, with what is before and after it."""

    start: int
    lead: str
    text: str
    tail: str
    count: int = 1

    @property
    def whole(self) -> str:
        return self.lead + self.text + self.tail

    def placed(self, tokens: Spans) -> Spans:
        return tokens.moved(self.start - len(self.lead))

    def joined(self, after: "_Piece") -> "_Piece":
        return _Piece(self.start, self.lead, self.text + after.text, after.tail, self.count + after.count)


def encode_overlapping(
    encode: Callable[[Sequence[str]], list[Spans]], texts: Iterable[str]
) -> Iterator[Integer[np.ndarray, " tokens"]]:
    """The token ids of a text that comes in pieces, in pieces.

    Args:
        encode: encodes several texts, each alone.
        texts: the text.

    Example:
        >>> def letters(texts):
        ...     places = [np.arange(len(text)) for text in texts]
        ...     return [Spans(at, np.stack([at, at + 1], 1)) for at in places]
        >>> [ids.tolist() for ids in encode_overlapping(letters, ["ab", "c"])]
        [[0, 1, 2]]
    """
    held: _Piece | None = None
    tokens: Spans | None = None
    due = 1  # pieces to join before the next encoding, so that a text that never agrees is encoded log n times
    pieces = _pieces(texts)
    while group := list(islice(pieces, TOGETHER)):
        for piece, found in zip(group, encode([piece.whole for piece in group]), strict=True):
            here = piece.placed(found)
            if held is None:
                held, tokens = piece, here
                continue
            if tokens is not None and _agree(tokens, here, piece.start):
                yield tokens.ids[_first(tokens, held) : tokens.place(piece.start)]
                held, tokens, due = piece, here, 1
                continue
            if tokens is not None:
                due = 2 * held.count
            held, tokens = held.joined(piece), None
            if held.count >= due:
                tokens = held.placed(encode([held.whole])[0])
    if held is not None:
        tokens = held.placed(encode([held.whole])[0]) if tokens is None else tokens
        yield tokens.ids[_first(tokens, held) :]


def _first(tokens: Spans, piece: _Piece) -> int:
    return tokens.place(piece.start) if piece.start else 0


def _agree(one: Spans, other: Spans, at: int) -> bool:
    one, other = one.near(at), other.near(at)
    return len(one.ids) > 0 and all(map(np.array_equal, one, other))


def _pieces(texts: Iterable[str]) -> Iterator[_Piece]:
    """Pieces of two margins at least, if the text is that long, each with its surroundings."""
    start, lead, text = 0, "", ""
    for more in texts:
        if len(text) < 2 * MARGIN or len(more) < 2 * MARGIN:
            text += more  # only the last piece of a text, and those of a test, are that short
            continue
        yield _Piece(start, lead, text, more[:MARGIN])
        start, lead, text = start + len(text), text[-MARGIN:], more
    if text:
        yield _Piece(start, lead, text, "")
