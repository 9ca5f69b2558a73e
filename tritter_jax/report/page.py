"""The page: facts through a template, everything in one file."""

import os
import secrets
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from tprog import UsageError, count_parameters, size_label
from tprog.disk import told_plainly
from tprog.printable import LONGEST_MESSAGE, printable

from tritter_jax import __version__
from tritter_jax.analysis.reason import amount
from tritter_jax.report.axes import grown_axes
from tritter_jax.report.facts import Facts
from tritter_jax.report.growth_picture import draw_axis
from tritter_jax.report.loss_picture import draw_losses

_PACKAGE = "tritter_jax.report"
GENERATOR = "tritter report"
"""Told in the page, by which a file is known to be one that may be replaced."""


def render(facts: Facts) -> str:
    """The page as HTML."""
    number = iter(range(10_000))
    pictures = [
        [(axis, draw_axis(axis, next(number))) for axis in grown_axes(growth.plan)] if growth.plan else []
        for growth in facts.growths
    ]
    return _template().render(
        facts=facts,
        size=size_label(facts.config),
        parameters=count_parameters(facts.config),
        growths=list(zip(facts.growths, pictures, strict=True)),
        losses=None if facts.curves is None else draw_losses(facts.curves),
        layers=_layers(facts),
        fisher=_fisher(facts),
        matrix=facts.matrix,
        style=Markup(files(_PACKAGE).joinpath("page.css").read_text(encoding="utf-8")),
        generator=GENERATOR,
        version=__version__,
    )


def write_report(facts: Facts, path: Path) -> Path:
    """Write the page; an earlier report is replaced, any other file is left alone.

    Raises:
        UsageError: there is another file, or it cannot be written.
    """
    if path.exists() and f'content="{GENERATOR}' not in path.read_bytes()[:4096].decode("utf-8", "replace"):
        raise UsageError(
            path, expected="a new file, or an earlier report", got="another file", remedy="Choose another path."
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with told_plainly(path):
        try:
            temporary.write_text(render(facts), encoding="utf-8")
            os.replace(temporary, path)  # noqa: PTH105 - the same, and follows no link at the destination
        finally:
            temporary.unlink(missing_ok=True)
    return path


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE, package_path="."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount}
    return environment.get_template("page.html.j2")


def _shown(value: object) -> object:
    """What stands in the page for a value: a text of the checkpoint is shown as it is; what we drew is HTML."""
    return printable(value, LONGEST_MESSAGE) if isinstance(value, str) and not isinstance(value, Markup) else value


def _layers(facts: Facts) -> list[dict[str, Any]]:
    """A row a layer for the table of importance."""
    found = facts.analysis
    if found is None or found.importance_scores is None:
        return []
    scores = found.importance_scores
    most = max(*scores, 1e-12)
    marks = dict.fromkeys(found.expendable_layers or [], "expendable")
    marks |= dict.fromkeys(found.critical_layers or [], "critical")
    without, loss = found.loss_when_skipped or [], found.loss

    def one(values: list[float] | None, layer: int) -> float | None:
        return values[layer] if values is not None and layer < len(values) else None

    return [
        {
            "layer": layer,
            "score": score,
            "share": max(0.0, min(1.0, score / most)),
            "mark": marks.get(layer, ""),
            "more": without[layer] - loss if loss is not None and layer < len(without) else None,
            "influence": one(found.block_influence, layer),
            "norm": one(found.residual_norms, layer),
        }
        for layer, score in enumerate(scores)
    ]


def _fisher(facts: Facts) -> dict[str, Any] | None:
    """Blocks, and a row a layer with the share of each block in the largest layer's mass."""
    if not facts.fisher:
        return None
    blocks = sorted(facts.fisher, key=lambda block: -sum(facts.fisher[block]) if facts.fisher else 0.0)
    columns = list(zip(*(facts.fisher[block] for block in blocks), strict=True))
    most = max(max(map(sum, columns)), 1e-300)
    rows = [
        {"layer": layer, "total": sum(column), "shares": [value / most for value in column]}
        for layer, column in enumerate(columns)
    ]
    return {"blocks": blocks, "rows": rows}
