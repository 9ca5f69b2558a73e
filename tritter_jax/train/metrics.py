"""What a run writes down: metrics.jsonl, TensorBoard events where tensorboardX is there, a plot of the loss."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends a line of JSON for each set of numbers, and the same to TensorBoard.

    Args:
        directory: the run's directory; None writes nothing, as all processes but one do.
        since: lines of this step and later are dropped first, since a resumed run writes them again.
    """

    def __init__(self, directory: Path | None, *, since: int = 0) -> None:
        self._file, self._board = None, None
        if directory is None:
            return
        path = directory / METRICS
        kept = [line for line in read_metrics(directory) if line["step"] <= since]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(directory, since)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers that belong to a step; JSON has none that are not finite, so those are left out."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def _tensorboard(directory: Path, since: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory), purge_step=since + 1)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, up to one that a killed run left unfinished or that no run has written."""
    path = directory / METRICS
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines


def plot_loss(
    curves: Mapping[str, list[dict[str, Any]]], path: Path, *, mark: Mapping[str, int] | None = None
) -> bool:
    """Draw training and held-out loss against the step; false where matplotlib is not installed.

    Args:
        curves: the lines of `read_metrics` by the name of the run.
        path: the PNG to write.
        mark: steps to mark with a vertical line, by what happened there.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, lines) in enumerate(curves.items()):
        color = f"C{number}"
        for field, style, label in (("loss", "-", "training"), ("held_out_loss", "o--", "held out")):
            points = [(line["step"], line[field]) for line in lines if field in line]
            if points:
                title = f"{name}, {label}" if len(curves) > 1 else label
                axes.plot(*zip(*points, strict=True), style, color=color, label=title, markersize=4, linewidth=1.2)
    for label, step in (mark or {}).items():
        axes.axvline(step, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(label, (step, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=8)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
    return True
