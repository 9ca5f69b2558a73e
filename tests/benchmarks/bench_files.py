"""Reading and writing checkpoints, side by side with other formats, in one run.

    python -m tests.benchmarks.bench_files [--directory DIRECTORY] [--rounds 3] [--layers 22]

The model is llama-shaped, bfloat16: 2.05 GiB in 201 tensors as it stands. Each row runs in a process of its own, with
the page cache warm; the best of its rounds counts. `extra` is the most memory held beyond the arrays and what the
process held before, seen in a round of its own that is not timed. The first two rows are what the machine can do.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import SKIPPED, missing

MODEL = {"hidden_size": 2048, "num_heads": 32, "num_kv_heads": 4, "intermediate_size": 5632, "vocab_size": 32000}
BLOCK = 64 << 20


def config(layers: int) -> Any:
    from tprog import ModelConfig

    return ModelConfig(family="llama", num_layers=layers, dtype="bfloat16", **MODEL)


def make_model(directory: Path, layers: int) -> None:
    """Write the model as a .tprog, as one safetensors file of JAX's layout, and with Orbax."""
    import jax
    import ml_dtypes
    import numpy as np
    import orbax.checkpoint as ocp
    import safetensors.flax
    import tprog.flax
    from tprog import hf_tensors
    from tprog.tree import flatten
    from tprog.writer import write_checkpoint

    generator = np.random.default_rng(0)
    noise = (generator.integers(0, 2**16, 1 << 26, dtype=np.uint16) & 0xBFFF).view(ml_dtypes.bfloat16)

    def pairs() -> Any:
        for tensor in hf_tensors(config(layers)):
            count = int(np.prod(tensor.shape))
            yield tensor.name, np.resize(noise, count).reshape(tensor.shape)

    path = write_checkpoint(directory / "model.tprog", config(layers), pairs())
    params = tprog.flax.load(path)
    safetensors.flax.save_file(
        {".".join(key): leaf for key, leaf in flatten(params).items()}, directory / "model.safetensors"
    )
    with ocp.StandardCheckpointer() as saver:
        saver.save(directory / "orbax", params)
    jax.block_until_ready(params)


class Memory:
    """Most anonymous memory of this process while the block runs, beyond what it began with."""

    def __enter__(self) -> "Memory":
        self.start = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, self._now())

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def plain_read(directory: Path, _: int) -> Any:
    """Every byte through one resident buffer, one thread."""
    buffer = bytearray(BLOCK)
    with (directory / "model.tprog" / "weights.safetensors").open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def plain_fresh(directory: Path, _: int) -> Any:
    """Every byte into new memory, one thread."""
    import numpy as np

    path = directory / "model.tprog" / "weights.safetensors"
    array = np.empty(path.stat().st_size, np.uint8)
    view, place = memoryview(array), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(view[place : place + BLOCK]):
            place += count
    return array


def open_only(directory: Path, _: int) -> Any:
    from tprog.reader import open_checkpoint

    return open_checkpoint(directory / "model.tprog")


def tprog_flax(directory: Path, _: int) -> Any:
    import jax
    import tprog.flax

    return jax.block_until_ready(tprog.flax.load(directory / "model.tprog"))


def safetensors_flax(directory: Path, _: int) -> Any:
    import jax
    import safetensors.flax

    return jax.block_until_ready(safetensors.flax.load_file(directory / "model.safetensors"))


def orbax_load(directory: Path, layers: int) -> Any:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    from tprog.params import param_specs
    from tprog.tree import nest

    # As Orbax asks for it: the abstract state it is to restore.
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    dtype = np.dtype("bfloat16")
    abstract = nest(
        {
            spec.path: jax.ShapeDtypeStruct(spec.shape, dtype, sharding=sharding)
            for spec in param_specs(config(layers))
        }
    )
    with ocp.StandardCheckpointer() as loader:
        return jax.block_until_ready(loader.restore(directory / "orbax", abstract))


def touched_torch(state: dict) -> Any:
    for tensor in state.values():
        tensor.flatten()[::1024].float().sum()
    return state


def tprog_torch(directory: Path, _: int) -> Any:
    import torch  # noqa: F401 - so that the error names torch where it is not installed
    import tprog.torch

    return touched_torch(tprog.torch.load(directory / "model.tprog"))


def safetensors_torch(directory: Path, _: int) -> Any:
    import safetensors.torch

    return touched_torch(safetensors.torch.load_file(directory / "model.tprog" / "weights.safetensors"))


def fresh(directory: Path, name: str) -> Path:
    path = directory / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def copy(directory: Path, _: int) -> Any:
    """cp, then a sync."""
    target = fresh(directory, "copy.safetensors")
    return lambda: subprocess.run(
        ["/bin/sh", "-c", 'cp "$0" "$1" && sync "$1"', directory / "model.tprog" / "weights.safetensors", target],
        check=True,
    )


