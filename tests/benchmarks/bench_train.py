"""A whole training step against transformers and torch.optim.AdamW, on the same model, batch and cores.

    python -m tests.benchmarks.bench_train [--rounds 5] [--steps 2] [--batch 8] [--cores 2]

A llama of 10M parameters, float32, sequence 256: forward, backward, clipping, AdamW. Both begin with the same weights
and see the same batch, so that the losses tell whether they do the same work. Each runs in a process of its own; they
take turns, round by round, and wait for each other. The first round, in which things are compiled, does not count.
Processor seconds tell more than the clock's where others use the machine. Rows of libraries that are not
installed say so.

Then: the same step without and with each form of the EWC penalty; with each remat policy; how long the step takes to
compile for 48 layers against 6; the share of a run's time spent waiting for data; and on an accelerator the share of
its peak that a step of a 1B model makes use of. `--only` gives one of these tables.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import SKIPPED, is_skipped, serve, taken_in_turn

SHAPE: dict[str, Any] = {
    "hidden_size": 256, "num_heads": 8, "num_kv_heads": 4, "intermediate_size": 1024, "vocab_size": 4096,
}  # fmt: skip
RATE = 3e-4
DEEP, SHALLOW = 48, 6
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "v6": 918, "v5p": 459, "v5 lite": 197, "v4": 275}
"""Most bfloat16 TFLOP/s without sparsity that the makers state, by a part of the device's name."""

Options = argparse.Namespace
Step = Callable[[], float]
"""One training step; gives the loss, and returns when everything has been computed."""


def config(layers: int = 8) -> Any:
    from tprog import ModelConfig

    return ModelConfig(family="llama", num_layers=layers, **SHAPE)


def billion() -> Any:
    from dataclasses import replace

    from tprog import named_size

    return replace(named_size("1B"), family="llama", vocab_size=32000)


def flops_a_token(model: Any, length: int) -> float:
    """Of forward and backward; Chowdhery et al. 2022, "PaLM", appendix B."""
    from tprog import count_parameters

    embedding = model.vocab_size * model.hidden_size
    scores = 12 * model.num_layers * model.num_heads * model.head_dim * length
    return 6 * (count_parameters(model) - embedding) + scores


def windows(model: Any, batch: int, length: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, model.vocab_size, (batch, length + 1)).astype(np.int32)


STRENGTH = 1e3
"""Of the penalty; what a step costs does not depend on it."""


def jax_mesh(options: Options) -> Any:
    """As `tritter train --set mesh.data=CORES` makes it; one device on an accelerator."""
    from tritter_jax.sharding import MeshShape, make_mesh
    from tritter_jax.train.processors import prepare_processors

    data = 1 if options.accelerator else options.cores
    prepare_processors(data)
    return make_mesh(MeshShape(data=data))


def jax_program(
    model: Any, dtype: str, mesh: Any, form: str | None = None, remat: str = "dots"
) -> tuple[Any, Any, Any]:
    """The jitted step as a run compiles it, its abstract state, and the optimizer; with a form of the penalty."""
    import jax
    import optax

    from tritter_jax.model import abstract_params
    from tritter_jax.train.config import EwcSection, OptimizerSection
    from tritter_jax.train.optimizer import make_optimizer
    from tritter_jax.train.state import new_state
    from tritter_jax.train.step import compile_train_step

    ewc = EwcSection(lambda_=STRENGTH, form=form) if form else EwcSection()
    optimizer = make_optimizer(OptimizerSection(), optax.constant_schedule(RATE), model, ewc)
    jax.set_mesh(mesh)
    abstract = jax.eval_shape(lambda params: new_state(params, optimizer, 0), abstract_params(model))
    program = compile_train_step(abstract, mesh, model, optimizer, dtype=dtype, strength=ewc.lambda_, remat=remat)
    return program, abstract, optimizer


