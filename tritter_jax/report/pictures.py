"""The pictures of a checkpoint's model card: what its layers are worth, and how its loss fell."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tprog.disk import told_plainly
from tprog.layout import PLOTS
from tprog.reader import Checkpoint

from tritter_jax.analysis.importance import LayerMeasures
from tritter_jax.analysis.plot import plot_layers
from tritter_jax.train.metrics import plot_loss

LAYERS, LOSS = "tritter-layers.png", "tritter-loss.png"


def draw_pictures(checkpoint: Checkpoint, metrics: Sequence[Mapping[str, Any]] = ()) -> list[Path]:
    """Draw into a checkpoint's folder of pictures what is known of it.

    Nothing is drawn where matplotlib is missing, or in a checkpoint that may be read only.

    Args:
        checkpoint: the one whose layers are drawn, where an analysis of them is stored.
        metrics: lines of a run's metrics.jsonl, for the loss.

    Returns:
        The files that were written.

    Raises:
        UsageError: the disk is full, or something else is in the way.
    """
    drawn: list[Path] = []
    folder = checkpoint.path / PLOTS
    if not os.access(checkpoint.path, os.W_OK):
        return drawn
    with told_plainly(folder):
        there = folder.is_dir()
        folder.mkdir(exist_ok=True)
        if _draw_layers(checkpoint, folder / LAYERS):
            drawn.append(folder / LAYERS)
        if metrics and plot_loss({"": [dict(line) for line in metrics]}, folder / LOSS):
            drawn.append(folder / LOSS)
        if not (there or drawn):
            folder.rmdir()
    return drawn


def _draw_layers(checkpoint: Checkpoint, path: Path) -> bool:
    """Draw a stored analysis; false where there is none of the whole of this model, or no matplotlib."""
    known, layers = checkpoint.progressive.layer_analysis, checkpoint.config.num_layers
    if known is None or known.loss is None:
        return False
    without, influence, norms = known.loss_when_skipped, known.block_influence, known.residual_norms
    if not (without and influence and norms) or {len(without), len(influence), len(norms) - 1} != {layers}:
        return False
    measures = LayerMeasures(
        tokens=known.tokens or 0,
        loss=known.loss,
        loss_when_skipped=tuple(without),
        block_influence=tuple(influence),
        residual_norms=tuple(norms),
    )
    fisher = known.fisher_mass if known.fisher_mass and len(known.fisher_mass) == layers else None
    title = "layers" if known.data is None else f"layers, measured on {known.data}"
    return plot_layers(
        measures, known.expendable_layers or (), known.critical_layers or (), path, fisher=fisher, title=title
    )
