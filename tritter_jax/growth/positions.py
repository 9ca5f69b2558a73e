"""Positions: which old layers are copied, by a rule or by a list. One rule is one row of `POSITIONS`."""

import math
from collections.abc import Callable, Sequence

from tprog import GrowthError

Scores = Sequence[float] | None
"""Importance of each old layer; None where it was never measured."""
Rule = Callable[[int, int, Scores], list[int]]
"""Number of old layers, number of new ones, importance: the old layer that each new one copies and follows."""


def _uniform(layers: int, added: int, scores: Scores) -> list[int]:
    split = layers // added
    if split == 0 or layers // split != added:
        possible = {layers + layers // s for s in range(1, layers + 1)}
        nearest = min(possible, key=lambda depth: abs(depth - layers - added))
        raise GrowthError(
            f"{layers} -> {layers + added} layers, positions uniform",
            expected="one new layer after every split-th (LLaMA Pro's rule)",
            got=f"{added} new layers, which no split of {layers} gives",
            remedy=f"The nearest that works is {nearest} layers; --positions spread takes any.",
        )
    return [i for i in range(layers) if (i + 1) % split == 0]


def _spread(layers: int, added: int, scores: Scores) -> list[int]:
    return [-(-(k + 1) * layers // added) - 1 for k in range(added)]


def _middle(layers: int, added: int, scores: Scores) -> list[int]:
    """From the middle upwards, as the specification has it; from lower down where the upper half is too short."""
    start = min(layers // 2, layers - _each_once(layers, added, "middle"))
    return [*range(start, start + added)]


def _top(layers: int, added: int, scores: Scores) -> list[int]:
    return [*range(layers - _each_once(layers, added, "top"), layers)]


def _importance(layers: int, added: int, scores: Scores) -> list[int]:
    """The layers with the highest scores; of equal ones the lower."""
    return _by_score(layers, added, scores, "importance", sign=-1)


def _expendable(layers: int, added: int, scores: Scores) -> list[int]:
    """The layers with the lowest scores; of equal ones the lower."""
    return _by_score(layers, added, scores, "expendable", sign=1)


def _by_score(layers: int, added: int, scores: Scores, rule: str, *, sign: int) -> list[int]:
    _each_once(layers, added, rule)
    if scores is None:
        raise GrowthError(
            f"positions {rule}",
            expected="importance_scores in layer_analysis of progressive.json",
            got="none stored",
            remedy="Store them with the checkpoint, or choose --positions uniform, spread, middle or top.",
        )
    if len(scores) != layers or not all(map(math.isfinite, scores)):
        raise GrowthError(
            "importance_scores",
            expected=f"{layers} finite numbers, one for each layer",
            got=f"{len(scores)} of them" if len(scores) != layers else "NaN or infinity",
            remedy="They were stored for another model: measure them again.",
        )
    return sorted(sorted(range(layers), key=lambda layer: (sign * scores[layer], layer))[:added])


def _each_once(layers: int, added: int, rule: str) -> int:
    if added > layers:
        raise GrowthError(
            f"{layers} -> {layers + added} layers, positions {rule}",
            expected=f"at most {layers} new layers, for it copies each layer once",
            got=added,
            remedy=f"The nearest that works is {2 * layers} layers; --positions spread takes any.",
        )
    return added


POSITIONS: dict[str, Rule] = {
    "uniform": _uniform,
    "spread": _spread,
    "middle": _middle,
    "top": _top,
    "importance": _importance,
    "expendable": _expendable,
}
"""Every rule by name.

`uniform` is LLaMA Pro's (Wu et al. 2024, section 3.2); `spread` spaces any number as evenly as whole numbers can;
`middle` copies layers from the middle upwards, `top` the last ones, `importance` those that matter
most, `expendable` those that matter least."""


def fitting(layers: int, added: int) -> str:
    """The rule that `auto` stands for: `uniform` where it gives that many layers, else `spread`.

    Example:
        >>> fitting(26, 6), fitting(16, 10)
        ('uniform', 'spread')
    """
    if added:
        try:
            _uniform(layers, added, None)
        except GrowthError:
            return "spread"
    return "uniform"


def place(layers: int, added: int, positions: str | Sequence[int], scores: Scores = None) -> list[int]:
    """The old layers to copy, ascending.

    Args:
        layers: number of old layers.
        added: number of new layers.
        positions: a key of `POSITIONS`, or the layers themselves.
        scores: each old layer's importance, for the rule that goes by it.

    Raises:
        GrowthError: the rule cannot give that many, or the list is out of range, repeats or has another length.

    Example:
        >>> place(26, 6, "middle")
        [13, 14, 15, 16, 17, 18]
        >>> place(4, 2, "importance", [0.1, 0.9, 0.3, 0.5])
        [1, 3]
    """
    if isinstance(positions, str):
        return POSITIONS[positions](layers, added, scores)
    return _explicit(layers, added, positions)


def _explicit(layers: int, added: int, positions: Sequence[int]) -> list[int]:
    def refuse(expected: str, got: str) -> GrowthError:
        works = _ranged(_middle(layers, added, None)) if 0 < added <= layers else ""
        remedy = f"Give the layers to copy, such as --layers {works}." if works else "Leave --layers out."
        return GrowthError("layers", expected=expected, got=got, remedy=remedy)

    outside = [i for i in positions if not 0 <= i < layers]
    if outside:
        raise refuse(f"numbers from 0 to {layers - 1}", _listed(outside))
    repeated = sorted({i for i in positions if list(positions).count(i) > 1})
    if repeated:
        raise refuse("each layer once", f"{_listed(repeated)} repeated")
    if len(positions) != added:
        raise refuse(f"{added} of them, to go from {layers} to {layers + added} layers", str(len(positions)))
    return sorted(positions)


def _ranged(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")