def jax_step(directory: Path, options: Options, form: str | None = None, remat: str = "dots") -> Step:
    import jax
    import tprog.flax

    from tritter_jax.continual import remember
    from tritter_jax.sharding import batch_sharding
    from tritter_jax.train.state import memory_shardings, new_state, state_shardings

    mesh = jax_mesh(options)
    params = tprog.flax.load(directory / "model.tprog")
    model, dtype = (billion(), "bfloat16") if options.accelerator else (config(), "float32")
    program, abstract, optimizer = jax_program(model, dtype, mesh, form, remat)
    # Placed as a run places it: the step would be compiled once more for what it gives back otherwise.
    state = jax.device_put(new_state(params, optimizer, 0), state_shardings(optimizer, abstract, model, mesh))
    batch = jax.device_put(windows(model, options.batch, options.length), batch_sharding(mesh))
    held = ()
    if form:
        anchor = tprog.flax.load(directory / "model.tprog")  # the state's own parameters are given away
        memory = remember(jax.tree.map(lambda leaf: leaf * leaf, anchor), anchor)
        held = (jax.device_put(memory, memory_shardings(model, mesh)),)

    numbers = itertools.count()

    def step() -> float:
        nonlocal state
        state, metrics = program(state, batch, next(numbers), *held)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return step


def torch_step(directory: Path, options: Options) -> Step:
    import torch
    import transformers

    from tritter_jax.train.config import OptimizerSection

    torch.set_num_threads(options.cores)
    device = "cuda" if options.accelerator else "cpu"
    module: Any = transformers.AutoModelForCausalLM.from_pretrained(directory / "model.tprog").to(device).train()
    optimizer = OptimizerSection()
    adamw = torch.optim.AdamW(
        module.parameters(),
        lr=RATE,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )
    call = torch.compile(module) if options.accelerator else module
    model = billion() if options.accelerator else config()
    batch = torch.from_numpy(windows(model, options.batch, options.length)).long().to(device)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=options.accelerator):
            logits = call(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), optimizer.clip)
        adamw.step()
        return loss.item()

    return step


STEPS: dict[str, Callable[[Path, Options], Step]] = {"tritter_jax": jax_step, "transformers + torch": torch_step}
PENALTIES: dict[str, Callable[[Path, Options], Step]] = {
    "no penalty": jax_step,
    **{form: partial(jax_step, form=form) for form in ("proximal", "gradient", "loss")},
}
REMAT_ROW = "remat "
"""Begins the row of each remat policy, of which the processes that have JAX know the names."""


def turns(step: Step, steps: int) -> Callable[[], dict[str, float]]:
    """A round: some steps, what a step took, and the loss of the first."""

    def once() -> dict[str, float]:
        wall, processor = time.perf_counter(), time.process_time()
        losses = [step() for _ in range(steps)]
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        return {"wall": wall / steps, "processor": processor / steps, "loss": losses[0]}

    return once


def make_model(directory: Path, options: Options) -> None:
    import tprog.flax

    from tritter_jax.model import init_params

    model = billion() if options.accelerator else config()
    tprog.flax.save(directory / "model.tprog", init_params(model), model)


def compile_seconds(options: Options) -> dict[str, float]:
    """Best processor and clock seconds of tracing and compiling, deep and shallow in turn."""
    import jax
    import numpy as np

    mesh = jax_mesh(options)

    def once(layers: int) -> tuple[float, float]:
        program, abstract, _ = jax_program(config(layers), "float32", mesh)
        batch = jax.ShapeDtypeStruct((options.batch, options.length + 1), np.int32)
        wall, processor = time.perf_counter(), time.process_time()
        program.lower(abstract, batch, np.int32(0)).compile()
        return time.perf_counter() - wall, time.process_time() - processor

    once(2)  # what the first compilation in a process sets up belongs to neither
    found: dict[int, list] = {DEEP: [], SHALLOW: []}
    for _ in range(options.compilations):
        for layers in found:
            found[layers].append(once(layers))
    return {
        f"{layers} {clock}": min(pair[place] for pair in pairs)
        for layers, pairs in found.items()
        for place, clock in enumerate(("wall", "processor"))
    }


def temporaries(options: Options) -> dict[str, int]:
    """Bytes a device that the compiled step takes beside state and batch, by remat policy."""
    import jax
    import numpy as np

    from tritter_jax.model import REMAT

    mesh, found = jax_mesh(options), {}
    for name in REMAT:
        program, abstract, _ = jax_program(config(), "float32", mesh, remat=name)
        batch = jax.ShapeDtypeStruct((options.batch, options.length + 1), np.int32)
        found[name] = program.lower(abstract, batch, np.int32(0)).compile().memory_analysis().temp_size_in_bytes
    return found


