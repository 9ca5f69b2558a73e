"""The header of a safetensors file: parsed strictly, and built.

A file is a little-endian u64 N, N bytes of JSON that begin with `{`, and the tensors' bytes. The JSON maps each name
to `{"dtype", "shape", "data_offsets": [begin, end]}`, counted from the header's end, and may hold `__metadata__`.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tprog.bounds import HEADER, Bound
from tprog.dtypes import BY_CODE, CODES
from tprog.errors import FormatError
from tprog.foreign import HEAD_BYTES, foreign_file
from tprog.jsonio import no_collection, parse_json

_NUMBERS = 16
"""Commas and brackets that the entry of one tensor may have on average."""
MAX_RANK = 16
"""Most axes of a tensor."""
ALIGNMENT = 64
"""The tensors' bytes begin at a multiple of this, so that a mapped file needs no copy in JAX."""

_LARGEST = 2**63 - 1
_CUT = "The file is cut short: fetch it again."
_OTHER = "This is not a tensor file: give the one that the model was saved to."
_WRITE = "No reader takes this file: save the model again, with the safetensors library."
_INT = frozenset((int,))
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Dtype and shape of a tensor that need not be in memory.

    Example:
        >>> TensorSpec(np.dtype("float32"), (2, 3)).nbytes
        24
    """

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, unpadded."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Header:
    """What a tensor file says of itself.

    Args:
        specs: dtype and shape of each tensor, in the order of their bytes.
        offsets: where each tensor's bytes begin, from the start of the file.
        metadata: the free text fields.
        file_size: length of the file.
    """

    specs: Mapping[str, TensorSpec]
    offsets: Mapping[str, int]
    metadata: Mapping[str, str]
    file_size: int


def open_regular(path: Path) -> int:
    """A file descriptor for reading a regular file; never waits on a FIFO or a device.

    Raises:
        FormatError: there is no such file, it cannot be opened, or it is something else than a file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise FormatError(
            path, expected="a readable file", got=error.strerror or str(error), remedy="Check the path."
        ) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise FormatError(path, expected="a regular file", got=kind, remedy="Check the path.")
    return descriptor


def read_header(descriptor: int, where: object) -> Header:
    """Read and check the header of an open tensor file.

    Raises:
        FormatError: a rule of the format is broken; the message says which.
    """
    size = os.fstat(descriptor).st_size
    prefix = os.pread(descriptor, 8, 0)
    length = int.from_bytes(prefix, "little")
    implausible = len(prefix) < 8 or length > min(size - 8, HEADER.nbytes)
    if implausible and (kind := foreign_file(os.pread(descriptor, HEAD_BYTES, 0))) is not None:
        _refuse(where, "a tensor file", kind.got, kind.remedy)
    if len(prefix) < 8 or length > size - 8:
        _refuse(where, "a length and a header of that length", f"{size} bytes in all", _CUT)
    if length > HEADER.nbytes:
        _refuse(where, f"a header of at most {HEADER.nbytes} bytes", f"{length}", _OTHER)
    return parse_header(os.pread(descriptor, length, 8), size, where)


