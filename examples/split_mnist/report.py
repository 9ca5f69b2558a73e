"""Results on disk, one line a run; the table and the plot that they make."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PUBLISHED = {"none": "85.41 ± 0.88", **dict.fromkeys(("sampled", "empirical"), "99.12 ± 0.12")} | {
    "exact": "99.12 ± 0.16",
    "batched": "99.11 ± 0.16",
}
"""van de Ven 2025, 30 seeds, each at its best lambda."""


class Result(NamedTuple):
    """One run: its row, lambda and seed, what else it depends on, and the accuracy on each task."""

    row: str
    strength: float
    seed: int
    setting: str
    accuracies: list[float]
    seconds: float

    @property
    def mean(self) -> float:
        """Mean accuracy over tasks, in per cent."""
        return 100 * sum(self.accuracies) / len(self.accuracies)


def read(file: Path) -> list[Result]:
    """All results of a file; none where there is no file."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return [Result(**json.loads(line)) for line in lines]


def append(file: Path, result: Result) -> None:
    """Add a result; a run that is stopped later does not lose it."""
    with file.open("a") as out:
        out.write(json.dumps(result._asdict()) + "\n")


def cells(results: list[Result]) -> dict[str, dict[float, np.ndarray]]:
    """Mean accuracies of all seeds, by row and lambda."""
    grouped: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in sorted(results, key=lambda result: result.strength):
        grouped[result.row][result.strength].append(result.mean)
    return {row: {at: np.array(values) for at, values in by.items()} for row, by in grouped.items()}


def table(results: list[Result]) -> str:
    """Markdown: the rows, each at every lambda and at its best."""
    found = cells(results)
    grid = sorted({at for row, by in found.items() if row != "none" for at in by})
    names = [f"{at:.0e}".replace("e+0", "e").replace("e+", "e") for at in grid]
    lines = [
        " | ".join(["| Fisher information", *(f"λ = {name}" for name in names), "best", "published, best λ |"]),
        "|" + "---|" * (len(grid) + 3),
    ]
    for row, by in found.items():
        best = max(by.values(), key=np.mean)
        middle = [said(by[at]) if at in by else "" for at in grid]
        lines.append(" | ".join([f"| {row}", *middle, said(best), f"{PUBLISHED[row]} |"]))
    return "\n".join(lines)


def said(values: np.ndarray) -> str:
    """Mean and standard error, and the number of seeds."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.2f} ± {error:.2f} ({len(values)})"


def plot(results: list[Result], file: Path) -> None:
    """Accuracy against lambda, a curve a row with its standard errors."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    style: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 3, "linewidth": 1.5}
    for row, by in cells(results).items():
        means = [float(np.mean(values)) for values in by.values()]
        errors = [
            float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0 for values in by.values()
        ]
        if row == "none":
            axes.axhline(means[0], color="grey", linestyle="--", label="none")
            axes.axhspan(means[0] - errors[0], means[0] + errors[0], color="grey", alpha=0.2, linewidth=0)
        else:
            axes.errorbar(list(by), means, errors, label=row, **style)
    axes.set(
        xscale="log", xlabel="λ", ylabel="mean test accuracy of 5 tasks (%)", title="Split MNIST, task-incremental"
    )
    axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)
