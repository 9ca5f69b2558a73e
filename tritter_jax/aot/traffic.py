"""Bytes that one instruction of a compiled program moves to and from main memory, and the products it computes."""

import math
import re

from tritter_jax.aot.hlo import Computation, Instruction, Program

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
}  # fmt: skip
_FREE_CALLS = ('"AllocateBuffer"', '"ConcatBitcast"', '"AssumeGatherIndicesInBound"')
_PARTS = {"dynamic-slice", "slice", "gather"}
"""What reads a part of its operand only, as large as its result."""


def memory_traffic(program: Program, one: Instruction, where: Computation) -> float:
    """Bytes read from and written to main memory; what lies in the chip's smaller memories costs nothing.

    Args:
        program: the whole program.
        one: the instruction; of one that calls others, but for fusions, nothing is counted.
        where: the computation that it is in.
    """
    kind = one.opcode
    if kind in _FREE or kind.endswith("-done") or any(name in one.attributes for name in _FREE_CALLS):
        return 0
    if kind in ("copy-start", "collective-permute-start"):
        return sum(array.nbytes for array in one.arrays if array.in_memory)
    if kind == "send":  # whose result is its operand
        return _of(where, one.operands[0])
    if kind == "slice-start":
        taken = one.arrays[-2]
        return taken.nbytes * (1 + taken.in_memory)
    if kind == "fusion":
        return _fusion_traffic(program, one, where)
    if kind == "dynamic-update-slice":
        return 2 * where[one.operands[1]].nbytes if one.memory_bytes else 0
    if kind in _PARTS:
        return one.nbytes * bool(_of(where, one.operands[0])) + one.memory_bytes
    return sum(_of(where, name) for name in one.operands) + one.memory_bytes


def _of(where: Computation, name: str) -> int:
    return where[name].memory_bytes if name in where else 0


def _fusion_traffic(program: Program, one: Instruction, where: Computation) -> float:
    called = one.called["calls"]
    total = 0.0
    for place, name in enumerate(one.operands):
        whole = _of(where, name)
        total += min(whole, _read(program, called, place, whole)) if whole else 0
    root = program.root(called)
    inner = program.computations[called]
    results = [inner[name] for name in root.operands if name in inner] if root.opcode == "tuple" else [root]
    updated = [result for result in results if result.opcode == "dynamic-update-slice"]
    if updated and one.memory_bytes:  # in place: only the update is written
        rest = one.nbytes - sum(result.nbytes for result in updated)
        return total + max(0, rest) + sum(inner[result.operands[1]].nbytes for result in updated)
    return total + one.memory_bytes


def _read(program: Program, name: str, place: int, whole: int) -> float:
    """Bytes that a fused computation reads of one of its parameters."""
    inner = program.computations[name]
    names = {one.name for one in inner.values() if one.opcode == "parameter" and one.argument == str(place)}
    total = 0.0
    for one in inner.values():
        used = [at for at, operand in enumerate(one.operands) if operand in names]
        if not used:
            continue
        if one.opcode == "bitcast":
            names.add(one.name)
        elif one.opcode in _PARTS and used == [0]:
            total += one.nbytes
        elif one.opcode == "fusion":
            total += sum(_read(program, one.called["calls"], at, whole) for at in used)
        elif not (one.opcode == "dynamic-update-slice" and used == [0]):
            return whole
    return total


def product_flops(one: Instruction, where: Computation) -> float:
    """Floating-point operations of a matrix product or convolution, a multiplication and an addition for each term.

    The TPU compiler writes products as convolutions, whose padding and dilation hold terms that are never computed.
    """
    left, right = (where[name].arrays[0].dims for name in one.operands[:2])
    result = one.arrays[0]
    if one.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
        contracted = [left[int(axis)] for axis in found[1].split(",") if axis] if found else []
        return 2.0 * result.elements * math.prod(contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if labels is None:
        return 0
    lhs, rhs, out = labels.groups()
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", one.attributes) or [""])[0]))
    terms = 1.0
    for place in range(len(lhs) - 2):
        axis = str(place)
        at = (left[lhs.index(axis)], right[rhs.index(axis)], result.dims[out.index(axis)])
        terms *= _terms(*at, {key: value.split("x")[place] for key, value in window.items()})
    groups = re.search(r"batch_group_count=(\d+)", one.attributes)
    batch = result.dims[out.index("b")] / (int(groups[1]) if groups and "b" not in out else 1)
    return 2.0 * batch * result.dims[out.index("f")] * right[rhs.index("i")] * terms


def _terms(length: int, kernel: int, results: int, window: dict[str, str]) -> int:
    """Pairs of a result and a kernel place that meet an element of the operand, along one axis of a convolution."""
    stride, dilate, spread = (int(window.get(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    before = int(window.get("pad", "0_0").split("_")[0])
    extent = (length - 1) * dilate + 1
    total = 0
    for place in range(kernel):
        first = place * spread - before
        if stride == dilate == 1:
            total += max(0, min(results, extent - first) - max(0, -first))
        else:
            total += sum(
                0 <= at < extent and at % dilate == 0 for at in range(first, first + results * stride, stride)
            )
    return total
