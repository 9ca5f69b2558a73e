"""How the copies of one entry share what it was: a row in `SPLITS` each.

Equal shares with equal optimizer state never separate: both copies get the same gradient for ever. Unequal shares
break the symmetry and stay exact (Wang et al. 2023, "LEMON", section 4.1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tritter_jax.growth.preserves import Preserves

Split = Callable[[int], Float[np.ndarray, " copies"]]
"""Shares of the copies of one entry, in order; not negative, summing to 1."""


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """A way for copies to share; called with their number, it gives the share of each.

    Args:
        name: its name on the command line.
        summary: one line on what it does.
        rule: the shares.
        preserves: what duplication with it keeps.
        published: where it was described.
    """

    name: str
    summary: str
    rule: Split
    preserves: Preserves
    published: str

    def __call__(self, copies: int) -> Float[np.ndarray, " copies"]:
        """The share of each copy of an entry."""
        return self.rule(copies)


def uneven(copies: int) -> Float[np.ndarray, " copies"]:
    """Shares in the ratio 1 : 2 : 3 and so on.

    Example:
        >>> uneven(2).round(3).tolist()
        [0.333, 0.667]
    """
    ramp = np.arange(1, copies + 1, dtype=np.float64)
    return ramp / ramp.sum()


def even(copies: int) -> Float[np.ndarray, " copies"]:
    """Equal shares (Chen et al. 2016, "Net2Net", section 2.2)."""
    return np.full(copies, 1.0 / copies)


def first(copies: int) -> Float[np.ndarray, " copies"]:
    """Everything stays with the first copy; the others begin silent."""
    return np.eye(copies)[0]


SPLITS: dict[str, SplitRule] = {
    row.name: row
    for row in (
        SplitRule(
            name="uneven",
            summary="shares in the ratio 1 : 2 : 3",
            rule=uneven,
            preserves=Preserves(function=True, gradient="yes", moments="yes", ternary="no"),
            published="Wang et al. 2023, LEMON, section 4.1 (LayerNorm); through RMSNorm at any ratio nowhere",
        ),
        SplitRule(
            name="even",
            summary="equal shares",
            rule=even,
            preserves=Preserves(function=True, gradient="yes", moments="yes", ternary="multiples"),
            published="Chen et al. 2016, Net2Net, section 2.2; at whole multiples Samragh et al. 2024, Scaling Smart",
        ),
        SplitRule(
            name="first",
            summary="all with the first copy; the others begin silent",
            rule=first,
            preserves=Preserves(function=True, gradient="old", moments="old", ternary="no"),
            published="nowhere",
        ),
    )
}
"""Every split by name."""


def shares(source: list[int] | tuple[int, ...], split: Split) -> Float[np.ndarray, " new"]:
    """The share of every new index, given where each comes from; 0 for fresh entries.

    Example:
        >>> shares([0, 1, 0], even).tolist()
        [0.5, 1.0, 0.5]
    """
    indices = np.asarray(source)
    copies = np.flatnonzero(indices >= 0)
    grouped = copies[np.argsort(indices[copies], kind="stable")]
    counts = np.unique(indices[copies], return_counts=True)[1].tolist()
    parts = {count: split(count) for count in set(counts)}
    result = np.zeros(len(indices))
    result[grouped] = np.concatenate([parts[count] for count in counts])
    return result
