"""Tensor files: a mapped reader that copies nothing, and a streaming writer that hashes as it goes."""

import math
import mmap
import os
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from tprog.buffers import aligned_empty
from tprog.errors import FormatError, ParameterError
from tprog.hashing import HashedFile
from tprog.tensorheader import Header, TensorSpec, build_header, open_regular, read_header

METADATA = {"format": "pt"}
"""What every file says of itself; without it some loaders refuse the file."""
_PIECE = 1 << 20


class TensorFile:
    """A tensor file that is mapped, not read: a tensor's bytes come from disk when they are touched.

    Args:
        path: the file.
        header: what it says of itself, checked.
        data: the whole file, mapped privately: writing to it changes memory, never the file.
        descriptor: the file, opened; closed when this object goes.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a.safetensors")
        >>> digest = write_tensors(path, {"x": np.arange(3.0)})
        >>> TensorFile.open(path).tensor("x")
        array([0., 1., 2.])
    """

    def __init__(self, path: Path, header: Header, data: mmap.mmap, descriptor: int) -> None:
        self.path = path
        self.header = header
        self.data = data
        self._descriptor = descriptor
        self._base = np.frombuffer(data, np.uint8).ctypes.data
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open(cls, path: str | Path) -> "TensorFile":
        """Map a file and check its header; nothing else is read.

        Raises:
            FormatError: it is no regular file, or breaks a rule of the format.
        """
        path = Path(path)
        descriptor = open_regular(path)
        try:
            header = read_header(descriptor, path)
            return cls(path, header, _map(descriptor), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def renamed(self, names: Mapping[str, str]) -> "TensorFile":
        """The same file with some tensors under other names, given by the ones they have; itself where none is.

        Example:
            >>> import pathlib, tempfile
            >>> path = pathlib.Path(tempfile.mkdtemp(), "a.safetensors")
            >>> digest = write_tensors(path, {"x": np.arange(3.0)})
            >>> list(TensorFile.open(path).renamed({"x": "model.x"}).specs)
            ['model.x']
        """
        if not names:
            return self
        specs, offsets = (
            {names.get(name, name): value for name, value in table.items()}
            for table in (self.header.specs, self.header.offsets)
        )
        header = replace(self.header, specs=specs, offsets=offsets)
        return TensorFile(self.path, header, self.data, os.dup(self._descriptor))

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Dtype and shape of every tensor, in the order they lie in the file."""
        return self.header.specs

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as a read-only view of the mapped file.

        Raises:
            ParameterError: the file has no such tensor.
        """
        spec = self.specs.get(name)
        if spec is None:
            raise ParameterError(
                name, expected=f"a tensor of {self.path}", got="a name it does not have", remedy="See its names."
            )
        view = np.ndarray(spec.shape, spec.dtype, self.data, self.header.offsets[name])
        view.flags.writeable = False
        return view

    def run(self, names: Sequence[str]) -> np.ndarray:
        """Neighbouring tensors of one dtype as one flat read-only view.

        Args:
            names: some of `specs`, one after the other.
        """
        spec = self.specs[names[0]]
        count = sum(math.prod(self.specs[name].shape) for name in names)
        view = np.ndarray((count,), spec.dtype, self.data, self.header.offsets[names[0]])
        view.flags.writeable = False
        return view

    def read(self, buffer: np.ndarray, view: np.ndarray) -> None:
        """`buffer[...] = view`, read from the file: no page is mapped for it, which costs as much as the bytes do.

        Args:
            buffer: [n, m], contiguous.
            view: [n, m], rows contiguous: part of a tensor of this file.

        Raises:
            FormatError: the file has become shorter since it was opened.

        Example:
            >>> import pathlib, tempfile
            >>> path = pathlib.Path(tempfile.mkdtemp(), "a.safetensors")
            >>> digest = write_tensors(path, {"x": np.arange(6.0).reshape(2, 3)})
            >>> file = TensorFile.open(path)
            >>> buffer = np.empty((2, 2)); file.read(buffer, file.tensor("x")[:, 1:]); buffer.tolist()
            [[1.0, 2.0], [4.0, 5.0]]
        """
        start, width = view.ctypes.data - self._base, view.shape[1] * view.itemsize
        if len(view) == 1 or view.strides[0] == width:
            self._fill(buffer.reshape(-1).view(np.uint8).data, start)
            return
        for number, row in enumerate(buffer):
            self._fill(row.view(np.uint8).data, start + number * view.strides[0])

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """One tensor read from the file: flat arrays of some rows each, every one in memory of its own.

        Example:
            >>> import pathlib, tempfile
            >>> path = pathlib.Path(tempfile.mkdtemp(), "a.safetensors")
            >>> digest = write_tensors(path, {"x": np.arange(3.0)})
            >>> [piece.tolist() for piece in TensorFile.open(path).pieces("x")]
            [[0.0, 1.0, 2.0]]
        """
        view = self.tensor(name)
        rows = view.reshape(len(view), -1) if view.ndim and view.size else view.reshape(1, -1)
        count = max(1, _PIECE // max(1, rows.shape[1] * rows.itemsize))
        for start in range(0, len(rows), count):
            block = rows[start : start + count].reshape(1, -1)
            piece = aligned_empty(block.shape, block.dtype)
            self.read(piece, block)
            yield piece.reshape(-1)

    def _fill(self, place: memoryview, start: int) -> None:
        while place:
            count = os.preadv(self._descriptor, [place], start)
            if count == 0:
                raise FormatError(
                    self.path, expected=f"{self.header.file_size} bytes",
                    got=f"{start}: it was cut while it was open", remedy="Fetch or save it again.",
                )  # fmt: skip
            place, start = place[count:], start + count


class TensorWriter:
    """Writes a tensor file one tensor at a time, in the order of `names`, hashing in a second thread.

    Args:
        path: a file that does not exist yet.
        specs: dtype and shape of every tensor.
        metadata: text fields beside `{"format": "pt"}`.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a.safetensors")
        >>> with TensorWriter(path, {"x": TensorSpec(np.dtype("int8"), (2,))}) as writer:
        ...     writer.write("x", np.array([1, 2], np.int8))
        >>> writer.bytes_written
        130
    """

    def __init__(
        self, path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None
    ) -> None:
        head, order = build_header(specs, METADATA | dict(metadata or {}))
        self.names = tuple(order)
        self._specs = order
        self._next = 0
        self._begun = 0
        self._file = HashedFile(path)
        self._file.write(memoryview(head))

    def write(self, name: str, array: np.ndarray) -> None:
        """Append the next tensor; its name, dtype and shape must be those announced.

        Raises:
            ParameterError: it is not the tensor whose turn it is, or has another dtype or shape.
        """
        array = np.asarray(array)
        spec = self._specs.get(name)
        if spec is not None and array.shape != spec.shape:
            raise _other_than(name, spec, array)
        self.append(name, array)

    def append(self, name: str, piece: np.ndarray) -> None:
        """Append some more values of the tensor whose turn it is, in C order; the last of them ends its turn.

        Args:
            name: the tensor.
            piece: a flat array, or the whole tensor.

        Raises:
            ParameterError: it is not that tensor's turn, or it has another dtype or shape, or fewer values.
        """
        due = self.names[self._next] if self._next < len(self.names) else "no further tensor"
        if name != due:
            raise ParameterError(name, expected=f"{due} next", got=name, remedy="Give the tensors in order.")
        spec = self._specs[name]
        fits = piece.shape == spec.shape or (piece.ndim == 1 and self._begun + piece.nbytes <= spec.nbytes)
        if piece.dtype != spec.dtype or not fits:
            raise _other_than(name, spec, piece)
        # ascontiguousarray: the bytes of a transposed view would be written in another order.
        flat = np.ascontiguousarray(piece).reshape(-1)
        self._file.write(flat.view(np.uint8).data)
        self._begun += piece.nbytes
        if self._begun == spec.nbytes:
            self._next, self._begun = self._next + 1, 0

    def close(self) -> None:
        """Finish the file and bring it to the disk.

        Raises:
            ParameterError: tensors that were announced have not been written.
        """
        missing = self.names[self._next :]
        if missing:
            self.abort()
            raise ParameterError(
                self._file.path,
                expected=f"{len(self.names)} tensors",
                got=f"{self._next}; the next is {missing[0]}",
                remedy="Give every tensor that was announced.",
            )
        self._file.close()

    def abort(self) -> None:
        """Stop and close the file as it is; the caller removes it."""
        self._file.abort()

    @property
    def bytes_written(self) -> int:
        """Length of the file."""
        return self._file.bytes_written

    @property
    def sha256(self) -> str:
        """Hash of the file, in hexadecimal; once closed."""
        return self._file.sha256

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> str:
    """Write arrays that are all at hand as one file; returns its sha256.

    Example:
        >>> import pathlib, tempfile
        >>> len(write_tensors(pathlib.Path(tempfile.mkdtemp(), "a.safetensors"), {"x": np.zeros((2, 2))}))
        64
    """
    specs = {name: TensorSpec(array.dtype, array.shape) for name, array in tensors.items()}
    with TensorWriter(path, specs, metadata) as writer:
        for name in writer.names:
            writer.write(name, tensors[name])
    return writer.sha256


def _other_than(name: str, spec: TensorSpec, array: np.ndarray) -> ParameterError:
    return ParameterError(
        name,
        expected=f"{spec.dtype} {list(spec.shape)}",
        got=f"{array.dtype} {list(array.shape)}",
        remedy="Give each tensor as it was announced.",
    )


def _map(descriptor: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    try:
        # Private and writable, for frameworks that refuse read-only memory; NORESERVE, because nobody writes to it.
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
        return mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise FormatError(
            "memory map", expected="room in the address space", got=error.strerror or str(error),
            remedy="Raise the limit on virtual memory (ulimit -v).",
        ) from None  # fmt: skip
