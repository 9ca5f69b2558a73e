"""Table and plot of the lambda curve."""

import statistics
from collections.abc import Mapping
from pathlib import Path

from tritter_jax.demo.forgetting import plot_courses
from tritter_jax.demo.learner import Point

Curve = Mapping[float, list[Point]]
"""The course of every lambda; 0 is no EWC."""
WITHIN = 0.02


def alike(course: list[Point], target: float) -> Point | None:
    """The mean of a course where its loss on the new text is `target` within 2 %, with the first step there.

    A mean, because both losses swing by some hundredths from one scoring to the next. None where it is nowhere so.

    Example:
        >>> alike([Point(0, 2.0, 2.3), Point(10, 2.1, 2.03), Point(20, 2.3, 1.97)], 2.0)
        Point(step=10, old=2.2, new=2.0)
    """
    there = [point for point in course if abs(point.new - target) <= WITHIN * target]
    if not there:
        return None
    return Point(there[0].step, statistics.mean(each.old for each in there), statistics.mean(e.new for e in there))


def table(found: Mapping[int, Curve]) -> str:
    """Markdown, a line a lambda; means over seeds."""
    lines = [
        "| lambda | steps | loss on code | prose before | prose after | of what no EWC forgets |",
        "|---|---|---|---|---|---|",
    ]
    for strength in next(iter(found.values())):
        name = "no EWC" if strength == 0 else f"{strength:g}"
        rows = []
        for curve in found.values():
            before, target = curve[0.0][0].old, curve[0.0][-1].new
            free, at = alike(curve[0.0], target), alike(curve[strength], target)
            if free is not None and at is not None:
                rows.append((at.step, at.new, before, at.old, (at.old - before) / (free.old - before)))
        if len(rows) < len(found):
            lowest = statistics.mean(min(point.new for point in curve[strength]) for curve in found.values())
            lines.append(f"| {name} | never within 2 % | {lowest:.3f} at best | | | |")
            continue
        steps, new, before, after, share = (statistics.mean(column) for column in zip(*rows, strict=True))
        lines.append(f"| {name} | {steps:.0f} | {new:.3f} | {before:.3f} | {after:.3f} | {share:.0%} |")
    return "\n".join(lines)


def plot(curve: Curve, path: Path) -> None:
    """The courses of one seed."""
    names = {strength: "no EWC" if strength == 0 else f"lambda {strength:g}" for strength in curve}
    plot_courses({names[strength]: points for strength, points in curve.items()}, path)
