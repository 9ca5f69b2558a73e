"""A measurement of Fisher information that was begun: kept beside its destination until it is done.

{destination}.measuring/state.json       what is measured, and how far it is
                        squares.safetensors   the sums so far, as the parameters of a `.tprog`, float32
"""

import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tprog.flax
from jax.sharding import Mesh
from tprog import FormatError, ModelConfig, UsageError
from tprog.commit import new_directory
from tprog.flax_host import processes
from tprog.flax_load import Shardings, load_tree, require_whole
from tprog.gang import shared_directory
from tprog.jsonio import read_json, write_json
from tprog.reader import Checkpoint
from tprog.shards import write_shards
from tprog.weights import find_part

from tritter_jax.continual import FisherSum, Progress
from tritter_jax.data import TrainBatches
from tritter_jax.train.processes import any_process

Say = Callable[[str], None]

_STATE, _SQUARES = "state.json", "squares"
_MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Where a measurement is kept while it goes on.

    Args:
        path: the directory.
        config: the model.
        command: what it depends on, as JSON; under `model` which weights it is of.
    """

    path: Path
    config: ModelConfig
    command: Mapping[str, Any]

    @classmethod
    def beside(cls, destination: Path, config: ModelConfig, command: Mapping[str, Any]) -> "Measuring":
        """The one that belongs to a checkpoint that is to be written."""
        return cls(path=destination.with_name(f"{destination.name}.measuring"), config=config, command=command)

    def save(self, total: FisherSum, place: Mapping[str, Any]) -> None:
        """Keep what was measured so far; it appears whole, or what was kept before stays. All processes call it.

        Raises:
            UsageError: the directory cannot be written.
        """
        gang = processes()
        squares = tprog.flax.to_tensors(total.squares, self.config)
        size = sum(spec.nbytes for spec in squares.specs.values())
        make = partial(new_directory, self.path, overwrite=True, needed=size, is_ours=_is_measuring)
        with shared_directory(gang, self.path, make) as temporary:
            write_shards(temporary, _SQUARES, squares, shard_size=size, metadata={}, gang=gang)
            if gang.rank == 0:
                counts = {name: int(getattr(total, name)) for name in _COUNTS}
                write_json(temporary / _STATE, {"command": dict(self.command), "place": dict(place)} | counts)

    def load(self, shardings: Shardings | None, say: Say) -> tuple[FisherSum | None, dict[str, Any]]:
        """What was kept, and its place in the data; None where there is nothing to go on from.

        Args:
            shardings: how to spread the sums.
            say: told where what was kept is of weights that are no longer there.

        Raises:
            UsageError: what was kept is of another command.
            FormatError: it is broken.
        """
        if not _is_measuring(self.path):
            return None, {}
        state = read_json(self.path / _STATE)
        command = state.get("command")
        if not isinstance(command, Mapping) or not isinstance(state.get("place"), Mapping):
            raise self._broken("a command and a place")
        other = {name: command.get(name) for name in self.command if command.get(name) != self.command[name]}
        if _MODEL in other:
            say(f"{self.path} was begun on other weights; measuring anew")
            return None, {}
        if other:
            raise UsageError(
                self.path, expected="the measurement that this command began", got="one that another began",
                remedy="Run that one again to go on, or begin anew with --restart.",
                findings=[f"{name}: {value!r} there, {self.command[name]!r} here" for name, value in other.items()],
            )  # fmt: skip
        counts: list[Any] = [state.get(name) for name in _COUNTS]
        squares = find_part(self.path, _SQUARES)
        if squares is None or not all(type(count) is int and count > 0 for count in counts):
            raise self._broken("sums and counts")
        require_whole(squares, self.config, what="sum", where=self.path)
        tree = load_tree(squares, self.config, shardings=shardings)
        if not all(bool(jnp.all(jnp.isfinite(leaf) & (leaf >= 0))) for leaf in jax.tree.leaves(tree)):
            raise self._broken("sums of squares")
        return FisherSum(tree, *counts), dict(state["place"])

    def remove(self) -> None:
        """Throw it away, if there is any."""
        if processes().rank == 0 and _is_measuring(self.path):
            shutil.rmtree(self.path)

    def _broken(self, expected: str) -> FormatError:
        return FormatError(self.path, expected=expected, got="something else", remedy="Begin anew with --restart.")


def weights_identity(checkpoint: Checkpoint) -> Any:
    """Which weights these are: the save they are of, or where there is none, their files as they lie there."""
    if checkpoint.progressive.manifest is not None:
        return checkpoint.progressive.manifest.save_id
    stats = {name: (checkpoint.path / name).stat() for name in sorted(checkpoint.weights.files)}
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]


class Keeper:
    """Told after every batch: saves now and then, and ends the measuring where a signal asks for it.

    Args:
        kept: where to save.
        batches: whose place is saved along.
        mesh: the devices.
        samples: number of rows after which there is nothing left to save.
        every: seconds between two saves.
        preempted: the number of the signal that asked for an end, or 0.
        say: told of an end.

    Attributes:
        change: the last relative change.
    """

    def __init__(
        self,
        kept: Measuring,
        batches: TrainBatches,
        mesh: Mesh,
        samples: int,
        every: float,
        preempted: Callable[[], int],
        say: Say,
    ) -> None:
        self._kept, self._batches, self._samples, self._every = kept, batches, samples, every
        self._preempted, self._say = preempted, say
        self._stop, self._due = any_process(mesh), any_process(mesh)
        self._saved, self._took = time.monotonic(), 0.0
        self.change = 1.0

    def __call__(self, at: Progress) -> None:
        """Look at the clock and for signals.

        Raises:
            KeyboardInterrupt, SystemExit: a signal asked for an end; what was measured is saved.
        """
        self.change = at.change
        waited = time.monotonic() - self._saved
        # Every process asks both, whatever the answers.
        stop, due = self._stop(bool(self._preempted())), self._due(waited >= max(self._every, _RARELY * self._took))
        if at.rows >= self._samples or not (stop or due):
            return
        begun = time.monotonic()
        self._kept.save(at.total, self._batches.get_state())
        self._saved = time.monotonic()
        self._took = self._saved - begun
        if stop:
            self._say(
                f"stopped after {at.rows:,} of {self._samples:,} rows, kept in {self._kept.path}; "
                "the same command goes on from there"
            )
            raise SystemExit(128 + signal.SIGTERM) if self._preempted() == signal.SIGTERM else KeyboardInterrupt


_COUNTS = FisherSum._fields[1:]
_RARELY = 20
"""Saving takes at most one part in so many of the time."""


def _is_measuring(path: Path) -> bool:
    return (path / _STATE).is_file()
