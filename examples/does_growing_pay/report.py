"""Tables and plots of finished runs."""

import statistics
from pathlib import Path

from examples.does_growing_pay.results import Results, read
from examples.does_growing_pay.settings import Settings
from examples.does_growing_pay.variants import COMPARISONS, SCRATCH


def write_report(directory: Path, name: str, settings: Settings) -> Path:
    """Write a comparison's table and plot beside its results.

    Args:
        directory: where the results are.
        name: a key of `COMPARISONS`.
        settings: those of the results.

    Returns:
        The Markdown file; the plot lies beside it, as a PNG of the same name.
    """
    results = read(directory, COMPARISONS[name], settings)
    path = directory / f"{name}.md"
    _plot(results, path.with_suffix(".png"), name)
    path.write_text(table(results) + "\n", encoding="utf-8")
    return path


def table(results: Results) -> str:
    """Markdown: a line a variant, best first; losses in nats a byte."""
    losses = {name: [run["loss"] for run in runs] for name, runs in results.items()}
    scratch = statistics.mean(losses[SCRATCH.name]) if SCRATCH.name in losses else None
    lines = [
        "| variant | held-out loss | seeds | against from scratch | loss before and after growing | FLOPs |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(losses, key=lambda name: statistics.mean(losses[name])):
        growth = [run["growth"] for run in results[name] if run["growth"]]
        moved = "" if not growth else f"{_mean(growth, 'before'):.4f} -> {_mean(growth, 'after'):.4f}"
        apart = "" if scratch is None else f"{statistics.mean(losses[name]) - scratch:+.4f}"
        cells = (name, spread(losses[name]), len(losses[name]), apart, moved, f"{_mean(results[name], 'flops'):.3e}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds.

    Example:
        >>> spread([1.0, 2.0]), spread([1.0])
        ('1.5000 ± 0.7071', '1.0000')
    """
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def _mean(records: list[dict], field: str) -> float:
    return statistics.mean(record[field] for record in records)


def _plot(results: Results, file: Path, name: str) -> None:
    """Held-out loss by FLOPs from the last third on: the seeds' mean, and from the least to the most of them."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(9, 7), layout="constrained")
    colours = plt.get_cmap("tab10").colors  # pyright: ignore[reportAttributeAccessIssue]
    others = [variant for variant in results if variant != SCRATCH.name]
    for variant, runs in results.items():
        flops, losses = np.array([list(zip(*run["curve"], strict=True)) for run in runs]).transpose(1, 0, 2)
        number = others.index(variant) if variant in others else None
        style = {"color": "black", "linewidth": 2.2}
        if number is not None:
            turns, colour = divmod(number, len(colours))
            style = {"color": colours[colour], "linewidth": 1.4, "linestyle": ("-", "--", ":")[turns]}
        axes.plot(flops.mean(0), losses.mean(0), label=variant, **style)
        axes.fill_between(flops.mean(0), losses.min(0), losses.max(0), color=style["color"], alpha=0.08, linewidth=0)
    shown = [loss for runs in results.values() for run in runs for _, loss in run["curve"][len(run["curve"]) // 3 :]]
    axes.set(xlabel="FLOPs", ylabel="held-out loss, nats a byte", title=f"Does growing pay? ({name})")
    axes.set_ylim(min(shown) - 0.03, max(shown))
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    figure.savefig(file, dpi=100)
    plt.close(figure)