def save_tprog_flax(directory: Path, layers: int) -> Any:
    import tprog.flax

    target, params = fresh(directory, "saved.tprog"), tprog_flax(directory, layers)
    return lambda: tprog.flax.save(target, params, config(layers))


def save_tprog_numpy(directory: Path, layers: int) -> Any:
    import tprog.numpy

    target, arrays = fresh(directory, "saved.tprog"), tprog.numpy.load(directory / "model.tprog")
    return lambda: tprog.numpy.save(target, arrays, config(layers))


def save_safetensors_flax(directory: Path, layers: int) -> Any:
    import safetensors.flax

    target, params = fresh(directory, "saved.safetensors"), safetensors_flax(directory, layers)

    def save() -> None:
        safetensors.flax.save_file(params, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    return save


def save_orbax(directory: Path, layers: int) -> Any:
    import orbax.checkpoint as ocp

    target, params = fresh(directory, "saved.orbax"), tprog_flax(directory, layers)

    def save() -> None:
        with ocp.StandardCheckpointer() as saver:
            saver.save(target, params)

    return save


LOADS: dict[str, Callable[[Path, int], Any]] = {
    "plain read, resident buffer": plain_read,
    "plain read, new memory": plain_fresh,
    "open, nothing read": open_only,
    "tprog.flax.load": tprog_flax,
    "safetensors.flax.load_file": safetensors_flax,
    "orbax restore": orbax_load,
    "tprog.torch.load, touched": tprog_torch,
    "safetensors.torch.load_file, touched": safetensors_torch,
}
SAVES: dict[str, Callable[[Path, int], Any]] = {
    "cp, then sync": copy,
    "tprog.flax.save, hashed and synced": save_tprog_flax,
    "tprog.numpy.save, hashed and synced": save_tprog_numpy,
    "safetensors.flax.save_file, synced": save_safetensors_flax,
    "orbax save": save_orbax,
}


def run_row(name: str, directory: Path, rounds: int, layers: int) -> dict[str, float]:
    """Best seconds and most extra memory of one row, in this process."""
    if "flax" in name or "orbax" in name:
        import jax

        jax.devices()
    # Memory first: what later rounds free, the process may keep.
    action = prepared(name, directory, layers)
    with Memory() as memory:
        result = action()
    held = sum(leaf.nbytes for leaf in leaves(result)) if name in LOADS else 0
    del result, action
    times = []
    for _ in range(rounds):
        action = prepared(name, directory, layers)
        start = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - start)
        del result, action
    return {"seconds": min(times), "extra": max(memory.peak - memory.start - held, 0)}


def prepared(name: str, directory: Path, layers: int) -> Callable[[], Any]:
    """What is timed, with what it needs made before."""
    return SAVES[name](directory, layers) if name in SAVES else lambda: LOADS[name](directory, layers)


def leaves(tree: Any) -> list:
    """The arrays in a result that hold memory of their own."""
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    name = type(tree).__module__
    return [tree] if name.startswith(("jax", "numpy")) else []


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="keeps 15 GB there; a temporary one when left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row == "make":
        make_model(options.directory, options.layers)
    elif options.row:
        try:
            print(json.dumps(run_row(options.row, options.directory, options.rounds, options.layers)))
        except ImportError as error:
            print(json.dumps(missing(error)))
    elif options.directory:
        options.directory.mkdir(parents=True, exist_ok=True)
        table(options)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            options.directory = Path(temporary)
            table(options)


def table(options: argparse.Namespace) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}

    def child(row: str) -> str:
        arguments = ["--directory", options.directory, "--rounds", options.rounds, "--layers", options.layers]
        command = [sys.executable, "-m", "tests.benchmarks.bench_files", "--row", row, *map(str, arguments)]
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    if not (options.directory / "orbax").exists():
        child("make")
    size = (options.directory / "model.tprog" / "weights.safetensors").stat().st_size
    print(f"{size / 2**30:.2f} GiB, {os.cpu_count()} processors, best of {options.rounds}\n")
    print("| | seconds | against the first | extra memory, MB |\n|---|---|---|---|")
    for rows in (LOADS, SAVES):
        first = None
        for name in rows:
            if options.only in name or first is None:
                found = json.loads(child(name).splitlines()[-1])
                if SKIPPED in found:
                    print(f"| {name} | {found[SKIPPED]} | | |", flush=True)
                    continue
                first = first or found["seconds"]
                ratio = found["seconds"] / first
                print(f"| {name} | {found['seconds']:.3f} | {ratio:.2f} | {found['extra'] / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
