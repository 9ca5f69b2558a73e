"""Pictures of an analysis, where matplotlib is installed."""

from collections.abc import Sequence
from pathlib import Path

from tritter_jax.analysis.importance import LayerMeasures

EXPENDABLE, CRITICAL, OTHER = "#c98500", "#7a3fb0", "#3d78b5"
"""Colours of bars, also told apart by hatching."""


def plot_layers(
    measures: LayerMeasures,
    expendable: Sequence[int],
    critical: Sequence[int],
    path: Path,
    *,
    fisher: Sequence[float] | None = None,
    title: str = "",
) -> bool:
    """Draw importance, block influence, residual norm and Fisher mass by layer; false where matplotlib is missing.

    Args:
        measures: what was measured.
        expendable: the layers that matter least.
        critical: the layers that matter most.
        path: the PNG to write.
        fisher: Fisher mass by layer, where it is stored.
        title: what stands above the picture.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        return False
    layers = list(range(len(measures.loss_when_skipped)))
    extra = [without - measures.loss for without in measures.loss_when_skipped]
    rows = [
        ("loss without it,\nnats a token more", layers, extra),
        ("block influence", layers, measures.block_influence),
        ("residual stream,\nroot mean square", [*layers, len(layers)], measures.residual_norms),
        *([("Fisher mass", layers, fisher)] if fisher is not None else []),
    ]
    figure = Figure(figsize=(8, 1.9 * len(rows) + 0.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), sharex=True)
    marks = {**dict.fromkeys(expendable, (EXPENDABLE, "//")), **dict.fromkeys(critical, (CRITICAL, ".."))}
    for panel, (label, places, values) in zip(panels, rows, strict=True):
        if len(values) > len(layers):
            panel.plot(places, values, "o-", color=OTHER, markersize=3, linewidth=1.2)
            panel.set_ylim(bottom=0)
        else:
            for place, value in zip(places, values, strict=True):
                color, hatch = marks.get(place, (OTHER, ""))
                panel.bar(place, value, color=color, hatch=hatch, edgecolor="white", linewidth=0.5)
        panel.set_ylabel(label, fontsize=8)
        panel.grid(axis="y", alpha=0.3)
    legend = [("expendable", EXPENDABLE, "//"), ("critical", CRITICAL, "..")]
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=name) for name, c, h in legend]
    panels[0].legend(handles=handles, fontsize=8)
    panels[0].set_title(title, fontsize=10)
    panels[-1].set_xlabel("layer")
    figure.savefig(path)
    return True
