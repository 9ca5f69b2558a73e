"""Copies between torch's [out, in] layout and the table's [in, out], in blocks that fit the processor's caches.

A plain transposed assignment touches a new cache line for every value: 0.3 GB/s where this reaches 4 (16-bit values).
"""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from tprog.dtypes import same_bits

_BLOCK = 256
# A row of the buffer must not be a power of two long: its columns would all fall into the same cache lines.
_PITCH = _BLOCK + 16
_ALIGNMENT = 64
_THREADS = min(8, os.cpu_count() or 1)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that JAX takes over on the CPU without a copy: it begins at a multiple of 64 bytes.

    Example:
        >>> aligned_empty((3, 5), np.dtype("float32")).ctypes.data % 64
        0
    """
    nbytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def copy_into(target: np.ndarray, source: np.ndarray) -> None:
    """`target[...] = source`, fast also where the two lie transposed in memory; converts the dtype.

    Args:
        target: a C-contiguous array.
        source: an array of the same shape, with any strides.

    Example:
        >>> source = np.arange(6).reshape(2, 3).T
        >>> target = np.empty((3, 2), np.int64); copy_into(target, source); target.tolist()
        [[0, 3], [1, 4], [2, 5]]
    """
    if source.dtype == target.dtype:
        source, target = same_bits(source), same_bits(target)
    rows = _turned(source)
    if rows is None:
        target[...] = source
        return
    flat = target.reshape(rows.shape[1], rows.shape[0])
    buffer = np.empty((_BLOCK, _PITCH), source.dtype)
    for i in range(0, rows.shape[0], _BLOCK):
        for j in range(0, rows.shape[1], _BLOCK):
            block = rows[i : i + _BLOCK, j : j + _BLOCK]
            held = buffer[: block.shape[0], : block.shape[1]]
            held[...] = block
            flat[j : j + _BLOCK, i : i + _BLOCK] = held.T


def contiguous(source: np.ndarray) -> np.ndarray:
    """The array itself where it is C-contiguous, or else a copy that is.

    Example:
        >>> contiguous(np.zeros((2, 3)).T).flags.c_contiguous
        True
    """
    if source.flags.c_contiguous:
        return source
    target = np.empty(source.shape, source.dtype)
    copy_into(target, source)
    return target


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
