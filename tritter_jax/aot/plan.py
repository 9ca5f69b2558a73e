"""The best configuration of a model on a slice: candidates ranked by a rough estimate, the first of them compiled."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tprog import ModelConfig, TritterError, UsageError, count_parameters, named_size

from tritter_jax.aot.check import check
from tritter_jax.aot.report import Check
from tritter_jax.aot.topology import Topology
from tritter_jax.model import REMAT
from tritter_jax.train.config import RunConfig

_ROWS = (1, 2, 4, 8, 16)
_TENSOR = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A mesh, a batch and a choice of remat, with what they should take by a rough estimate.

    Args:
        data: mesh axis.
        fsdp: mesh axis.
        tensor: mesh axis.
        batch: rows of all devices.
        remat: what is computed again, a key of `REMAT`.
        memory: estimated bytes a device.
        seconds: estimated seconds a token of the whole machine, between all and nothing of the work overlapping.
    """

    data: int
    fsdp: int
    tensor: int
    batch: int
    remat: str
    memory: float
    seconds: float

    def settings(self, size: str, topology: Topology, sequence_length: int) -> RunConfig:
        """The run configuration."""
        config = named_size(size)
        return RunConfig.parse(
            {
                "model": {"size": size, "vocab_size": config.vocab_size},
                "data": {"sequence_length": sequence_length, "batch_size": self.batch},
                "training": {"compute_dtype": "bfloat16", "remat": self.remat},
                "mesh": {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor},
                "machine": {"topology": topology.name, "slices": topology.slices},
            }
        )


def candidates(config: ModelConfig, topology: Topology, sequence_length: int) -> list[Candidate]:
    """Every mesh that divides the model with every batch and remat, the best by the estimate first.

    Those whose estimate is above the chip's memory by more than a fifth are left out.

    Example:
        >>> first = candidates(named_size("3B"), Topology.parse("v5p:2x2x1"), 4096)[0]
        >>> first.data * first.fsdp * first.tensor
        4
    """
    found = [
        _estimate(config, topology, sequence_length, mesh, rows, remat)
        for mesh in _meshes(config, topology)
        for rows in _ROWS
        for remat in REMAT
    ]
    room = 1.2 * topology.chip.memory
    ranked = sorted((one for one in found if one.memory < room), key=lambda one: (one.seconds, one.memory))
    # What takes as long and stores more is no better.
    least: dict[tuple[float, ...], Candidate] = {}
    for one in ranked:
        least.setdefault((one.data, one.fsdp, one.tensor, one.batch, one.seconds), one)
    return list(least.values())


def best(
    size: str,
    topology: Topology,
    *,
    sequence_length: int = 4096,
    compiled: int = 4,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Check, list[Check]]:
    """The candidate with the most tokens a second by the rooflines of what was compiled, and all that were.

    Args:
        size: a named size.
        topology: the slice or slices.
        sequence_length: tokens in a row.
        compiled: number of candidates that fit to compile.
        say: told what is compiled.

    Raises:
        UsageError: nothing fits.
        ConfigError: there is no such size.
    """
    config = named_size(size)
    tried: list[Check] = []
    for number, candidate in enumerate(candidates(config, topology, sequence_length)):
        if sum(one.fits for one in tried) == compiled or number == 4 * compiled:
            break
        try:
            tried.append(
                check(
                    candidate.settings(size, topology, sequence_length),
                    f"data {candidate.data} fsdp {candidate.fsdp} tensor {candidate.tensor} batch {candidate.batch}"
                    f" remat {candidate.remat}",
                    remedies=False,
                    say=say,
                )
            )
        except TritterError as error:
            say(str(error))
    fitting = [one for one in tried if one.fits]
    if not fitting:
        least = min((one.needed for one in tried), default=0)
        raise UsageError(
            f"{size} on {topology.slices} x {topology.name}", expected="a mesh, batch and remat that fit",
            got=f"at least {least / 1e9:.1f} GB a device, of {topology.chip.memory / 1e9:.1f}" if tried else "none",
            remedy="Take a larger slice, a chip with more memory, or a shorter --sequence-length.",
        )  # fmt: skip
    return min(fitting, key=lambda one: between(one.times().values()) / one.tokens), tried


def between(times: Iterable[float]) -> float:
    """The middle between what work takes if all its parts overlap and what it takes if none do.

    Example:
        >>> between([2.0, 1.0, 1.0])
        3.0
    """
    parts = list(times)
    return (max(parts) + sum(parts)) / 2


def _meshes(config: ModelConfig, topology: Topology) -> Iterator[tuple[int, int, int]]:
    inner = topology.device_count // topology.slices
    for tensor in _TENSOR:
        if any(size % tensor for size in (config.num_kv_heads, config.intermediate_size, config.vocab_size, inner)):
            continue
        rest = inner // tensor
        for data in (1, 2, 4):
            if rest % data == 0 and config.hidden_size % (rest // data) == 0:
                yield topology.slices * data, rest // data, tensor


def _estimate(
    config: ModelConfig, topology: Topology, length: int, mesh: tuple[int, int, int], rows: int, remat: str
) -> Candidate:
    """Memory and time from sizes alone; what the compiler makes of it decides."""
    data, fsdp, tensor = mesh
    chip, parameters, tokens = topology.chip, count_parameters(config), rows * length
    hidden, policy = config.hidden_size, REMAT[remat]
    kept = policy.entries(config, length, tensor)
    state = 18 * parameters / (fsdp * tensor)  # masters, moments, gradients, and two bytes of working copies
    scores = 3 * 4 * rows * config.num_heads / tensor * min(1024, length) * length
    memory = state + 2 * tokens * kept * config.num_layers + scores + 16 * tokens * 8192 / tensor
    products = (6 + 2 * policy.recomputed(config)) * tokens * parameters / tensor / chip.flops
    # Parameters are gathered twice and their gradients scattered; activations cross the tensor axis four times.
    moved = 3 * 2 * parameters / tensor + (4 * 2 * tokens * hidden * config.num_layers * 2 if tensor > 1 else 0)
    network = 2 * 2 * parameters / (fsdp * tensor) / chip.network if topology.slices > 1 else 0.0
    # Alone, the longest of these would rate alike every mesh that the products bind.
    step = between((products + 12 * scores * config.num_layers / chip.bandwidth, moved / chip.links, network))
    return Candidate(
        data=data, fsdp=fsdp, tensor=tensor, batch=rows * data * fsdp, remat=remat, memory=memory,
        seconds=step / (tokens * math.prod((data, fsdp))),
    )  # fmt: skip
