"""The picture of a loss by tokens, with the growths on its way."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tritter_jax.analysis.reason import amount
from tritter_jax.report.svg import WIDTHS, both, element, picture, ticks

_MOST = 240
"""Points drawn of one curve; more cannot be told apart."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 38.0, 10.0, 40.0, 38.0

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LossCurves:
    """Losses by tokens seen, and the growths between.

    Args:
        training: mean losses of a few steps each.
        held_out: losses on held-out text.
        growths: tokens seen when the model was grown, and what it was grown to.
    """

    training: Points
    held_out: Points
    growths: tuple[tuple[float, str], ...]


def draw_losses(curves: LossCurves) -> Markup:
    """The picture, for both widths."""
    return both([_draw(curves, width, 0.5 * width if width > 500 else 0.75 * width) for width in WIDTHS.values()])


def _draw(curves: LossCurves, width: float, height: float) -> Markup:
    every = [*curves.training, *curves.held_out]
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    low, high = _range([y for _, y in every])
    wide, tall = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + wide * (value - left) / max(right - left, 1e-12)

    def y_of(value: float) -> float:
        return _TOP + tall * (high - value) / max(high - low, 1e-12)

    parts = []
    for value in ticks(low, high, 5):
        parts.append(element("path", d=f"M{_LEFT:g} {y_of(value):.1f}H{width - _RIGHT:g}", class_="grid"))
        parts.append(element("text", f"{value:g}", x=_LEFT - 6, y=y_of(value) + 4, text_anchor="end", class_="tick"))
    for value in ticks(left, right, 5 if width > 500 else 3):
        parts.append(element("text", amount(value) if value else "0", x=x_of(value), y=height - _BOTTOM + 16,
                             text_anchor="middle", class_="tick"))  # fmt: skip
    parts.append(
        element("text", "tokens seen", x=_LEFT + wide / 2, y=height - 4, text_anchor="middle", class_="tick")
    )
    for number, (value, label) in enumerate(curves.growths):
        if left <= value <= right:
            at, late = x_of(value), x_of(value) > _LEFT + wide / 2
            above = _TOP - 10 - 14 * (number % 2)  # neighbours' labels do not meet
            parts.append(element("path", d=f"M{at:.1f} {above + 4:g}V{height - _BOTTOM:g}", class_="growth"))
            parts.append(element("text", label, x=at, y=above, text_anchor="end" if late else "start",
                                 class_="growth-label"))  # fmt: skip
    for points, kind in ((curves.training, "training"), (curves.held_out, "held-out")):
        places = [(x_of(x), y_of(y)) for x, y in thinned(points) if y <= high]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(element("polyline", points=line, class_=f"line {kind}"))
        if kind == "held-out" and len(places) <= 40:
            parts += [element("circle", cx=x, cy=y, r=3, class_="dot") for x, y in places]
    return picture(parts, width, height, _summary(curves))


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MOST` points: means over stretches of equal number, and the last one as it is.

    Example:
        >>> len(thinned([(float(x), 1.0) for x in range(10_000)])) <= 241
        True
    """
    if len(points) <= _MOST:
        return list(points)
    size = -(-len(points) // _MOST)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means, points[-1]]


def _range(values: list[float]) -> tuple[float, float]:
    """From the lowest loss to all but the highest twentieth, so that a first loss does not flatten the rest."""
    ordered = sorted(values)
    low, high, most = ordered[0], ordered[int(0.95 * (len(ordered) - 1))], ordered[-1]
    high = most if most - low < 2.5 * (high - low) else high
    room = 0.06 * (high - low) or 0.1
    return low - room, high + room


def _summary(curves: LossCurves) -> str:
    points = curves.held_out or curves.training
    kind = "held-out" if curves.held_out else "training"
    text = f"The {kind} loss goes from {points[0][1]:.3f} at {amount(points[0][0])} tokens to {points[-1][1]:.3f} at "
    text += f"{amount(points[-1][0])}"
    for value, label in curves.growths:
        text += f"; grown ({label}) at {amount(value)}"
    return text
