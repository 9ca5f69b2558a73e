"""Learn prose, measure what it needs, expand, and learn code in several ways: what is left of the prose?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tprog import ModelConfig, config_to_json
from tprog.jsonio import write_json
from tprog.reader import open_checkpoint

from tritter_jax.continual.stored import stored_memory
from tritter_jax.data import byte_tokenizer, open_corpus, tokenize
from tritter_jax.demo.learner import Learner, Point
from tritter_jax.demo.ways import Known, ways
from tritter_jax.growth.record import stored_plan
from tritter_jax.train.config import RunConfig
from tritter_jax.train.setup import prepare
from tritter_jax.train.workflow import learn_and_expand

OLD, NEW = "builtin:prose", "builtin:code"
SMALL = ModelConfig(
    family="llama", hidden_size=48, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=12, intermediate_size=128,
    vocab_size=320, max_position_embeddings=128,
)  # fmt: skip
LARGE = replace(SMALL, hidden_size=72, num_layers=6, num_heads=6, num_kv_heads=3, intermediate_size=192)
STRENGTH, L2 = 100.0, 0.01
"""Lambdas: of EWC, and of L2, those that learn the new text about as well as no EWC does, or come nearest to it."""

Courses = Mapping[str, list[Point]]
"""The losses of every way, by its name."""


@dataclass(frozen=True)
class Forgetting:
    """What was left of the old text.

    Args:
        courses: the losses of every way.
        plot: the picture; None where matplotlib is not installed.
    """

    courses: Courses
    plot: Path | None

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        courses = {name: [point._asdict() for point in points] for name, points in self.courses.items()}
        return {
            "old": OLD,
            "new": NEW,
            "ways": courses,
            "plot": None if self.plot is None else str(self.plot),
        }


def compare_ways(
    directory: Path, *, plot: Path, seed: int, steps: int, progress: Callable[[str], None]
) -> Forgetting:
    """Learn one text, measure, expand, and learn another in every way.

    Args:
        directory: where runs and checkpoints are written.
        plot: the PNG to write.
        seed: seed of weights, data order and growth.
        steps: steps on the new text; four times as many on the old one.
        progress: told each stage's name as it begins.
    """
    learner = prepare_learner(directory, seed=seed, steps=4 * steps, samples=10 * steps, progress=progress)
    courses: dict[str, list[Point]] = {}
    for way in ways(STRENGTH, L2):
        progress(f"learning code: {way.name}")
        courses[way.name] = learner.learn(way, steps=steps, every=max(1, steps // 5))
    return Forgetting(courses, plot if plot_courses(courses, plot) else None)


def prepare_learner(
    directory: Path, *, seed: int, steps: int, samples: int, progress: Callable[[str], None]
) -> Learner:
    """A small model that has learned the old text, expanded with its Fisher information.

    What an earlier call has finished in the directory is not done again.

    Args:
        directory: where runs and checkpoints are written.
        seed: seed of weights, data order and growth.
        steps: steps on the old text.
        samples: rows that the Fisher information is measured on.
        progress: told each stage's name as it begins.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "model.json", config_to_json(SMALL))
    settings = {
        "data": {"sequence_length": 64, "batch_size": 8, "seed": seed},
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.0},
        "schedule": {"name": "constant", "warmup": min(20, steps)},
        "training": {"steps": steps, "seed": seed},
        "output": {"log_interval": max(1, steps // 10), "eval_interval": 0, "checkpoint_interval": 0},
    }
    first = RunConfig.parse(
        settings, [f"data.train={OLD}"],
        {"model": {"config": str(directory / "model.json")}, "output": {"directory": str(directory / "old")}},
    )  # fmt: skip
    _, measured, expanded = learn_and_expand(
        first, LARGE, directory, fisher={"samples": samples, "seed": seed}, growth={"seed": seed}, progress=progress
    )
    # A way brings its own lambda.
    second = RunConfig.parse(
        settings, [f"data.train={NEW}", "ewc.lambda=1", "ewc.form=proximal"], {"model": {"checkpoint": str(expanded)}}
    )
    checkpoint = open_checkpoint(expanded)
    plan = stored_plan(checkpoint.progressive.expansion_history[-1].plan or {}, open_checkpoint(measured).config)
    known = Known(memory=stored_memory(checkpoint), plan=plan)
    return Learner(prepare(second), known, tokenize(open_corpus(OLD), byte_tokenizer()))


def plot_courses(courses: Courses, path: Path) -> bool:
    """Draw the old text's loss against the new one's, a line a way; false where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(courses.items()):
        axes.plot(
            [point.new for point in points], [point.old for point in points], ".-", color=f"C{number}", linewidth=1
        )
        axes.plot(points[-1].new, points[-1].old, "o", color=f"C{number}", label=name)
    first = next(iter(courses.values()))[0]
    axes.plot(first.new, first.old, "k*", markersize=12, label="before")
    axes.invert_xaxis()
    axes.set(
        xlabel="held-out loss on code (nats a token): learned more to the right",
        ylabel="held-out loss on prose (nats a token): kept more below",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
    return True