def parse_header(data: bytes, file_size: int, where: object) -> Header:
    """Check the bytes of a header (without its length) against every rule of the format.

    Args:
        data: the JSON, with its padding.
        file_size: length of the whole file.
        where: the file's name, for errors.

    Raises:
        FormatError: a rule of the format is broken; the message says which.

    Example:
        >>> header = parse_header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 70, "x.safetensors")
        >>> header.specs["a"].shape, header.offsets["a"]
        ((2,), 62)
    """
    if not data.startswith(b"{"):
        _refuse(where, "a header that begins with {", repr(data[:8]), _OTHER)
    # Counted before parsing, because a parsed value takes many times the memory of its text.
    if data.count(b"{") > HEADER.values + 2 or data.count(b",") + data.count(b"[") > _NUMBERS * HEADER.values:
        _refuse(where, f"at most {HEADER.values} tensors", "more", "Split it into several files.")
    table = parse_json(data, where, Bound(nbytes=HEADER.nbytes, values=(_NUMBERS + 1) * HEADER.values))
    metadata = _check_metadata(table.pop(_METADATA, {}), where)
    start = 8 + len(data)
    with no_collection():
        ranges = [(*_check_entry(name, entry, where), name) for name, entry in table.items()]
        ranges.sort(key=lambda item: item[:2])
    position, specs, offsets = 0, {}, {}
    for begin, end, spec, name in ranges:
        if begin != position:
            problem = "overlaps the one before it" if begin < position else f"leaves a hole of {begin - position}"
            _refuse(where, f"tensor {name!r} to begin at byte {position}", f"{begin}, which {problem}")
        specs[name], offsets[name], position = spec, start + begin, end
    if start + position != file_size:
        whole = f"{start + position} bytes"
        if file_size < start + position:
            _refuse(where, whole, f"{file_size}", _CUT)
        _refuse(where, whole, f"{file_size}, the last of which no tensor owns")
    return Header(specs, offsets, metadata, file_size)


def build_header(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, TensorSpec]]:
    """The first bytes of a tensor file, length and padding included, and the order its tensors follow in.

    Wider dtypes come first, so that every tensor is aligned to its own item size.

    Example:
        >>> head, order = build_header({"a": TensorSpec(np.dtype("int8"), (3,))}, {"format": "pt"})
        >>> len(head), list(order)
        (128, ['a'])
    """
    order = dict(sorted(specs.items(), key=lambda item: -item[1].dtype.itemsize))
    table: dict[str, Any] = {_METADATA: dict(metadata)}
    position = 0
    for name, spec in order.items():
        end = position + spec.nbytes
        table[name] = {"dtype": CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > HEADER.nbytes or len(order) > HEADER.values:
        _refuse("tensors", f"at most {HEADER.values} in one file", f"{len(order)}", "Choose a smaller shard size.")
    return len(text).to_bytes(8, "little") + text, order


def _refuse(where: object, expected: str, got: str, remedy: str = _WRITE) -> NoReturn:
    raise FormatError(where, expected=expected, got=got, remedy=remedy)


def _check_metadata(metadata: object, where: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(where, f"{_METADATA} to map names to texts", repr(metadata)[:80])
    return metadata


def _check_entry(name: str, entry: object, where: object) -> tuple[int, int, TensorSpec]:
    refuse = partial(_refuse_entry, where, name)
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        refuse("dtype, shape and data_offsets", entry)
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = BY_CODE.get(code) if isinstance(code, str) else None
    if dtype is None:
        refuse(f"a dtype out of {', '.join(BY_CODE)}", code)
    if not _is_naturals(shape) or len(shape) > MAX_RANK:
        refuse(f"a shape of at most {MAX_RANK} whole numbers", shape)
    if not _is_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse("two offsets in rising order", offsets)
    # numpy multiplies the axes that are not 0 even where the product is, and must not overflow.
    nbytes = math.prod(shape) * dtype.itemsize
    if (nbytes or math.prod(filter(None, shape)) * dtype.itemsize) > _LARGEST:
        refuse("a shape that can be addressed", shape)
    begin, end = offsets
    if nbytes != end - begin:
        refuse(f"{nbytes} bytes, as {code} of shape {shape} takes", end - begin)
    return begin, end, TensorSpec(dtype, tuple(shape))


def _refuse_entry(where: object, name: str, expected: str, got: object) -> NoReturn:
    _refuse(where, f"tensor {name[:200]!r} to have {expected}", f"{got!r}"[:200])


def _is_naturals(value: object) -> bool:
    # Kinds first: numbers alone can be compared. A header has 65,000 of these lists.
    if not isinstance(value, list) or not _INT.issuperset(map(type, value)):
        return False
    return not value or (min(value) >= 0 and max(value) <= _LARGEST)
