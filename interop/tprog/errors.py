"""Every error a user can meet: where it happened, what was expected, what was found, and the way out."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypeVar

from tprog.printable import LONGEST_MESSAGE, cut, printable

MOST_FINDINGS = 100
"""Most findings that an error keeps; it counts the others."""

_Row = TypeVar("_Row")


class TritterError(Exception):
    """A mistake that the person at the keyboard can mend; never a bug of ours.

    The command line prints it as one paragraph and exits with a non-zero code; a library user catches it.

    What it is given may come from a broken or a hostile file: control characters are escaped, long texts shortened
    and long lists cut.

    Args:
        where: the file, tensor, field or option concerned.
        expected: what should have been there.
        got: what was there.
        remedy: what to do about it, as an imperative sentence.
        findings: further lines of the same kind, when several things are wrong at once.
        more: how many findings there are beside those given.

    Example:
        >>> raise ConfigError("num_layers", expected="a whole number above 0", got=-1, remedy="Mend config.json.")
        Traceback (most recent call last):
        tprog.errors.ConfigError: num_layers: expected a whole number above 0, got -1. Mend config.json.
    """

    def __init__(
        self,
        where: object,
        *,
        expected: object,
        got: object,
        remedy: str,
        findings: Sequence[str] = (),
        more: int = 0,
    ) -> None:
        self.where, self.expected, self.remedy = (
            printable(text, LONGEST_MESSAGE) or "''" for text in (where, expected, remedy)
        )
        self.got = printable(got)
        self.findings = tuple(map(printable, findings[:MOST_FINDINGS]))
        self.more = more + len(findings) - len(self.findings)
        lines = [f"{self.where}: expected {self.expected}, got {self.got}. {self.remedy}", *self.listed()]
        super().__init__("\n".join(lines))

    def listed(self, most: int = MOST_FINDINGS) -> list[str]:
        """The findings, a line each; where there are more than `most`, the last line counts the others."""
        return [f"  {line}" for line in cut([f"- {finding}" for finding in self.findings], most, self.more)]

    @classmethod
    def unknown(
        cls, where: object, name: object, known: Iterable[str], *, remedy: str = "Choose one of those."
    ) -> Self:
        """The error for a name that is none of those known; it names the nearest, or else says the remedy.

        Example:
            >>> str(UsageError.unknown("--depth", "stak", ["identity", "stack"]))
            "--depth: expected one of identity, stack, got 'stak'. Did you mean stack?"
        """
        names = list(known)
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"Did you mean {near[0]}?" if near else remedy
        return cls(where, expected=f"one of {', '.join(names)}", got=repr(name), remedy=hint)

    @classmethod
    def choose(
        cls, where: object, name: str, rows: Mapping[str, _Row], *, remedy: str = "Choose one of those."
    ) -> _Row:
        """The row of that name in a registry.

        Raises:
            TritterError: there is none: `unknown`, of the class that was asked.

        Example:
            >>> UsageError.choose("--depth", "stack", {"identity": 1, "stack": 2})
            2
        """
        if name not in rows:
            raise cls.unknown(where, name, rows, remedy=remedy)
        return rows[name]

    def to_json(self) -> dict[str, object]:
        """The error as JSON, for a program that reads it."""
        return {
            "kind": type(self).__name__,
            "where": self.where,
            "expected": self.expected,
            "got": self.got,
            "remedy": self.remedy,
            "findings": list(self.findings),
            "more": self.more,
        }


class ConfigError(TritterError):
    """A model configuration breaks a rule, or names something this library does not know."""


class FormatError(TritterError):
    """A file or directory is not what the format says it must be."""


class ParameterError(TritterError):
    """A tree of parameters does not match the parameter table of its configuration."""


class GrowthError(TritterError):
    """A growth that cannot be planned, or cannot be applied to what was given."""


class VerificationError(TritterError):
    """A result was checked against its stated guarantee and did not meet it."""


class UsageError(TritterError):
    """Options that contradict each other, a path that is missing or taken, an extra that is not installed."""
