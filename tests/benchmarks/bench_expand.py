"""Expanding a checkpoint on disk: time against copying the result and reading the source, and peak memory.

    python -m tests.benchmarks.bench_expand --directory /tmp/bench [--from 3B] [--to 7B] [--parts] [--depth]

It makes its own source with `tritter init`. Each row is a process of its own; `against` is its time over that of `cp`
of the result, a sync, and a plain read of the source, taken on the same disk right after it. `memory` is its largest
resident set less that of a process that has only imported the same libraries. Processor seconds are user and system
together: on a machine that does other work they say more than the time does.

`--parts` adds an optimizer's moments and Fisher information in bfloat16. `--depth` adds layers alone, beside
mergekit, which pins older libraries and so lives in an environment of its own:

    python -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit==0.1.5
    TRITTER_MERGEKIT=/tmp/mergekit/bin/mergekit-yaml python -m tests.benchmarks.bench_expand --depth
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TRITTER = [sys.executable, "-c", "from tritter_jax.cli.main import main; main()"]
LIBRARIES = "import jax, tritter_jax.growth.expand; jax.devices()"
DEEPER = 6
BLOCK = 16 << 20


@dataclass(frozen=True)
class Row:
    """What one process took."""

    seconds: float
    processor: float
    resident: int


def run(command: Sequence[object]) -> Row:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return Row(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)


def tensor_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*.safetensors"))


def make_source(directory: Path, size: str, *, parts: bool) -> Path:
    plain, with_parts = (directory / f"bench-{size}-{number}.tprog" for number in (0, 1))
    wanted = with_parts if parts else plain
    if not wanted.exists() and not plain.exists():
        run([*TRITTER, "init", "--size", size, "--out", plain])
    if not wanted.exists():
        run([sys.executable, "-m", "tests.benchmarks.bench_expand", "--add-parts", plain, with_parts])
        shutil.rmtree(plain)
    return wanted


def add_parts(source: Path, destination: Path) -> None:
    """The same checkpoint with moments and Fisher information, which are the weights again, under other names."""
    import numpy as np
    from tprog.parts import Parts, step_tensor
    from tprog.reader import open_checkpoint
    from tprog.source import LazyTensors
    from tprog.tensorheader import TensorSpec
    from tprog.writer import write_checkpoint

    checkpoint = open_checkpoint(source)
    moments = {f"{slot}.{name}": name for slot in ("exp_avg", "exp_avg_sq") for name in checkpoint.specs}
    specs = {name: checkpoint.specs[old] for name, old in moments.items()}
    step = {"step": TensorSpec(np.dtype("int64"), ())}
    optimizer = LazyTensors(
        specs | step, lambda name: checkpoint.tensor(moments[name]) if name in moments else step_tensor(7)
    )
    parts = Parts(optimizer=optimizer, fisher=LazyTensors(checkpoint.specs, checkpoint.tensor))
    write_checkpoint(destination, checkpoint.config, checkpoint, parts=parts)


def yardstick(source: Path, result: Path, directory: Path) -> float:
    """Seconds that a copy of the result, brought to the disk, and a plain read of the source take.

    Each file's copy takes the file's place, so that the disk need not hold the result twice.
    """
    copy = directory / "copy"
    start = time.perf_counter()
    for file in [path for path in result.rglob("*") if path.is_file()]:
        place = copy / file.relative_to(result)
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", file, place], check=True)
        file.unlink()
    subprocess.run(["sync", "-f", copy], check=True)
    for file in source.rglob("*.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while opened.read(BLOCK):
                pass
    seconds = time.perf_counter() - start
    shutil.rmtree(result)
    copy.rename(result)
    return seconds


def show(name: str, row: Row, base: Row, against: float | None, written: int) -> None:
    ratio = "" if against is None else f"{row.seconds / against:.2f}"
    memory = (row.resident - base.resident) / 1e9
    cells = f"{row.seconds:.1f} | {ratio} | {row.processor:.1f} | {written / 1e9 / row.processor:.2f} | {memory:.2f}"
    print(f"| {name} | {cells} |", flush=True)


def widen(options: argparse.Namespace, base: Row, *, parts: bool) -> None:
    source = make_source(options.directory, options.source, parts=parts)
    for check in ("--no-verify", "--verify"):
        result = options.directory / "grown.tprog"
        grow = [*TRITTER, "expand", "--from", source, "--to", options.target, "--out", result, check, "--overwrite"]
        row = run(grow)
        name = f"{options.source} -> {options.target}{', with parts' if parts else ''}, {check[2:]}"
        show(name, row, base, yardstick(source, result, options.directory), tensor_bytes(result))
        shutil.rmtree(result)


def deepen(options: argparse.Namespace, base: Row) -> None:
    """Layers alone, by plain copies, as mergekit's passthrough makes them."""
    source = make_source(options.directory, options.source, parts=False)
    config = json.loads((source / "config.json").read_text())
    config["num_hidden_layers"] += DEEPER
    larger = options.directory / "deeper.json"
    larger.write_text(json.dumps(config))
    ours, theirs = options.directory / "ours.tprog", options.directory / "theirs"
    choices = ["--depth", "copy", "--no-verify", "--overwrite"]
    row = run([*TRITTER, "expand", "--from", source, "--to", larger, "--out", ours, *choices])
    show("layers alone, tritter", row, base, yardstick(source, ours, options.directory), tensor_bytes(ours))
    mergekit = os.environ.get("TRITTER_MERGEKIT")
    if not mergekit:
        print("mergekit: TRITTER_MERGEKIT is not set; the script's first lines say how to install it")
        return
    recipe = options.directory / "recipe.yml"
    recipe.write_text(
        json.dumps({"merge_method": "passthrough", "dtype": "bfloat16", "slices": slices(ours, source)})
    )
    python = Path(mergekit).with_name("python")
    bare = run([python, "-c", "import torch, transformers, mergekit.merge"])
    row = run([mergekit, recipe, theirs, "--lazy-unpickle", "--low-cpu-memory", "--no-copy-tokenizer", "--no-cuda"])
    show("layers alone, mergekit", row, bare, yardstick(source, theirs, options.directory), tensor_bytes(theirs))
    print("tensors equal" if same_tensors(ours, theirs) else "TENSORS DIFFER")


