"""What each process of `test_processes_grow` does: python -m tests.train.member SOURCE DIRECTORY FAULT

It grows SOURCE on the devices of all, saves it, and measures its Fisher information; FAULT loses one of them.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tprog.flax
from tprog import hashing
from tprog.reader import Checkpoint, open_checkpoint

from tritter_jax.continual import Progress
from tritter_jax.growth import Plan, make_plan
from tritter_jax.growth.onto_mesh import grow_onto, grow_optimizer_onto
from tritter_jax.sharding import MeshShape, make_mesh, param_shardings
from tritter_jax.train.config import RunConfig
from tritter_jax.train.fisher import Measured, measure_fisher
from tritter_jax.train.processes import start_processes
from tritter_jax.train.setup import Run, prepare
from tritter_jax.train.state import TrainState, grow_state

GROWN, MEASURED, TEXT = "grown.tprog", "measured.tprog", "text.txt"
MEASURING = {"samples": 48, "batch_size": 8, "sequence_length": 16}
STALLED = 24
"""Rows after which a process that is to be lost waits for that."""
LARGER = {"hidden_size": 48, "num_layers": 3, "num_heads": 8, "num_kv_heads": 4, "intermediate_size": 80}


def plan_of(source: Checkpoint) -> Plan:
    """The growth: depth, width, heads and feed-forward."""
    return make_plan(source.config, replace(source.config, **LARGER), layers=[1])


def run_on(source: Checkpoint, shape: MeshShape, directory: Path) -> Run:
    """A run that would go on from a checkpoint."""
    data = {"train": str(directory / TEXT), "cache": str(directory), "sequence_length": 32, "tokenizer": "bytes"}
    return prepare(RunConfig.parse({"model": {"checkpoint": str(source.path)}, "mesh": vars(shape), "data": data}))


def grown_state(run: Run, source: Checkpoint) -> TrainState:
    """The state that it would go on with, grown where it lies."""
    return grow_state(run.first_state(), plan_of(source), run.optimizer)


def require_same_pieces(one: Any, other: Any) -> None:
    """What this process holds of two trees is equal, bit for bit."""
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        # A count lies on one device here, on all of them there.
        pieces = theirs.addressable_shards[: len(mine.addressable_shards)]
        for piece, due in zip(mine.addressable_shards, pieces, strict=True):
            assert piece.index == due.index
            np.testing.assert_array_equal(piece.data, due.data)


def measured(directory: Path, shape: MeshShape, **options) -> Measured:
    """The Fisher information of what was grown."""
    return measure_fisher(
        open_checkpoint(directory / GROWN), str(directory / TEXT), directory / MEASURED, mesh=make_mesh(shape),
        cache=directory, tokenizer="bytes", **MEASURING, **options,
    )  # fmt: skip


def main(source: str, directory: Path, fault: str) -> None:
    """One process' part."""
    start_processes()
    mine, shape = jax.process_index() == 1, MeshShape(fsdp=4, tensor=2)
    checkpoint, mesh = open_checkpoint(source), make_mesh(shape)
    run, plan = run_on(checkpoint, shape, directory), plan_of(checkpoint)
    shardings = param_shardings(plan.target, mesh)
    params = grow_onto(checkpoint, plan, shardings)
    opt_state = grow_optimizer_onto(checkpoint, plan, run.optimizer, shardings)
    for tree in (params, opt_state):
        assert not any(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree) if leaf.ndim > 1)
    require_same_pieces(opt_state, grown_state(run, checkpoint).opt_state)
    if fault == "save" and mine:
        hashing.HashedFile.write = lambda self, data: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    tprog.flax.save(directory / GROWN, params, plan.target, opt_state=opt_state)

    def report(at: Progress) -> None:
        if fault == "measure" and mine and at.rows == STALLED:
            print("stalled", flush=True)
            time.sleep(600)

    measured(directory, shape, save_every=0.0, report=report)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
