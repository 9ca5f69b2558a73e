"""Copies between torch's [out, in] layout and the table's [in, out], in blocks that fit the processor's caches.

A plain transposed assignment touches a new cache line for every value: 0.3 GB/s where this reaches 8 (16-bit values).
"""

import math
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from tprog.dtypes import same_bits

_ROWS = 512
_WIDEST = 8192
_STRIP = 256
# Columns of a buffer whose rows are a power of two long would all fall into the same cache lines.
_PITCH = 16
_ALIGNMENT = 64
_THREADS = min(8, os.cpu_count() or 1)

_own = threading.local()

Read = Callable[[np.ndarray, np.ndarray], None]
"""`read(buffer, view)` brings a matrix whose rows are contiguous into a contiguous one of its shape and dtype."""


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that JAX takes over on the CPU without a copy: it begins at a multiple of 64 bytes.

    Example:
        >>> aligned_empty((3, 5), np.dtype("float32")).ctypes.data % 64
        0
    """
    nbytes = math.prod(shape) * dtype.itemsize
    return _aligned(np.empty(nbytes + _ALIGNMENT, np.uint8), nbytes).view(dtype).reshape(shape)


def _aligned(buffer: np.ndarray, nbytes: int) -> np.ndarray:
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + nbytes]


def copy_into(target: np.ndarray, source: np.ndarray, read: Read | None = None) -> None:
    """`target[...] = source`, fast also where the two lie transposed in memory; converts the dtype.

    Args:
        target: a C-contiguous array, or a matrix with any strides.
        source: an array of the same shape, with any strides.
        read: how its rows are fetched, where not from memory: `TensorFile.read` takes those of a mapped view from
            their file.

    Example:
        >>> source = np.arange(6).reshape(2, 3).T
        >>> target = np.empty((3, 2), np.int64); copy_into(target, source); target.tolist()
        [[0, 3], [1, 4], [2, 5]]
    """
    same = source.dtype == target.dtype
    if same:
        source, target = same_bits(source), same_bits(target)
    rows = _turned(source)
    if rows is not None:
        _turn(target if target.ndim == 2 else target.reshape(rows.shape[1], rows.shape[0]), rows, read)
    elif same and read is not None and source.flags.c_contiguous and target.flags.c_contiguous:
        read(target.reshape(1, -1), source.reshape(1, -1))
    else:
        target[...] = source


def _turn(target: np.ndarray, rows: np.ndarray, read: Read | None) -> None:
    """`target[...] = rows.T`, strip by strip through a buffer whose rows fall into different cache lines."""
    fetched = _scratch("fetched", min(_ROWS, rows.shape[0]), min(_WIDEST, rows.shape[1]), rows.dtype)
    buffer = _scratch("turning", len(fetched), min(_STRIP, rows.shape[1]) + _PITCH, rows.dtype)
    for i in range(0, rows.shape[0], len(fetched)):
        for j in range(0, rows.shape[1], fetched.shape[1]):
            block = rows[i : i + len(fetched), j : j + fetched.shape[1]]
            height, width = block.shape
            if read is not None:
                place = fetched.reshape(-1)[: height * width].reshape(height, width)
                read(place, block)
                block = place
            for k in range(0, width, _STRIP):
                strip = block[:, k : k + _STRIP]
                held = buffer[:height, : min(_STRIP, width - k)]
                held[...] = strip
                target[j + k : j + k + _STRIP, i : i + height] = held.T


def _scratch(use: str, height: int, width: int, dtype: np.dtype) -> np.ndarray:
    """This thread's memory for a use: new memory costs as much as the copy itself."""
    size = height * width * dtype.itemsize
    held = getattr(_own, use, None)
    if held is None or held.size < size:
        held = np.empty(size, np.uint8)
        setattr(_own, use, held)
    return held[:size].view(dtype).reshape(height, width)


def _references(arrays: list[np.ndarray], place: int) -> int:
    held = arrays[place]
    return sys.getrefcount(held)


_ALONE = _references([np.empty(0)], 0)
"""What is counted for an array that only its list holds: versions of Python count the name and the call or do not."""


class Recycled:
    """Memory for arrays, used again once nobody refers to the array it was handed out for.

    New memory costs as much as a copy into it: whoever makes many arrays and forgets them is faster with this.

    Example:
        >>> memory = Recycled()
        >>> first = memory.contiguous(np.zeros((2, 3)).T); place = first.ctypes.data
        >>> del first
        >>> memory.contiguous(np.ones((2, 3)).T).ctypes.data == place
        True
    """

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []

    def contiguous(self, source: np.ndarray) -> np.ndarray:
        """The array itself where it is C-contiguous, or else a copy that is."""
        if source.flags.c_contiguous:
            return source
        target = self.empty(source.shape, source.dtype)
        copy_into(target, source)
        return target

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array as `aligned_empty` gives it, in memory that was used before where some is free."""
        nbytes = math.prod(shape) * dtype.itemsize
        return _aligned(self._free(nbytes + _ALIGNMENT), nbytes).view(dtype).reshape(shape)

    def _free(self, nbytes: int) -> np.ndarray:
        for place in range(len(self._held)):
            # numpy lets every view refer to the array that owns the memory.
            if self._held[place].nbytes >= nbytes and _references(self._held, place) == _ALONE:
                return self._held[place]
        self._held.append(np.empty(nbytes, np.uint8))
        return self._held[-1]


def run_all(tasks: Iterable[Callable[[], None]]) -> None:
    """Run copies in as many threads as there are processors, at most eight; numpy lets go of Python's lock.

    Raises:
        Exception: the first that a task raised.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()


def _turned(source: np.ndarray) -> np.ndarray | None:
    """The matrix whose transpose, its axes folded, the source is; None where it is no such thing."""
    if source.ndim < 2 or source.flags.c_contiguous or 0 in source.shape:
        return None
    item = source.dtype.itemsize
    for cut in range(1, source.ndim):
        columns, rows = (
            _fold(source.shape[:cut], source.strides[:cut]),
            _fold(source.shape[cut:], source.strides[cut:]),
        )
        if columns is not None and rows is not None and columns[1] == item:
            return np.lib.stride_tricks.as_strided(source, (rows[0], columns[0]), (rows[1], columns[1]))
    return None


def _fold(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int] | None:
    """Length and stride of several axes as one; None where they are not evenly spaced."""
    axes = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
    if not axes:
        return 1, 0
    for (_, outer), (size, inner) in pairwise(axes):
        if outer != size * inner:
            return None
    return math.prod(shape), axes[-1][1]
