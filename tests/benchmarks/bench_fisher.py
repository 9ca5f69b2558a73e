"""The Fisher information of a llama: ours against PyTorch and libraries for it, on the same tokens and cores.

    python -m tests.benchmarks.bench_fisher [--rounds 5] [--batch 8] [--length 128] [--cores 2]

A llama of 4M parameters, float32. Every row has a process of its own and measures one batch a round; they take turns
and wait for each other, and the first round, in which things are compiled, does not count. The first row of each half
is forward and backward of the mean loss: what a training step costs without its optimizer. Rows of libraries that are
not installed say so. BackPACK leaves RMSNorm out, nngeometry RMSNorm and embeddings: tests/continual/test_peers.py
calls them in the same way, and all give the same numbers there.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import SKIPPED, is_skipped, serve, taken_in_turn

SHAPE: dict[str, Any] = {
    "hidden_size": 192, "num_layers": 6, "num_heads": 6, "num_kv_heads": 3, "intermediate_size": 512,
    "vocab_size": 4096,
}  # fmt: skip

Options = argparse.Namespace
Work = Callable[[], Any]
"""One batch, to the end."""


def config() -> Any:
    from tprog import ModelConfig

    return ModelConfig(family="llama", **SHAPE)


def windows(options: Options) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (options.batch, options.length + 1)).astype("i4")


def jax_step(directory: Path, options: Options) -> Work:
    import jax
    import tprog.flax

    from tritter_jax.continual import language_logits, windows_batch
    from tritter_jax.continual.likelihood import log_likelihood

    params, batch = tprog.flax.load(directory / "model.tprog"), windows_batch(windows(options))
    logits_of = language_logits(config())

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        def loss(tree: Any) -> Any:
            return -log_likelihood(logits_of(tree, batch.inputs), batch.labels, batch.weights) / batch.labels.size

        return jax.value_and_grad(loss)(params)

    return lambda: jax.block_until_ready(run(params, batch))


def jax_fisher(name: str) -> Callable[[Path, Options], Work]:
    def prepare(directory: Path, options: Options) -> Work:
        import jax
        import jax.numpy as jnp
        import tprog.flax

        from tritter_jax.continual import ESTIMATORS, language_logits, new_sum, windows_batch
        from tritter_jax.continual.accumulate import compile_step

        params, batch = tprog.flax.load(directory / "model.tprog"), windows_batch(windows(options))
        step = compile_step(language_logits(config()), params, ESTIMATORS[name], 1, None)
        batch, key = jax.tree.map(jnp.asarray, batch), jax.random.key(0)
        total = new_sum(params)

        def work() -> None:
            nonlocal total
            total, seen = step(total, params, batch, key, None)
            jax.block_until_ready((total, seen))

        return work

    return prepare


def torch_row(name: str) -> Callable[[Path, Options], Work]:
    def prepare(directory: Path, options: Options) -> Work:
        import torch
        import transformers

        from tests.continual.test_peers import PEERS

        torch.set_num_threads(options.cores)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory / "model.tprog")
        ids = torch.from_numpy(windows(options)).long()
        inputs, labels = ids[:, :-1], ids[:, 1:]

        def step() -> None:
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs, use_cache=False).logits.mT, labels).backward()

        if name == "step":
            return step
        measure = PEERS[name][0](model.eval())
        return lambda: measure(inputs, labels)

    return prepare


ROWS: dict[str, Callable[[Path, Options], Work]] = {
    "tritter_jax, forward and backward": jax_step,
    "tritter_jax, sampled": jax_fisher("sampled"),
    "tritter_jax, empirical": jax_fisher("empirical"),
    "PyTorch, forward and backward": torch_row("step"),
    "PyTorch, a loop over sequences": torch_row("loop"),
    "laplace-torch (CurvlinopsEF)": torch_row("laplace-torch"),
    "BackPACK (SumGradSquared)": torch_row("backpack"),
    "nngeometry (PMatDiag)": torch_row("nngeometry"),
}


def run_row(options: Options) -> None:
    """One row, in this process."""
    import pytest

    def prepare() -> Callable[[], dict[str, float]]:
        work = ROWS[options.row](options.directory, options)

        def once() -> dict[str, float]:
            wall, processor = time.perf_counter(), time.process_time()
            work()
            return {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}

        return once

    serve(prepare, also=(pytest.skip.Exception,))


def measure(directory: Path, options: Options) -> dict[str, list[dict[str, Any]]]:
    """The rounds of each row, the first left out; or why there are none."""
    commands = {
        name: [
            sys.executable, "-W", "ignore", "-m", "tests.benchmarks.bench_fisher", "--row", name,
            "--directory", str(directory), "--batch", str(options.batch), "--length", str(options.length),
            "--cores", str(options.cores),
        ]
        for name in ROWS
    }  # fmt: skip
    found = taken_in_turn(commands, environment(), options.rounds)
    return {name: answers if is_skipped(answers) else answers[1:] for name, answers in found.items()}


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}


def print_table(found: dict[str, list[dict[str, Any]]]) -> None:
    names = list(ROWS)
    print("| | processor seconds, best | median | wall seconds, best | median | against ours | against its own |")
    print("|---|---|---|---|---|---|---|")
    best = {
        name: min(each["processor"] for each in rounds) for name, rounds in found.items() if not is_skipped(rounds)
    }
    for name, rounds in found.items():
        if name not in best:
            print(f"| {name} | {rounds[-1][SKIPPED]} | | | | | |")
            continue
        clocks = [[each[clock] for each in rounds] for clock in ("processor", "wall")]
        middle = " | ".join(f"{min(values):.2f} | {statistics.median(values):.2f}" for values in clocks)
        own = names[0] if name.startswith("tritter_jax") else names[3]
        ratios = [f"{best[name] / best[base]:.2f}" if base in best else "" for base in (names[0], own)]
        print(f"| {name} | {middle} | {' | '.join(ratios)} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        run_row(options)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    os.environ.update(environment())
    import tprog.flax
    from tprog import count_parameters

    from tritter_jax.model import init_params

    with tempfile.TemporaryDirectory() as temporary:
        tprog.flax.save(Path(temporary) / "model.tprog", init_params(config()), config())
        print(
            f"{count_parameters(config()) / 1e6:.1f}M parameters, float32, batch {options.batch} x {options.length}, "
            f"{options.cores} cores, {options.rounds} rounds taken in turn; ratios of the best processor seconds\n",
            flush=True,
        )
        print_table(measure(Path(temporary), options))


if __name__ == "__main__":
    main()
