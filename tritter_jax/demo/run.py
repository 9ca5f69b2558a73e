"""The whole job on a small model: train, grow in mid-run with the optimizer's state, go on training, compare."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tprog import ModelConfig, UsageError, config_to_json
from tprog.disk import told_plainly
from tprog.jsonio import write_json
from tprog.layout import CheckpointName
from tprog.reader import open_checkpoint

from tritter_jax.demo.compare import Row, compare
from tritter_jax.demo.forgetting import Forgetting, compare_ways
from tritter_jax.growth import Plan, describe
from tritter_jax.growth.expand import expand
from tritter_jax.train.config import RunConfig
from tritter_jax.train.exchange import export_run
from tritter_jax.train.loop import Finished, Report, train
from tritter_jax.train.metrics import plot_loss, read_metrics
from tritter_jax.train.resume import SETTINGS
from tritter_jax.train.setup import prepare

SOURCE = ModelConfig(
    family="llama",
    hidden_size=160,
    num_layers=6,
    num_heads=20,
    num_kv_heads=4,
    intermediate_size=432,
    vocab_size=384,
    max_position_embeddings=256,
)
"""The head pattern and the hidden ratio of the 3B size, a sixteenth as wide."""

TARGET = replace(SOURCE, hidden_size=256, num_layers=8, num_heads=32, num_kv_heads=8, intermediate_size=688)
"""The head pattern of the 7B size, 1.6 times as wide."""


Curve = list[dict[str, Any]]
"""The lines of a run's metrics."""


@dataclass(frozen=True)
class Outcome:
    """What the demonstration found.

    Args:
        plan: the growth.
        rows: comparisons of the grown model with its source at the moment of growing.
        notes: what could not be compared, and why.
        small: metrics of the run that was not expanded.
        grown: metrics of the expanded run, from the first step of the small one.
        plot: the picture of both; None where matplotlib is not installed.
        forgetting: what several ways to learn another text leave of the first.
    """

    plan: Plan
    rows: list[Row]
    notes: list[str]
    small: Curve
    grown: Curve
    plot: Path | None
    forgetting: Forgetting

    def as_json(self) -> dict[str, Any]:
        """The outcome for a program."""
        rows = [asdict(row) | {"holds": row.holds} for row in self.rows]
        return {
            "plan": describe(self.plan),
            "comparisons": rows,
            "notes": self.notes,
            "unexpanded": self.small,
            "expanded": self.grown,
            "plot": None if self.plot is None else str(self.plot),
            "forgetting": self.forgetting.as_json(),
        }


def run_demo(directory: Path, *, plot: Path, seed: int, steps: int, progress: Callable[[str], None]) -> Outcome:
    """Train a small model, grow it in mid-run, and go on with both; then learn another text without forgetting.

    The grown run goes on exactly where the small one was: same optimizer state, schedule, key and place in the data.

    Args:
        directory: where runs and checkpoints are written; must be new or empty.
        plot: the PNG to write; one named `-forgetting` beside it.
        seed: seed of weights, data order and growth.
        steps: steps before the growth, and again after it.
        progress: told each stage's name as it begins.

    Raises:
        UsageError: there is something in the directory, or it cannot be written.
    """
    with told_plainly(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(
                directory, expected="a new or empty directory", got="something in it", remedy="Choose another one."
            )
    small, grown = directory / "small", directory / "expanded"
    write_json(directory / "small.json", config_to_json(SOURCE))
    settings = _settings(directory / "small.json", small, seed=seed, steps=steps)
    before = _train(settings, "training a small model on the Python language reference", progress)

    large = directory / str(CheckpointName(model="demo", size="large", step=steps))
    done = expand(before.checkpoint, large, TARGET, seed=seed, progress=progress)
    progress("comparing the grown model with its source")
    rows, notes = compare(before.checkpoint, large, done.plan, seed)

    export_run(open_checkpoint(large), grown)
    longer = [f"training.steps={2 * steps}"]
    expanded = RunConfig.load(grown / SETTINGS, longer)
    _train(expanded, "training the grown model", progress)
    unexpanded = RunConfig.load(small / SETTINGS, longer)
    _train(unexpanded, "training the small model on, without growing", progress)

    until = [line for line in read_metrics(small) if line["step"] <= steps]
    curves = {"not expanded": read_metrics(small), "expanded": until + read_metrics(grown)}
    drawn = plot_loss(curves, plot, mark={"expanded": steps})
    beside = plot.with_name(f"{plot.stem}-forgetting{plot.suffix}")
    kept = compare_ways(directory / "forgetting", plot=beside, seed=seed, steps=steps, progress=progress)
    return Outcome(done.plan, rows, notes, curves["not expanded"], curves["expanded"], plot if drawn else None, kept)


def _settings(model: Path, directory: Path, *, seed: int, steps: int) -> RunConfig:
    every = max(1, steps // 4)
    return RunConfig.parse(
        {
            "model": {"config": str(model), "name": "demo", "vocab_size": SOURCE.vocab_size},
            "data": {"sequence_length": 128, "batch_size": 8, "seed": seed},
            "optimizer": {"learning_rate": 3e-3},
            "schedule": {"name": "constant", "warmup": min(20, steps)},
            "training": {"steps": steps, "seed": seed},
            "output": {
                "directory": str(directory),
                "log_interval": max(1, steps // 20),
                "eval_interval": every,
                "eval_batches": 8,
                "checkpoint_interval": 0,
            },
        }
    )


def _train(settings: RunConfig, title: str, progress: Callable[[str], None]) -> Finished:
    progress(title)
    last, every = settings.training.steps, settings.output.eval_interval

    def report(at: Report) -> None:
        if at.step % every == 0 and at.step != last:
            progress(f"{title}, step {at.step} of {last}, loss {at.loss:.3f}")

    return train(prepare(settings), report=report)
