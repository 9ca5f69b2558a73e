"""A card as text: its head, sections between markers that a program may replace, and what people wrote around them.

A marker carries the start of its section's hash, so that a section which somebody edited is known, and kept.
"""

import hashlib
import re
from collections.abc import Mapping

from tprog.errors import UsageError
from tprog.layout import CARD

TITLE = "title"
"""Name of the section that is the card's heading."""

_HEAD = re.compile(r"\A---\n(.*?\n)?---\n", re.DOTALL)
_SECTION = re.compile(r"<!-- tritter:([\w-]+) ([0-9a-f]{12}) -->\n(.*?)<!-- /tritter:\1 -->\n?", re.DOTALL)


def block(name: str, text: str) -> str:
    """A section between its markers.

    Example:
        >>> print(block("plots", "none"), end="")
        <!-- tritter:plots 140bedbf9c3f -->
        none
        <!-- /tritter:plots -->
    """
    return f"<!-- tritter:{name} {_digest(text)} -->\n{text}\n<!-- /tritter:{name} -->\n"


def render(head: str, parts: Mapping[str, str]) -> str:
    """A whole card; sections without text are left out."""
    blocks = "\n".join(block(name, text) for name, text in parts.items() if text)
    return f"---\n{head}---\n\n{blocks}"


def merge(fresh: str, old: str) -> tuple[str, tuple[str, ...]]:
    """A card that exists, with its sections replaced by those of a new one and the fields its head lacks added.

    Everything outside the markers stays, and so does a section that was edited, even to nothing, and a field of the
    head that is there. A section that is not there is added at the end.

    Args:
        fresh: from `render`.
        old: the card that exists.

    Returns:
        The card, and the names of the sections that were edited and stayed.

    Example:
        >>> old = render("license: mit\\n", {"a": "1"}) + "Mine.\\n"
        >>> merge(render("library_name: x\\n", {"a": "2"}), old)[0].splitlines()[1:3]
        ['license: mit', 'library_name: x']
    """
    new = {match[1]: match[0] for match in _SECTION.finditer(fresh)}
    edited: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        if _was_edited(match):
            edited.append(match[1])
            new.pop(match[1], None)
            return match[0]
        return new.pop(match[1], "")

    head, body = _split(old)
    body = _SECTION.sub(replaced, body)
    new.pop(TITLE, None)  # a card that exists has one, or wants none
    if new:
        body = body.rstrip("\n") + "\n\n" + "\n".join(new.values())
    return f"---\n{_with_fields(head, _split(fresh)[0])}---\n{body}", tuple(edited)


def choose(fresh: str, here: str | None, there: str | None, prefer: str | None = None) -> str | None:
    """Of the card beside a checkpoint and the one on the Hub, the one whose own text is kept; None where none is.

    Args:
        fresh: the card as it would be with no text of anybody's.
        here: the local one.
        there: the Hub's.
        prefer: `here` or `hub`, where both have text of their own.

    Raises:
        UsageError: both have, and not the same.
    """
    if here is None or there is None:
        return here if there is None else there
    if prefer is not None:
        return here if prefer == "here" else there
    if own_text(there) in (own_text(fresh), own_text(here)):
        return here
    if own_text(here) == own_text(fresh):
        return there
    raise UsageError(
        CARD, expected="text of your own in one card", got="two that differ, beside the checkpoint and on the Hub",
        remedy="Pass --card here or --card hub to choose which is kept, or make them one by hand.",
    )  # fmt: skip


def own_text(card: str) -> str:
    """What is left of a card without the sections that nobody edited.

    Example:
        >>> own_text(render("", {"a": "1"}) + "Mine.")
        '--- --- Mine.'
    """
    return " ".join(_SECTION.sub(lambda match: match[0] if _was_edited(match) else "", card).split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode("utf-8")).hexdigest()[:12]


def _was_edited(match: re.Match[str]) -> bool:
    return _digest(match[3]) != match[2]


def _split(card: str) -> tuple[str, str]:
    match = _HEAD.match(card)
    return ("", card) if match is None else (match[1] or "", card[match.end() :])


def _with_fields(head: str, fresh: str) -> str:
    """A head with the top-level fields of another that it lacks; its own lines stay as they are."""
    have = set(re.findall(r"^([\w-]+):", head, re.MULTILINE))
    fields = re.findall(r"^([\w-]+):(.*\n(?:[ \t-].*\n)*)", fresh, re.MULTILINE)
    return head + "".join(f"{name}:{text}" for name, text in fields if name not in have)
