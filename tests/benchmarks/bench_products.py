"""The matrix products of a training step alone, in XLA and in torch: what bounds `bench_train` on a processor.

    python -m tests.benchmarks.bench_products [--rounds 5] [--rows 2048] [--cores 2]

Float32, the sides of the weights as in the 10M model of `bench_train`, its batch of tokens. Each framework has a
process of its own; the best round of each product counts.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.rows import SKIPPED, missing

Product = Callable[[Any, Any, Any], Any]

PRODUCTS: dict[str, Product] = {
    "x @ w, forward": lambda x, w, y: x @ w,
    "y @ w.T, to the input": lambda x, w, y: y @ w.T,
    "x.T @ y, to the weights": lambda x, w, y: x.T @ y,
}
SIDES = ((256, 1024), (1024, 256), (256, 256))
CALLS = 20


def in_xla(product: Product, arrays: list[np.ndarray], _: int) -> Callable[[], Any]:
    import jax

    from tritter_jax.train.processors import product_options

    placed = [jax.device_put(array) for array in arrays]
    jitted = jax.jit(product, compiler_options=product_options("cpu"))
    return lambda: jitted(*placed).block_until_ready()


def in_torch(product: Product, arrays: list[np.ndarray], cores: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(cores)
    tensors = [torch.from_numpy(array) for array in arrays]
    return lambda: product(*tensors)


FRAMEWORKS = {"XLA": in_xla, "torch": in_torch}


def measure(framework: str, options: argparse.Namespace) -> list[float]:
    """Best GFLOP/s of every product at every size, in order."""
    rng, found = np.random.default_rng(0), []
    for inner, outer in SIDES:
        shapes = ((options.rows, inner), (inner, outer), (options.rows, outer))
        arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
        for product in PRODUCTS.values():
            call = FRAMEWORKS[framework](product, arrays, options.cores)
            seconds = []
            for _ in range(options.rounds + 1):
                start = time.perf_counter()
                for _ in range(CALLS):
                    call()
                seconds.append((time.perf_counter() - start) / CALLS)
            found.append(2 * options.rows * inner * outer / min(seconds[1:]) / 1e9)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2048, help="tokens of a batch")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--framework", choices=list(FRAMEWORKS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.framework:
        try:
            print(json.dumps({"rates": measure(options.framework, options)}))
        except ImportError as error:
            print(json.dumps(missing(error)))
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    found = {}
    for framework in FRAMEWORKS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_products", "--framework", framework]
        command += [f"--{name}={getattr(options, name)}" for name in ("rounds", "rows", "cores")]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found[framework] = json.loads(done.stdout.splitlines()[-1])
        if SKIPPED in found[framework]:
            print(f"{framework}: {found[framework][SKIPPED]}")
            return
    print("| product | XLA, GFLOP/s | torch, GFLOP/s | times as fast |\n|---|---|---|---|")
    names = [f"{product}, {inner} x {outer}" for inner, outer in SIDES for product in PRODUCTS]
    for name, ours, theirs in zip(names, *(found[name]["rates"] for name in FRAMEWORKS), strict=True):
        print(f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
