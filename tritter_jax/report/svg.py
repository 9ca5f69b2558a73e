"""Inline SVG, written by hand: shapes, text and ticks. Colours are classes of the page's style sheet."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape
from tprog.printable import escape_controls, printable

WIDTHS = {"wide": 720, "narrow": 344}
"""Widths that each picture is drawn for: the page shows one of them, so that text keeps its size."""


def element(name: str, content: str = "", /, **attributes: object) -> Markup:
    """One element; attributes by name, `class_` and the like without the underscore, and `_` in a name as `-`.

    Example:
        >>> element("text", "a < b", x=1.25, text_anchor="end", class_="tick")
        Markup('<text x="1.25" text-anchor="end" class="tick">a &lt; b</text>')
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(escape_controls(_short(value)))}"'
        for key, value in attributes.items()
    )
    inside = content if isinstance(content, Markup) else printable(content)
    return Markup(f"<{name}{written}>{escape(inside)}</{name}>")


def picture(parts: Sequence[Markup], width: float, height: float, label: str) -> Markup:
    """A whole picture, as wide as its place and described for those who do not see it."""
    view = f"0 0 {_short(width)} {_short(height)}"
    return element("svg", Markup("").join(parts), viewBox=view, role="img", aria_label=label)


def both(draw: "Sequence[Markup]") -> Markup:
    """The same picture for both widths, of which the page shows one."""
    return Markup("").join(
        element("div", drawn, class_=f"picture {name}") for name, drawn in zip(WIDTHS, draw, strict=True)
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them.

    Example:
        >>> ticks(1.83, 4.1, 5)
        [2.0, 2.5, 3.0, 3.5, 4.0]
        >>> ticks(0, 204_800, 3)
        [0.0, 100000.0, 200000.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
