"""The picture of a growth: for every axis the old entries above, the grown ones below, and who came from whom."""

from collections.abc import Iterator

from markupsafe import Markup

from tritter_jax.report.axes import AxisGrowth, Run
from tritter_jax.report.svg import WIDTHS, both, element, picture

_CELLS = 96
"""Axes of at most so many entries are drawn entry by entry, longer ones run by run."""
_BAR, _GAP, _TEXT = 20.0, 58.0, 16.0


def draw_axis(axis: AxisGrowth, number: int) -> Markup:
    """One axis, for both widths; `number` tells its patterns from those of others on the page."""
    return both([_draw(axis, width, f"{number}{name}") for name, width in WIDTHS.items()])


def _draw(axis: AxisGrowth, width: float, name: str) -> Markup:
    unit = width / axis.after
    top, bottom = _TEXT, _TEXT + _BAR + _GAP
    hatch = f"hatch{name}"
    parts = [
        element(
            "defs",
            element(
                "pattern",
                element("rect", width=6, height=6, class_="new") + element("path", d="M0 6L6 0", class_="stripe"),
                id=hatch, width=6, height=6, patternUnits="userSpaceOnUse",
            ),
        )
    ]  # fmt: skip
    pieces = list(_pieces(axis))
    for run in pieces:
        if run.source is not None:
            kind = "copied" if run.new else "kept"
            path = _ribbon(run.source * unit, run.start * unit, run.length * unit, top + _BAR, bottom)
            title = element("title", f"{axis.title} {run.places}: {run.origin}")
            parts.append(element("path", title, d=path, class_=f"ribbon {kind}"))
    cells = axis.after <= _CELLS
    old = range(axis.before) if cells else (0,)
    for place in old:
        length = unit if cells else axis.before * unit
        parts.append(_cell(place * unit, top, length, "old"))
    for run in pieces:
        fill = {"style": f"fill:url(#{hatch})"} if run.new else {}
        parts.append(_cell(run.start * unit, bottom, run.length * unit, "new" if run.new else "old", **fill))
    parts += _labels(axis.before, unit, _TEXT - 5, cells, [0], axis.before)
    starts = [run.start for run in axis.runs]
    parts += _labels(axis.after, unit, bottom + _BAR + 12, cells, starts, axis.after)
    return picture(parts, width, bottom + _BAR + _TEXT, axis.summary)


def _pieces(axis: AxisGrowth) -> Iterator[Run]:
    """What is drawn as one: an entry where there are few, a run where there are many."""
    if axis.after > _CELLS:
        yield from axis.runs
        return
    for run in axis.runs:
        for place in range(run.length):
            source = None if run.source is None else run.source + place
            yield Run(start=run.start + place, length=1, source=source, new=run.new)


def _cell(x: float, y: float, length: float, kind: str, **more: str) -> Markup:
    gap = min(1.5, length / 6)
    return element("rect", x=x + gap / 2, y=y, width=length - gap, height=_BAR, rx=2, class_=f"cell {kind}", **more)


def _ribbon(source: float, place: float, length: float, top: float, bottom: float) -> str:
    middle = (top + bottom) / 2
    ends = (source, source + length, place + length, place)
    a, b, c, d = (f"{end:.1f}" for end in ends)
    return (
        f"M{a} {top:g}C{a} {middle:g} {d} {middle:g} {d} {bottom:g}"
        f"L{c} {bottom:g}C{c} {middle:g} {b} {middle:g} {b} {top:g}Z"
    )


def _labels(count: int, unit: float, y: float, cells: bool, starts: list[int], end: int) -> Iterator[Markup]:
    """Indices: of single entries as many as there is room for, of runs where each begins."""
    if cells:
        every = next(step for step in (1, 2, 5, 10, 20, 50) if unit * step >= (15 if count < 100 else 24))
        for place in range(0, count, every):
            yield element("text", str(place), x=(place + 0.5) * unit, y=y, text_anchor="middle", class_="index")
        return
    free = 0.0
    for start in starts:
        if start * unit >= free and start * unit < end * unit - 90:
            yield element("text", f"{start:,}", x=start * unit + 1, y=y, class_="index")
            free = start * unit + 50
    yield element("text", f"{end - 1:,}", x=end * unit - 1, y=y, text_anchor="end", class_="index")