def input_share(directory: Path, options: Options) -> float:
    """Share of a run's time that the loop waited for Grain, compilation left out."""
    from tprog.config_json import config_to_json

    from tritter_jax.train.config import RunConfig
    from tritter_jax.train.loop import train
    from tritter_jax.train.metrics import read_metrics
    from tritter_jax.train.setup import prepare

    (directory / "config.json").write_text(json.dumps(config_to_json(config())))
    settings = RunConfig.parse(
        {
            "model": {"config": str(directory / "config.json")},
            "data": {
                "train": "builtin:prose",
                "cache": str(directory / "tokens"),
                "batch_size": options.batch,
                "sequence_length": options.length,
            },
            "training": {"steps": 10},
            "output": {
                "directory": str(directory / "run"),
                "log_interval": 2,
                "eval_interval": 0,
                "checkpoint_interval": 0,
            },
        }
    )
    train(prepare(settings))
    return max(line["input_share"] for line in read_metrics(settings.directory)[1:])


def accelerator() -> dict[str, str]:
    import jax

    device = jax.devices()[0]
    return {"platform": device.platform, "kind": device.device_kind}


def duel(names: list[str], directory: Path, options: Options) -> dict[str, list[dict[str, Any]]]:
    """The rounds of each, after one in which things are compiled; every process waits while another computes."""
    commands = {name: command(name, directory, options) for name in names}
    found = taken_in_turn(commands, environment(options), options.rounds)
    for name in [name for name, answers in found.items() if is_skipped(answers)]:
        print(f"{name}: {found.pop(name)[-1][SKIPPED]}\n", flush=True)
    return found


def command(row: str, directory: Path, options: Options) -> list[str]:
    kept = {
        name: value
        for name, value in vars(options).items()
        if name not in ("row", "directory", "accelerator", "only")
    }
    arguments = [word for name, value in kept.items() for word in (f"--{name}", str(value))]
    arguments += ["--accelerator"] if options.accelerator else []
    return [
        sys.executable, "-m", "tests.benchmarks.bench_train", "--row", row, "--directory", str(directory), *arguments,
    ]  # fmt: skip


