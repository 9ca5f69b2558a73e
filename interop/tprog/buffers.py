"""Memory that arrays are read into: aligned, so that JAX takes it over."""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tprog.dtypes import same_bits

PAGE = 4096
"""Bytes."""
_ALIGNMENT = 64
_THREADS = min(8, os.cpu_count() or 1)

Read = Callable[[np.ndarray, np.ndarray], None]
"""`read(buffer, view)` brings a matrix whose rows are contiguous into a contiguous one of its shape and dtype."""


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype, alignment: int = _ALIGNMENT) -> np.ndarray:
    """An uninitialised array that JAX takes over on the CPU without a copy: it begins at a multiple of 64 bytes.

    A disk takes it without one where it begins at a multiple of `PAGE`.

    Example:
        >>> aligned_empty((3, 5), np.dtype("float32")).ctypes.data % 64
        0
    """
    nbytes = math.prod(shape) * dtype.itemsize
    return _aligned(np.empty(nbytes + alignment, np.uint8), nbytes, alignment).view(dtype).reshape(shape)


def _aligned(buffer: np.ndarray, nbytes: int, alignment: int = _ALIGNMENT) -> np.ndarray:
    start = -buffer.ctypes.data % alignment
    return buffer[start : start + nbytes]


def copy_into(target: np.ndarray, source: np.ndarray, read: Read | None = None) -> None:
    """`target[...] = source`; converts the dtype.

    Args:
        target: a C-contiguous array.
        source: an array of the same shape, with any strides.
        read: how rows of the same dtype are fetched, where not from memory: `TensorFile.read` takes those of a mapped
            view from their file.

    Example:
        >>> source = np.arange(6).reshape(2, 3)[:, 1:]
        >>> target = np.empty((2, 2), np.int64); copy_into(target, source); target.tolist()
        [[1, 2], [4, 5]]
    """
    if source.dtype != target.dtype:
        with np.errstate(over="ignore"):  # whoever chose the dtype looks at what came of it
            target[...] = source
        return
    source, target = same_bits(source), same_bits(target)
    if read is not None and source.flags.c_contiguous:
        read(target.reshape(1, -1), source.reshape(1, -1))
    elif read is not None and source.ndim == 2 and source.strides[1] == source.itemsize:
        read(target, source)
    elif read is not None and source.ndim > 2:
        for part, own in zip(target, source, strict=True):
            copy_into(part, own, read)
    else:
        target[...] = source


def run_all(tasks: Iterable[Callable[[], None]]) -> None:
    """Run copies in as many threads as there are processors, at most eight; numpy lets go of Python's lock.

    Raises:
        Exception: the first that a task raised.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()
