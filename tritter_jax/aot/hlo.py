"""Compiled programs as text: what the TPU compiler prints, read into computations and instructions.

Only what the costs need is read: shapes and where they lie, operands, called computations, loops' trip counts.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32,
         "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64}  # fmt: skip
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLED = re.compile(r"(calls|to_apply|condition|body|true_computation|false_computation)=%([\w.\-]+)")


@dataclass(frozen=True)
class ArrayShape:
    """One array: element type, length of each axis, and whether it lies in the chip's main memory."""

    dtype: str
    dims: tuple[int, ...]
    in_memory: bool

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes, without the padding of its tiles."""
        return self.elements * _BITS.get(self.dtype, 8) // 8


@dataclass(frozen=True)
class Instruction:
    """One instruction: its arrays, what it does, on what, and the rest of its line."""

    name: str
    arrays: tuple[ArrayShape, ...]
    opcode: str
    operands: tuple[str, ...]
    argument: str
    attributes: str
    root: bool

    @cached_property
    def called(self) -> dict[str, str]:
        """Computations that it calls, by the attribute that names them."""
        return dict(_CALLED.findall(self.attributes))

    @cached_property
    def branches(self) -> list[str]:
        """The computations of a conditional."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed:
            return re.findall(r"%([\w.\-]+)", listed[1])
        return [name for key, name in self.called.items() if key.endswith("_computation")]

    @property
    def nbytes(self) -> int:
        """Bytes of its result, wherever that lies."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def memory_bytes(self) -> int:
        """Bytes of its result that lie in main memory."""
        return sum(array.nbytes for array in self.arrays if array.in_memory)


Computation = Mapping[str, Instruction]


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Args:
        computations: by name.
        entry: name of the one that is run.
    """

    computations: Mapping[str, Computation]
    entry: str

    @classmethod
    def parse(cls, text: str) -> "Program":
        """Read what `compiled.as_text()` gives.

        Example:
            >>> lines = "ENTRY %main (x: f32[2]) -> f32[2] {", "  ROOT %x = f32[2]{0} parameter(0)", "}"
            >>> program = Program.parse("\\n".join(lines))
            >>> program.computations["main"]["x"].nbytes
            8
        """
        computations: dict[str, dict[str, Instruction]] = {}
        current: dict[str, Instruction] = {}
        entry = ""
        for line in text.splitlines():
            if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
                current = computations.setdefault(head[2], {})
                entry = head[2] if head[1] else entry
            elif (found := _INSTRUCTION.match(line)) is not None:
                instruction = _instruction(found[1], line, found.end())
                current[instruction.name] = instruction
        return cls(computations, entry)

    def root(self, computation: str) -> Instruction:
        """The instruction whose result is that of a computation."""
        return next(one for one in self.computations[computation].values() if one.root)

    def trips(self, loop: Instruction, where: Computation) -> int | None:
        """How often a loop's body runs, by its counter's start, step and bound; None where they are no constants."""
        condition, body = (self.computations[loop.called[key]] for key in ("condition", "body"))
        compare = self.root(loop.called["condition"])
        if compare.opcode != "compare" or "direction=LT" not in compare.attributes:
            return None
        counter, bound = (_source(condition, name) for name in compare.operands)
        initial = where.get(loop.operands[0])
        if counter is None or initial is None or counter.opcode != "get-tuple-element" or initial.opcode != "tuple":
            return None
        place = _index(counter)
        end = self._constant(bound, initial, where)
        start = self._constant(counter, initial, where)
        step = self._step(body, self.root(loop.called["body"]), place)
        return None if end is None or step is None else max(0, -(-(end - (start or 0)) // step))

    def _constant(self, value: Instruction | None, initial: Instruction, where: Computation) -> int | None:
        if value is not None and value.opcode == "get-tuple-element":
            value = _source(where, initial.operands[_index(value)])
        if value is None or value.opcode != "constant" or not re.fullmatch(r"-?\d+", value.argument):
            return None
        return int(value.argument)

    def _step(self, body: Computation, root: Instruction, place: int) -> int | None:
        following = _source(body, root.operands[place]) if root.opcode == "tuple" else None
        if following is not None and following.opcode == "fusion":
            body = self.computations[following.called["calls"]]
            following = self.root(following.called["calls"])
        if following is None or following.opcode != "add":
            return None
        steps = [_source(body, name) for name in following.operands]
        return next((int(one.argument) for one in steps if one is not None and one.opcode == "constant"), None)


def _instruction(name: str, line: str, start: int) -> Instruction:
    # A tuple's shape has parentheses around arrays, whose tiles have some of their own.
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", _ARRAY.match(line, start).end())  # type: ignore[union-attr]
    arrays = tuple(
        ArrayShape(kind, tuple(int(size) for size in dims.split(",") if size), "S(" not in layout)
        for kind, dims, layout in _ARRAY.findall(line[start:end])
    )
    opcode = _OPCODE.match(line, end)
    assert opcode is not None, line[:200]
    close = _closing(line, opcode.end() - 1)
    argument = line[opcode.end() : close]
    operands = tuple(re.findall(r"%([\w.\-]+)", argument))
    return Instruction(
        name, arrays, opcode[1], operands, argument, line[close + 1 :], line.lstrip().startswith("ROOT")
    )


def _closing(line: str, start: int) -> int:
    depth = 0
    for place in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"unbalanced: {line[:200]}")


def _source(computation: Computation, name: str) -> Instruction | None:
    """The instruction that makes a value, behind what only moves it."""
    value = computation.get(name)
    while value is not None and value.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
        value = computation.get(value.operands[0])
    return value


def _index(element: Instruction) -> int:
    found = re.search(r"index=(\d+)", element.attributes)
    assert found is not None, element.name
    return int(found[1])


def first_group(attributes: str) -> list[int]:
    """The devices that the first of a collective's groups joins, in any of the notations that XLA writes.

    Example:
        >>> first_group("replica_groups={{0,2},{1,3}}"), first_group("replica_groups=[2,2]<=[2,2]T(1,0)")
        ([0, 2], [0, 2])
        >>> first_group("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}")
        [0, 1, 2, 3]
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}?", attributes):
        return [int(number) for number in re.findall(r"\d+", pairs[1])[:2]]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return [int(number) for number in listed[1].split(",")]
    if tiled := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        groups, dims = ([int(number) for number in part.split(",")] for part in tiled.group(1, 2))
        order = [int(number) for number in tiled[3].split(",")] if tiled[3] else list(range(len(dims)))
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(groups)[0].tolist()
    if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", meshed[1])}
        devices = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        taken: list[slice | int] = [slice(None) if f"'{name}'" in meshed[2] else 0 for name in sizes]
        return devices[tuple(taken)].reshape(-1).tolist()
    return []
