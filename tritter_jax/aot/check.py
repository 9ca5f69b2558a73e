"""Compiling a configuration for its machine, in a process of its own; where it does not fit, what would make it."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tprog
from tprog import ModelConfig, TritterError, UsageError, count_parameters, param_specs

from tritter_jax.aot.cost import Cost, program_cost
from tritter_jax.aot.hlo import Program
from tritter_jax.aot.report import Check, Remedy
from tritter_jax.aot.topology import Topology, require_compiler
from tritter_jax.aot.worker import PROGRAM, RESULT, SETTINGS
from tritter_jax.model import REMAT
from tritter_jax.train.config import RunConfig
from tritter_jax.train.setup import choose_model

Say = Callable[[str], None]

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""No TPU is looked for, and several processes may compile at once."""

_STATE_BYTES = 12
"""A parameter in training: master, first and second moment, float32."""


def check(
    settings: RunConfig, name: str, *, remedies: bool = True, keep: Path | None = None, say: Say = lambda _: None
) -> Check:
    """Compile a configuration's program for its machine, and count what it does.

    Args:
        settings: the configuration; it names a topology.
        name: what to call it.
        remedies: where it does not fit, also compile what might make it fit.
        keep: where what was compiled is kept, in a directory of the configuration's name; one that is there already
            for the same settings is not compiled again. Nowhere when None.
        say: told what is compiled.

    Raises:
        UsageError: the compiler is not installed, there is no such topology, or mesh, model and batch do not fit.
    """
    if not settings.machine.topology:
        raise UsageError(
            f"{name}: machine.topology", expected="the TPU slice to compile for", got="nothing",
            remedy='For example: [machine] topology = "v5e:4x4"',
        )  # fmt: skip
    topology = Topology.parse(settings.machine.topology, settings.machine.slices)
    require_compiler()
    config = choose_model(settings)[2]
    say(f"compiling {name} for {topology.slices} x {topology.name}")
    if keep is None:
        with tempfile.TemporaryDirectory() as directory:
            result, text = _compile(settings, name, Path(directory))
    else:
        result, text = _compile(settings, name, keep / name)
    if "needed" in result:
        tried = tuple(_remedies(settings, config, topology, name, say)) if remedies else ()
        return Check(
            name=name, settings=settings, topology=topology, config=config, memory=None, needed=result["needed"],
            cost=None, remedies=tried,
        )  # fmt: skip
    return counted(settings, name, config, topology, result["memory"], text, peak=result.get("peak"))


def counted(
    settings: RunConfig,
    name: str,
    config: ModelConfig,
    topology: Topology,
    memory: dict[str, int],
    text: str,
    *,
    peak: int | None = None,
) -> Check:
    """What a compiled program takes and does."""
    inner = topology.device_count // topology.slices
    cost = program_cost(Program.parse(text), slice_devices=inner, slices=topology.slices)
    return Check(
        name=name,
        settings=settings,
        topology=topology,
        config=config,
        memory=memory,
        needed=sum(memory.values()),
        peak=peak,
        cost=cost,
        whole=whole_gathers(cost, config, settings),
    )


def whole_gathers(cost: Cost, config: ModelConfig, settings: RunConfig) -> tuple[str, ...]:
    """All-gathers outside loops that put a whole matrix, or its part of the tensor axis, on every device."""
    parts = {1, max(1, settings.mesh.tensor)}
    sizes = {
        math.prod(spec.shape) // part: spec.name
        for spec in param_specs(config)
        if spec.initializer == "normal"
        for part in parts
    }
    return tuple(
        f"{sizes[one.result]}: {one.kind} of {one.result:,} elements"
        for one in cost.collectives.values()
        if one.kind == "all-gather" and not one.looped and one.result in sizes
    )


def _compile(settings: RunConfig, name: str, directory: Path) -> tuple[dict[str, Any], str]:
    """What the worker finds, and the program's text; what it left here earlier for the same settings does as well."""
    if not _is_done(settings, directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / RESULT).unlink(missing_ok=True)
        (directory / SETTINGS).write_text(
            json.dumps(settings.model_dump(mode="json", exclude_none=True)), encoding="utf-8"
        )
        done = subprocess.run(
            [sys.executable, "-m", "tritter_jax.aot.worker", str(directory)],
            env={**os.environ, **_ENVIRONMENT},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not (directory / RESULT).is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise UsageError(
                name, expected="a program that the TPU compiler takes", got=lines[-1][:400],
                remedy="Try another mesh; where none does, please report this with the configuration.",
            )  # fmt: skip
    result = json.loads((directory / RESULT).read_text(encoding="utf-8"))
    if (said := result.get("error")) is not None:
        kind: type[TritterError] = getattr(tprog, said.pop("kind"))
        where = said.pop("where")
        raise kind(f"{name}: {where}", **said)
    return result, (directory / PROGRAM).read_text(encoding="utf-8") if "memory" in result else ""


def _is_done(settings: RunConfig, directory: Path) -> bool:
    try:
        before = RunConfig.parse(json.loads((directory / SETTINGS).read_text(encoding="utf-8")))
        return before == settings and "error" not in json.loads((directory / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError, TritterError):
        return False


def _remedies(settings: RunConfig, config: ModelConfig, topology: Topology, name: str, say: Say) -> Iterator[Remedy]:
    """Each change by itself, and all of them together where none of them does."""
    changes = list(_changes(settings, config, topology))
    found = False
    for change in changes:
        found |= (remedy := _tried(settings, change, topology, name, say)).fits
        yield remedy
    together = {field: value for change in changes for field, value in change.items()}
    if not found and len(changes) > 1:
        yield _tried(settings, together, topology, name, say)


def _changes(settings: RunConfig, config: ModelConfig, topology: Topology) -> Iterator[dict[str, Any]]:
    mesh, batch = settings.mesh, settings.data.batch_size
    state = count_parameters(config) * _STATE_BYTES / (max(1, mesh.fsdp) * max(1, mesh.tensor))
    if settings.machine.program != "grow" and state < topology.chip.memory:  # else neither of these can help
        if settings.machine.program == "train":
            names = list(REMAT)
            yield from ({"training.remat": less} for less in names[names.index(settings.training.remat) + 1 :])
        least = topology.device_count // max(1, mesh.tensor) * settings.training.accumulate
        if batch > least:
            yield {"data.batch_size": max(least, batch // 2 // least * least)}
    inner = topology.device_count // topology.slices
    if mesh.fsdp * mesh.tensor != inner:
        yield {"mesh.data": topology.slices, "mesh.fsdp": inner // mesh.tensor}
    elif mesh.fsdp % 2 == 0 and config.num_kv_heads % (mesh.tensor * 2) == 0 and batch % (mesh.fsdp // 2) == 0:
        yield {"mesh.fsdp": mesh.fsdp // 2, "mesh.tensor": mesh.tensor * 2}


def _tried(settings: RunConfig, changes: dict[str, Any], topology: Topology, name: str, say: Say) -> Remedy:
    overrides = [f"{field}={json.dumps(value)}" for field, value in changes.items()]
    changed = RunConfig.parse(settings.model_dump(mode="json", exclude_none=True), overrides)
    say(f"compiling {name} with {', '.join(overrides)}")
    try:
        with tempfile.TemporaryDirectory() as directory:
            result, _ = _compile(changed, name, Path(directory))
    except TritterError:  # a mesh that does not divide the model is no way out
        return Remedy(changes=changes, needed=0, fits=False)
    needed = result["needed"] if "needed" in result else result["peak"]
    return Remedy(changes=changes, needed=needed, fits="memory" in result)
