"""What a strategy keeps: the claims that its row makes, that the documentation's table shows, and that tests hold."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Preserves:
    """What is unchanged right after a growth, up to rounding.

    Args:
        function: whether the logits are.
        gradient: whether every parameter's gradient is its old one, mapped: in all old layers (`yes`), in them but
            for what new entries write (`old`), or in none (`no`). Where queries are regrouped, key
            and value may differ.
        moments: the same for optimizer moments that are transported.
        ternary: whether the codes of ternary weights are, and their scales what they must be: at any ratio (`yes`),
            where every entry is copied equally often (`multiples`), or not (`no`).

    Example:
        >>> Preserves(function=True, gradient="old", moments="old", ternary="no").cells()
        ('yes', 'but for what new entries write', 'but for what new entries write', 'no')
    """

    function: bool
    gradient: Literal["yes", "old", "no"]
    moments: Literal["yes", "old", "no"]
    ternary: Literal["yes", "multiples", "no"]

    def cells(self) -> tuple[str, ...]:
        """The claims as the documentation's table writes them."""
        words = {"old": "but for what new entries write", "multiples": "at whole multiples"}
        told = ("yes" if self.function else "no", self.gradient, self.moments, self.ternary)
        return tuple(words.get(cell, cell) for cell in told)
