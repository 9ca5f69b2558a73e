"""The lambda curve on real text: prose learned, measured, expanded; then code, at the same loss on code.

    python -m examples.forgetting [--out DIR] [--seeds 1] [--lambdas 1,10,100,1000] [--steps 300]

A model of 0.1M parameters learns the Python language reference for 400 steps, is expanded x1.5 in width and in depth
with its Fisher information, and learns the standard library's sources: without EWC for --steps, with it for twice as
many. Compared is where the loss on code is the one that no EWC ends with, within 2 %. Every finished run is a file in
--out; the same command goes on where it was stopped, and ends with a table and a plot. A lambda takes some 20 seconds
on two idle cores.
"""

import argparse
import json
import sys
from pathlib import Path

from tprog import TritterError

from examples.forgetting.report import plot, table
from tritter_jax.demo.forgetting import prepare_learner
from tritter_jax.demo.learner import Learner, Point
from tritter_jax.demo.ways import Way, weighed

STEPS, SAMPLES = 400, 1000
"""Steps on the old text, and rows that the Fisher information is measured on."""


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write a table and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/forgetting"), help="where runs and results go")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument(
        "--lambdas", type=lambda text: [float(word) for word in text.split(",")], default=[1, 10, 100, 1000]
    )
    parser.add_argument("--steps", type=int, default=300, help="steps on the new text without EWC")
    options = parser.parse_args(arguments)
    try:
        for seed in range(options.seeds):
            complete(options.out, seed, [0.0, *options.lambdas], options.steps)
    except TritterError as error:
        sys.exit(str(error))
    found = {
        seed: {strength: read(options.out, seed, strength, options.steps) for strength in (0.0, *options.lambdas)}
        for seed in range(options.seeds)
    }
    text = table(found)
    (options.out / "forgetting.md").write_text(text + "\n", encoding="utf-8")
    plot(found[0], options.out / "forgetting.png")
    print(f"\n{text}")


def complete(out: Path, seed: int, lambdas: list[float], steps: int) -> None:
    """Run what is not there yet."""
    learner: Learner | None = None
    for strength in lambdas:
        path = place(out, seed, strength, steps)
        if path.is_file():
            continue
        learner = learner or prepare_learner(
            out / f"seed-{seed}",
            seed=seed,
            steps=STEPS,
            samples=SAMPLES,
            progress=lambda stage: print(stage, flush=True),
        )
        way = Way(name=f"lambda {strength:g}", hold=weighed(strength))
        points = learner.learn(way, steps=2 * steps if strength else steps, every=max(1, steps // 10))
        # A file that is there is whole.
        temporary = path.with_suffix(".tmp")
        temporary.write_text(
            json.dumps({"lambda": strength, "seed": seed, "points": points}) + "\n", encoding="utf-8"
        )
        temporary.replace(path)
        print(f"seed {seed}, lambda {strength:g}: prose {points[-1].old:.3f}, code {points[-1].new:.3f}", flush=True)


def read(out: Path, seed: int, strength: float, steps: int) -> list[Point]:
    """The course of a finished run."""
    return [Point(*point) for point in json.loads(place(out, seed, strength, steps).read_text("utf-8"))["points"]]


def place(out: Path, seed: int, strength: float, steps: int) -> Path:
    """The file of a run."""
    return out / f"lambda-{strength:g}.steps-{steps}.seed-{seed}.json"


if __name__ == "__main__":
    main()
