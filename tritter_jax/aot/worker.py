"""The process that compiles: `python -m tritter_jax.aot.worker DIRECTORY`.

It reads DIRECTORY/settings.json, and leaves result.json and, where the program fits, program.txt (the optimised HLO).
A process of its own, because the TPU compiler takes memory that it does not give back, and writes to standard error.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
from tprog import TritterError, UsageError

from tritter_jax.aot.programs import lower
from tritter_jax.aot.topology import GIB, Topology
from tritter_jax.train.config import RunConfig
from tritter_jax.train.processes import batch_parts
from tritter_jax.train.setup import choose_model, lay_out

SETTINGS, RESULT, PROGRAM = "settings.json", "result.json", "program.txt"


def compile_settings(settings: RunConfig, program: Path) -> dict[str, Any]:
    """Compile for the configuration's machine.

    Args:
        settings: the configuration; it names a topology.
        program: where the optimised HLO goes.

    Returns:
        `memory` in bytes a device, and its `peak` as the compiler states it; or `needed`: what a program that does
        not fit would take.

    Raises:
        UsageError: the mesh fits neither machine nor model nor batch.
        GrowthError: there is no such growth.
    """
    topology = Topology.parse(settings.machine.topology or "", settings.machine.slices)
    devices = topology.devices()
    layout = lay_out(settings, choose_model(settings)[2], devices)
    if layout.mesh.size != len(devices):
        raise UsageError(
            "mesh", expected=f"all {len(devices)} devices of {topology.slices} x {topology.name}",
            got=" x ".join(map(str, layout.mesh.devices.shape)), remedy="Give one axis -1: as many as are left.",
        )  # fmt: skip
    batch_parts(layout.mesh, {device.process_index for device in devices})
    lowered = lower(layout)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (needed := needed_memory(str(error))) is None:
            raise
        return {"needed": needed}
    program.write_text(compiled.as_text() or "", encoding="utf-8")
    stats = compiled.memory_analysis()
    assert stats is not None
    return {
        "memory": {
            "arguments": stats.argument_size_in_bytes,
            "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
            "temporaries": stats.temp_size_in_bytes,
            "code": stats.generated_code_size_in_bytes,
        },
        "peak": stats.peak_memory_in_bytes,
    }


def needed_memory(message: str) -> int | None:
    """Bytes that a program would need, from the compiler's complaint; None where it complains of something else.

    Example:
        >>> needed_memory("Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.") / (1 << 30)
        20.5
    """
    if "hbm" not in message.lower():
        return None
    found = re.search(r"Used ([\d.]+)([KMGT])i? of|total memory required[^(]*\(([\d.]+)([KMGT])", message)
    if found is None:
        return None
    amount, unit = found[1] or found[3], found[2] or found[4]
    return int(float(amount) * {"K": 1 << 10, "M": 1 << 20, "G": GIB, "T": GIB << 10}[unit])


def main(directory: Path) -> None:
    """Compile what a directory asks for."""
    settings = RunConfig.parse(json.loads((directory / SETTINGS).read_text(encoding="utf-8")))
    try:
        result = compile_settings(settings, directory / PROGRAM)
    except TritterError as error:
        result = {"error": error.to_json()}
    (directory / RESULT).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
