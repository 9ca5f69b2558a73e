"""What comes from outside (names, texts and numbers of files, paths, answers), made fit to be shown to a person.

The one place that does it. Control characters move a terminal's cursor, retitle its window or type for its user;
line separators forge lines of a log; bidirectional overrides show a name backwards; a name may be a megabyte long.
"""

import re
from collections.abc import Sequence

LONGEST = 300
"""Most characters that are shown of one text from outside."""
LONGEST_MESSAGE = 2_000
"""Most characters of what we say ourselves, which lists names of our own."""

# Control characters, line and paragraph separators, bidirectional marks, overrides and isolates, surrogates without
# their other half, invisible annotations and tags. Joiners stay: Persian is not written without them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_CONTROLS = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
_MARKDOWN = re.compile(r"[\\`*\[\]~]")


def printable(value: object, most: int = LONGEST) -> str:
    r"""A text as one line that shows every character in it; a long one is shortened in its middle.

    Args:
        value: anything; `str` of it is shown.
        most: most characters of the result.

    Example:
        >>> print(printable("a\x07\nb"), printable("layer" * 100, most=16))
        a\x07\nb layerlaye...ayer
    """
    text = value if isinstance(value, str) else str(value)
    return _shortened(_UNSAFE.sub(_escaped, _shortened(text, most)), most)


def escape_controls(text: str) -> str:
    r"""A text of any length whose lines and tabs stay: what a model writes, a log, a whole paragraph.

    Example:
        >>> print(escape_controls("one\r\ntwo\x07"))
        one
        two\x07
    """
    return text if text.isprintable() else _CONTROLS.sub(_escaped, text.replace("\r\n", "\n"))


def cut(lines: Sequence[str], most: int, more: int = 0) -> list[str]:
    """The first of many lines; where there are others, one more line counts them.

    Args:
        lines: all of them, or the first.
        most: how many are kept.
        more: how many there are beside `lines`.

    Example:
        >>> cut(["a", "b", "c"], 2), cut(["a"], 2)
        (['a', 'b', 'and 1 more'], ['a'])
    """
    left = max(0, len(lines) - most) + more
    return [*lines[:most], f"and {left:,} more"] if left else list(lines)


def markdown(value: object) -> str:
    r"""A text as Markdown that shows it as it is: no markup, no link, no HTML and no comment.

    Example:
        >>> print(markdown("*a* <!-- b -->"))
        \*a\* &lt;!-- b --&gt;
    """
    text = printable(value, LONGEST_MESSAGE).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    tail = (most - 3) // 3
    return f"{text[: most - 3 - tail]}...{text[len(text) - tail :]}"