def slices(grown: Path, source: Path) -> list[dict]:
    """mergekit's recipe for the stack that the grown checkpoint says it has."""
    plan = json.loads((grown / "progressive.json").read_text())["expansion_history"][-1]["plan"]
    return [{"sources": [{"model": str(source), "layer_range": [old, old + 1]}]} for old in plan["layer_sources"]]


def same_tensors(one: Path, other: Path) -> bool:
    import numpy as np
    from tprog.dtypes import same_bits
    from tprog.reader import open_checkpoint

    ours, theirs = open_checkpoint(one), open_checkpoint(other)
    return ours.specs == theirs.specs and all(
        np.array_equal(same_bits(ours.tensor(name)), same_bits(theirs.tensor(name))) for name in ours.names
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir(), "bench-expand"))
    parser.add_argument("--from", dest="source", default="3B")
    parser.add_argument("--to", dest="target", default="7B")
    parser.add_argument("--parts", action="store_true", help="also with an optimizer and Fisher information")
    parser.add_argument("--depth", action="store_true", help="also layers alone, beside mergekit")
    parser.add_argument("--keep", action="store_true", help="leave the source for the next time")
    parser.add_argument("--add-parts", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.add_parts:
        add_parts(*options.add_parts)
        return
    options.directory.mkdir(parents=True, exist_ok=True)
    base = run([sys.executable, "-c", LIBRARIES])
    print(f"{os.cpu_count()} processors; the libraries alone: {base.resident / 1e9:.2f} GB\n")
    print("| | seconds | against | processor seconds | GB a processor second | memory, GB |")
    print("|---|---|---|---|---|---|")
    widen(options, base, parts=False)
    if options.depth:
        deepen(options, base)
    if options.parts:
        widen(options, base, parts=True)
    if not options.keep:
        shutil.rmtree(options.directory)


if __name__ == "__main__":
    main()