def environment(options: Options) -> dict[str, str]:
    chosen = {} if options.accelerator else {"JAX_PLATFORMS": "cpu"}
    return {**os.environ, **chosen, "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}


def child(row: str, directory: Path, options: Options) -> Any:
    done = subprocess.run(
        command(row, directory, options), env=environment(options), check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def speed_rows(directory: Path, options: Options) -> None:
    from tprog import count_parameters

    child("make", directory, options)
    found = duel(list(STEPS), directory, options)
    tokens, against = options.batch * options.length, {}
    print(f"{count_parameters(config()) / 1e6:.1f}M parameters, float32, batch {options.batch} x {options.length}\n")
    print("| training step | tokens/s, best | tokens/s, median | processor seconds, best | median | first loss |")
    print("|---|---|---|---|---|---|")
    for name, (first, *rounds) in found.items():
        walls, processor = [each["wall"] for each in rounds], [each["processor"] for each in rounds]
        against[name] = statistics.median(walls), statistics.median(processor), min(walls), min(processor)
        print(
            f"| {name} | {tokens / min(walls):.0f} | {tokens / statistics.median(walls):.0f} "
            f"| {min(processor):.2f} | {statistics.median(processor):.2f} | {first['loss']:.4f} |"
        )
    if against.keys() != STEPS.keys():
        return
    ours, theirs = against.values()
    wall, processor, best, best_processor = (there / here for here, there in zip(ours, theirs, strict=True))
    print(f"| times as fast | {best:.2f} | {wall:.2f} | {best_processor:.2f} | {processor:.2f} | |\n", flush=True)


def penalty_rows(directory: Path, options: Options) -> None:
    child("make", directory, options)
    found = duel(list(PENALTIES), directory, options)
    print("| EWC penalty in a step | processor seconds, best | median | against none, best | median | allowed |")
    print("|---|---|---|---|---|---|")
    against: tuple[float, float] | None = None
    for name, (_, *rounds) in found.items():
        seconds = [each["processor"] for each in rounds]
        best, median = min(seconds), statistics.median(seconds)
        against = against or (best, median)
        print(f"| {name} | {best:.3f} | {median:.3f} | {best / against[0]:.3f} | {median / against[1]:.3f} | 1.05 |")
    print(flush=True)


def remat_rows(directory: Path, options: Options) -> None:
    child("make", directory, options)
    memory = child("memory", directory, options)
    found = duel([REMAT_ROW + name for name in memory], directory, options)
    seconds = {
        row.removeprefix(REMAT_ROW): [
            statistics.median(each[clock] for each in rounds) for clock in ("wall", "processor")
        ]
        for row, (_, *rounds) in found.items()
    }
    print("| remat policy | tokens/s, median | processor seconds, median | against dots | temporaries a device, MB |")
    print("|---|---|---|---|---|")
    for name, (wall, processor) in seconds.items():
        speed, against = options.batch * options.length / wall, processor / seconds["dots"][1]
        print(f"| {name} | {speed:.0f} | {processor:.3f} | {against:.2f} | {memory[name] / 1e6:.0f} |")
    print(flush=True)


def other_rows(directory: Path, options: Options) -> None:
    print("| | measured | allowed |\n|---|---|---|")
    seconds = child("compile", directory, options)
    for clock in ("wall", "processor"):
        deep, shallow = seconds[f"{DEEP} {clock}"], seconds[f"{SHALLOW} {clock}"]
        print(
            f"| compiling, {DEEP} layers against {SHALLOW}, {clock} seconds | {deep:.2f} / {shallow:.2f} "
            f"= {deep / shallow:.2f} | 1.20 |",
            flush=True,
        )
    print(f"| waiting for data, share of the time | {child('input', directory, options):.2%} | 3% |\n", flush=True)


def utilisation_rows(directory: Path, options: Options) -> None:
    """One process after the other: both models do not fit every card."""
    options = Options(**{**vars(options), "accelerator": True, "length": 2048})
    device = child("device", directory, options)
    if device["platform"] == "cpu":
        print("No accelerator here: the step of a 1B model, bfloat16, sequence 2048, is not measured.")
        return
    child("make", directory, options)
    peak = next((peak for part, peak in PEAKS.items() if part.lower() in device["kind"].lower()), None)
    print(f"{device['kind']}, 1B, bfloat16 over float32, batch {options.batch} x {options.length}\n")
    print("| training step | tokens/s | TFLOP/s | of the peak |\n|---|---|---|---|")
    for name in STEPS if device["platform"] in ("gpu", "cuda") else list(STEPS)[:1]:
        if not (found := duel([name], directory, options)):
            continue
        rounds = found[name][1:]
        speed = options.batch * options.length / statistics.median(each["wall"] for each in rounds)
        tera = speed * flops_a_token(billion(), options.length) / 1e12
        print(f"| {name} | {speed:.0f} | {tera:.1f} | {'unknown' if peak is None else f'{tera / peak:.1%}'} |")


TABLES = {
    "speed": speed_rows,
    "penalty": penalty_rows,
    "remat": remat_rows,
    "others": other_rows,
    "accelerator": utilisation_rows,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps a round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--compilations", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="for models and tokens; a temporary one when left out")
    parser.add_argument("--only", choices=list(TABLES), help="one of the tables")
    parser.add_argument("--accelerator", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        run_row(options)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        chosen = [TABLES[options.only]] if options.only else list(TABLES.values())
        print(f"{options.cores} cores, {options.rounds} rounds of {options.steps} steps, taken in turn", flush=True)
        for number, rows in enumerate(chosen):
            place = directory / str(number)
            place.mkdir(parents=True)
            rows(place, options)


def run_row(options: Options) -> None:
    """One row, in this process."""
    if options.row in STEPS | PENALTIES:
        serve(lambda: turns((STEPS | PENALTIES)[options.row](options.directory, options), options.steps))
    elif options.row.startswith(REMAT_ROW):
        policy = options.row.removeprefix(REMAT_ROW)
        serve(lambda: turns(jax_step(options.directory, options, remat=policy), options.steps))
    elif options.row == "make":
        make_model(options.directory, options)
        print("null")
    else:
        others = {
            "compile": lambda: compile_seconds(options),
            "memory": lambda: temporaries(options),
            "input": lambda: input_share(options.directory, options),
            "device": accelerator,
        }
        print(json.dumps(others[options.row]()))


if __name__ == "__main__":
    main()
