"""BPE by rank of its merges, BPE by score of their results: one turned into the other.

The tokenizers library merges the pair that comes first in a list; SentencePiece and llama.cpp merge any two
neighbours that make up a token, the token with the highest score first.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

SPACE = "▁"
"""What stands for a space in a SentencePiece vocabulary."""
LONGEST_PIECE = 512
"""Most characters of a token that is merged, SentencePiece's own limit: its parts take time by the square of them."""


def merge_scores(pieces: Collection[str], merges: Sequence[tuple[str, str]]) -> tuple[dict[str, float], str | None]:
    """Scores under which merging by score does what these merges do.

    Args:
        pieces: the tokens that text is merged into, without special, added and byte tokens.
        merges: pairs, the first merged first.

    Returns:
        The score of each token that is a result of merging, and None; or what keeps scores from doing the same.

    Example:
        >>> merge_scores({"a", "b", "ab"}, [("a", "b")])
        ({'ab': 0.0}, None)
    """
    longest = max(map(len, pieces), default=0)
    if longest > LONGEST_PIECE:
        return {}, f"one with a token of {longest} characters, where SentencePiece has {LONGEST_PIECE} at most"
    scores: dict[str, float] = {}
    last = None
    for left, right in merges:
        result = left + right
        if result == last:
            continue
        if result in scores:
            return {}, f"one that merges {left!r} and {right!r} after others of lower rank, which no score does"
        scores[result], last = float(-len(scores)), result
    known = set(merges)
    for token in pieces:
        for pair in _parts(token, pieces):
            if pair not in known:
                return {}, f"one that never merges {pair[0]!r} and {pair[1]!r}, as llama.cpp does"
    return scores, None


def merges_of(scores: Mapping[str, float], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Merges that do what scores do: of each token all pairs that make it up, the highest score first.

    Args:
        scores: of each token that text is merged into, none longer than `LONGEST_PIECE`.
        ids: their ids, which order tokens of equal score.

    Example:
        >>> merges_of({"a": -2.0, "b": -3.0, "ab": -1.0}, {"a": 0, "b": 1, "ab": 2})
        [('a', 'b')]
    """
    found: list[tuple[str, str]] = []
    for token in sorted(scores, key=lambda token: (-scores[token], ids[token])):
        pairs = (pair for pair in _parts(token, scores) if pair[0] in scores and pair[1] in scores)
        found += sorted(pairs, key=lambda pair: (len(pair[0]), len(pair[1])))
    return found


def _parts(token: str, pieces: Collection[str] | Iterable[str]) -> Iterator[tuple[str, str]]:
    """The ways to make up a token of two, each a token or one character."""
    for at in range(1, len(token)):
        left, right = token[:at], token[at:]
        if (at == 1 or left in pieces) and (len(right) == 1 or right in pieces):
            yield left, right
