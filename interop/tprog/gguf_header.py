"""The header of a GGUF file, read with bounds: its description, and where each tensor lies."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from tprog.errors import FormatError
from tprog.foreign import kind_of_file

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_KEYS, _MOST_TENSORS = 4096, 65_536
_MOST_ITEMS, _MOST_ITEMS_IN_ALL = 1 << 21, 1 << 22
_LONGEST_NAME, _LONGEST_TEXT, _MOST_TEXT = 1024, 8 << 20, 32 << 20
_MOST_AXES = 4
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True, kw_only=True)
class GGUFTensor:
    """Where a tensor lies.

    Args:
        name: GGUF's name for it.
        type: GGUF's number of how it is stored.
        shape: its axes, outermost first.
        offset: of its first byte in the file.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, kw_only=True)
class GGUFHeader:
    """What a file says before its tensors.

    Args:
        path: the file.
        size: its length.
        fields: its description by key: numbers, text, lists of text, arrays of numbers.
        tensors: its tensors by name.
    """

    path: Path
    size: int
    fields: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


def read_header(path: Path) -> GGUFHeader:
    """Read a GGUF file's header.

    Raises:
        FormatError: it is none, is cut off, is of a version or byte order that is not read, or says a thing twice.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.gguf"); _ = path.write_bytes(b"GGUF")
        >>> read_header(path)
        Traceback (most recent call last):
        tprog.errors.FormatError: /...: expected a whole GGUF file, got one that is cut off. Fetch the file again.
    """
    if not path.is_file():
        raise FormatError(path, expected="a GGUF file", got="no file", remedy="Check the path.")
    with path.open("rb") as file:
        return _Reader(path, file, path.stat().st_size).header()


class _Reader:
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.text_left, self.items_left = _MOST_TEXT, _MOST_ITEMS_IN_ALL

    def header(self) -> GGUFHeader:
        if self.bytes(4) != MAGIC:
            kind = kind_of_file(self.path)
            self.refuse(kind.got, kind.remedy, expected="a GGUF file")
        version = self.number("<u4")
        if version not in _VERSIONS:
            swapped = version & 0xFFFF == 0
            self.refuse(
                "big-endian numbers" if swapped else f"version {version}", "Convert it with a current llama.cpp.",
                expected=f"a little-endian GGUF file of version {_VERSIONS[0]} or {_VERSIONS[1]}",
            )  # fmt: skip
        tensors, keys = self.count(_MOST_TENSORS, "tensors"), self.count(_MOST_KEYS, "keys")
        fields: dict[str, Any] = {}
        for _ in range(keys):
            key = self.text(_LONGEST_NAME)
            value = self.value(self.number("<u4"))
            if key in fields:
                self.refuse(f"the key {key!r} twice")
            fields[key] = value
        found: dict[str, GGUFTensor] = {}
        for _ in range(tensors):
            tensor = self.tensor()
            if tensor.name in found:
                self.refuse(f"the tensor {tensor.name!r} twice")
            found[tensor.name] = tensor
        alignment = fields.get(_ALIGNMENT, 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            self.refuse(f"{_ALIGNMENT} {alignment!r}"[:100])
        start = -(-self.file.tell() // alignment) * alignment
        placed = {
            name: GGUFTensor(name=name, type=tensor.type, shape=tensor.shape, offset=start + tensor.offset)
            for name, tensor in found.items()
        }
        return GGUFHeader(path=self.path, size=self.size, fields=fields, tensors=placed)

    def tensor(self) -> GGUFTensor:
        name = self.text(_LONGEST_NAME)
        axes = self.number("<u4")
        if not 0 < axes <= _MOST_AXES:
            self.refuse(f"{name!r} with {axes} axes")
        shape = tuple(self.number("<u8") for _ in range(axes))
        if 0 in shape or math.prod(shape) > 1 << 44:
            self.refuse(f"{name!r} of shape {shape}")
        return GGUFTensor(name=name, type=self.number("<u4"), shape=shape[::-1], offset=self.number("<u8"))

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text(_LONGEST_TEXT)
        if kind != _ARRAY:
            return self.number(self.scalar(kind))
        item, count = self.number("<u4"), self.count(min(_MOST_ITEMS, self.items_left), "items")
        self.items_left -= count
        if item == _STRING:
            return [self.text(_LONGEST_TEXT) for _ in range(count)]
        dtype = np.dtype(self.scalar(item))
        return np.frombuffer(self.bytes(count * dtype.itemsize), dtype)

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            self.refuse(f"a value of kind {kind}")
        return _SCALARS[kind]

    def number(self, dtype: str) -> Any:
        kind = np.dtype(dtype)
        return np.frombuffer(self.bytes(kind.itemsize), kind)[0].item()

    def count(self, most: int, what: str) -> int:
        found = self.number("<u8")
        if found > most:
            self.refuse(f"{found} {what}, where at most {most} are read")
        return found

    def text(self, longest: int) -> str:
        (length,) = struct.unpack("<Q", self.bytes(8))
        self.text_left -= length
        if length > longest or self.text_left < 0:
            self.refuse(f"a text of {length} bytes")
        try:
            return self.bytes(length).decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("text that is not UTF-8")

    def bytes(self, length: int) -> bytes:
        if length > self.size - self.file.tell():
            self.refuse("one that is cut off", expected="a whole GGUF file")
        return self.file.read(length)

    def refuse(
        self, got: str, remedy: str = "Fetch the file again.", *, expected: str = "a GGUF file that holds together"
    ) -> NoReturn:
        raise FormatError(self.path, expected=expected, got=got, remedy=remedy)
