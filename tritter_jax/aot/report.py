"""What a configuration takes of its machine: memory, work, and the least time that work can take."""

from dataclasses import dataclass, field
from typing import Any

from tprog import ModelConfig, count_parameters

from tritter_jax.aot.cost import Cost
from tritter_jax.aot.topology import Topology
from tritter_jax.train.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change that was tried on a configuration that does not fit: its fields, what it needs, whether it fits."""

    changes: dict[str, Any]
    needed: int
    fits: bool

    def __str__(self) -> str:
        return ", ".join(f"{name} = {str(value).lower()}" for name, value in self.changes.items())


@dataclass(frozen=True, kw_only=True)
class Check:
    """A configuration, compiled.

    Args:
        name: of the configuration.
        settings: the configuration.
        topology: its machine.
        config: the model.
        memory: bytes a device by kind; None where the program does not fit.
        needed: bytes a device in all; the sum of `memory` where it fits.
        peak: bytes a device at once, as the compiler states them, where it does.
        cost: what a device does; None where the program does not fit.
        whole: kinds and sizes of all-gathers outside loops that put a whole parameter on every device.
        remedies: changes that were tried where it does not fit.
    """

    name: str
    settings: RunConfig
    topology: Topology
    config: ModelConfig
    memory: dict[str, int] | None
    needed: int
    cost: Cost | None
    peak: int | None = None
    whole: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = field(default=())

    @property
    def fits(self) -> bool:
        """Whether the compiler found room for it."""
        return self.memory is not None

    @property
    def tokens(self) -> int:
        """Tokens of a step on all devices; 0 for growth."""
        data = self.settings.data
        return 0 if self.settings.machine.program == "grow" else data.batch_size * data.sequence_length

    @property
    def model_flops(self) -> float:
        """What a step must compute on all devices, nothing twice: 6 a parameter and token, and causal attention.

        Chowdhery et al. 2022, "PaLM", appendix B, but for the half of the scores that no query may see.
        """
        config = self.config
        table = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
        attention = 6 * config.num_layers * config.num_heads * config.head_dim * self.settings.data.sequence_length
        return float(self.tokens) * (6 * (count_parameters(config) - table) + attention)

    def times(self) -> dict[str, float]:
        """Seconds a step that each part of a device needs at its peak."""
        assert self.cost is not None
        chip = self.topology.chip
        received = dict.fromkeys((False, True), 0.0)
        for one in self.cost.collectives.values():
            received[one.across] += one.received * one.times
        return {
            "products": self.cost.flops / chip.flops,
            "memory": self.cost.bytes / chip.bandwidth,
            "links": received[False] / chip.links,
            "network": received[True] / chip.network,
        }

    def collectives(self) -> list[dict[str, Any]]:
        """By kind: how many a step, and the bytes that each device receives."""
        assert self.cost is not None
        kinds: dict[tuple[str, bool], dict[str, Any]] = {}
        for one in self.cost.collectives.values():
            row = kinds.setdefault(
                (one.kind, one.across), {"kind": one.kind, "across_slices": one.across, "count": 0, "bytes": 0}
            )
            row["count"] += int(one.times)
            row["bytes"] += int(one.received * one.times)
        return sorted(kinds.values(), key=lambda row: -row["bytes"])

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON."""
        chip = self.topology.chip
        result: dict[str, Any] = {
            "name": self.name,
            "program": self.settings.machine.program,
            "topology": self.topology.name,
            "slices": self.topology.slices,
            "devices": self.topology.device_count,
            "parameters": count_parameters(self.config),
            "fits": self.fits,
            "memory": {"available": chip.memory, "needed": self.needed, **(self.memory or {})},
        }
        if self.peak is not None:
            result["memory"]["peak"] = self.peak
        if self.cost is None:
            short = self.needed - chip.memory
            tried = [{"changes": one.changes, "needed": one.needed, "fits": one.fits} for one in self.remedies]
            return result | {"short_by": short, "tried": tried}
        times = self.times()
        least, most = max(times.values()), sum(times.values())
        share = self.model_flops / (self.topology.device_count * chip.flops)
        return result | {
            "flops": self.cost.flops,
            "bytes": self.cost.bytes,
            "collectives": self.collectives(),
            "whole_parameter_gathers": list(self.whole),
            "loops_counted_once": self.cost.unknown,
            "roofline": {
                "seconds": times,
                "bound_by": max(times, key=lambda name: times[name]),
                "step_seconds": {"all_overlapped": least, "none_overlapped": most},
                "tokens_per_second": {"all_overlapped": self.tokens / least, "none_overlapped": self.tokens / most},
                "utilisation": {"all_overlapped": share / least, "none_overlapped": share / most},
                "peaks": {
                    "flops": chip.flops, "memory": chip.bandwidth, "links": chip.links, "network": chip.network,
                    "source": chip.source,
                },
            },
        }  # fmt: skip
