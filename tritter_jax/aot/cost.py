"""What a compiled program does on each device: products, bytes to and from memory, bytes from other devices.

XLA's own cost analysis counts a loop's body once; here it counts as often as it runs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from tritter_jax.aot.hlo import Computation, Instruction, Program, first_group
from tritter_jax.aot.traffic import memory_traffic, product_flops

_RECEIVED: dict[str, Callable[[float, int], float]] = {
    "all-gather": lambda size, devices: size * (devices - 1),
    "reduce-scatter": lambda size, devices: size * (devices - 1) / devices,
    "all-reduce": lambda size, devices: 2 * size * (devices - 1) / devices,
    "all-to-all": lambda size, devices: size * (devices - 1) / devices,
    "ragged-all-to-all": lambda size, devices: size * (devices - 1) / devices,
    "collective-permute": lambda size, devices: size,
}
"""Bytes that a device receives, by kind: from its operands' size and the number of devices, around a ring."""
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
"""What the compiler says of a collective's part between slices, which it writes as a transfer by way of the host."""
_ONE_TO_ONE = "one-to-one"
"""What the compiler calls a permutation there."""


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation.

    Args:
        kind: its opcode.
        received: bytes that each device receives in one go.
        result: elements of its result.
        across: whether it joins devices of several slices.
        channel: what tells it from others; one that is spread over several fusions appears in each of them.
        times: how often it runs.
        looped: whether it runs in a loop.
    """

    kind: str
    received: float
    result: int
    across: bool
    channel: str
    times: float = 1
    looped: bool = False


@dataclass
class Cost:
    """Totals for a device.

    `unknown` is the number of loops whose trips are not known, each of which counts once, and of transfers between
    slices of a kind that is not known, each of which counts what is sent.
    """

    flops: float = 0
    bytes: float = 0
    unknown: int = 0
    collectives: dict[str, Collective] = field(default_factory=dict)

    def add(self, other: "Cost", times: float = 1, *, looped: bool = False) -> None:
        """Count another's totals so many times."""
        self.flops += other.flops * times
        self.bytes += other.bytes * times
        self.unknown += other.unknown
        for name, one in other.collectives.items():
            self.collectives[name] = replace(one, times=one.times * times, looped=one.looped or looped)


def program_cost(program: Program, *, slice_devices: int, slices: int = 1) -> Cost:
    """Totals of a program for each device.

    Args:
        program: from `Program.parse`.
        slice_devices: number of devices in a slice.
        slices: number of slices.
    """

    @cache
    def cost(name: str) -> Cost:
        total, where = Cost(), program.computations[name]
        for one in where.values():
            kind = one.opcode.removesuffix("-start")
            if one.opcode == "while":
                trips = program.trips(one, where)
                total.unknown += trips is None
                total.add(cost(one.called["body"]), 1 if trips is None else trips, looped=True)
            elif one.opcode == "conditional":
                total.add(max((cost(branch) for branch in one.branches), key=lambda each: (each.bytes, each.flops)))
            elif one.opcode == "fusion":
                inner = cost(one.called["calls"])
                total.add(replace(inner, bytes=memory_traffic(program, one, where)))
            elif one.opcode in ("call", "async-start"):
                total.add(cost(one.called.get("calls") or one.called["to_apply"]))
            else:
                total.bytes += memory_traffic(program, one, where)
                if one.opcode in ("convolution", "dot"):
                    total.flops += product_flops(one, where)
                elif one.opcode == "send" and (between := _BETWEEN_SLICES.search(one.attributes)):
                    found = _between_slices(one, between, where, slices)
                    total.collectives[found.channel] = found
                    total.unknown += found.kind not in _RECEIVED
                elif kind in _RECEIVED:
                    # The TPU compiler writes a sum of which each device keeps a part as a fusion of that name.
                    kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else kind
                    found = _collective(one, kind, where, slice_devices)
                    total.collectives[found.channel] = found
        return total

    return cost(program.entry)


def _between_slices(one: Instruction, said: re.Match[str], where: Computation, slices: int) -> Collective:
    kind, operand = said[1].lower().replace("_", "-"), where[one.operands[0]]
    kind = "collective-permute" if kind == _ONE_TO_ONE else kind
    return Collective(
        kind=kind,
        received=_RECEIVED.get(kind, lambda size, _: size)(operand.nbytes, slices),
        result=max(array.elements for array in operand.arrays),
        across=True,
        channel=f"{kind} {one.name} between slices",
    )


def _collective(one: Instruction, kind: str, where: Computation, slice_devices: int) -> Collective:
    group = first_group(one.attributes)
    size = sum(where[name].nbytes for name in one.operands if name in where)
    # Permutations that the program itself asks for all have one channel, and are never spread over fusions.
    channel = None if kind == "collective-permute" else re.search(r"channel_id=(\d+)", one.attributes)
    return Collective(
        kind=kind,
        received=_RECEIVED[kind](size, max(1, len(group))),
        result=max(array.elements for array in one.arrays),
        across=len({device // slice_devices for device in group}) > 1,
        channel=f"{kind} {channel[1] if channel else one.name}",
    )
