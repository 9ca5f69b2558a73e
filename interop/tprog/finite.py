"""Numbers that a dtype cannot hold, found as they pass: in bounded memory, and before anything is put in place."""

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from tprog.errors import FormatError
from tprog.source import LazyTensors, TensorSource, pieces_of

WIDER = "Choose another dtype (--dtype): bfloat16 reaches as far as float32."
"""The way out where numbers do not fit."""
_CHUNK = 1 << 18
# Of each float dtype the bits, without the sign, from which on a value is infinite or not a number.
_SPECIAL = {
    "float64": 0x7FF0_0000_0000_0000,
    "float32": 0x7F80_0000,
    "bfloat16": 0x7F80,
    "float16": 0x7C00,
    "float8_e5m2": 0x7C,
    "float8_e4m3fn": 0x7F,
}


def is_finite(array: np.ndarray) -> bool:
    """Whether no value is infinite or not a number; integers always are. Works in bounded memory.

    Example:
        >>> is_finite(np.array([1.0, np.inf])), is_finite(np.array([1, 2]))
        (False, True)
    """
    special = _SPECIAL.get(array.dtype.name)
    if special is None:
        return True
    width, flat = array.dtype.itemsize, np.ascontiguousarray(array).reshape(-1)
    sign = 1 << (8 * width - 1)
    # As integers with a sign the positive floats come last and in order, as integers without one the negative floats:
    # two maxima, which need no memory.
    for kind, bound in (("i", special), ("u", special | sign)):
        bits = flat.view(f"{kind}{width}")
        if any(bits[start : start + _CHUNK].max() >= bound for start in range(0, bits.size, _CHUNK)):
            return False
    return True


def can_overflow(source: np.dtype, target: np.dtype) -> bool:
    """Whether finite numbers of one dtype can become infinite in another.

    Example:
        >>> import ml_dtypes
        >>> one, other = np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)
        >>> can_overflow(one, other), can_overflow(other, one)
        (False, True)
    """
    if target.name not in _SPECIAL:
        return False
    return source.name not in _SPECIAL or largest(source) > largest(target)


def largest(dtype: np.dtype) -> float:
    """The largest finite number of a float dtype.

    Example:
        >>> largest(np.dtype("float16"))
        65504.0
    """
    return float(ml_dtypes.finfo(dtype).max)


def not_finite(name: str, dtype: str, bound: float, source: np.ndarray | None, remedy: str) -> FormatError:
    """The error of a tensor that would be written, or given, with a number that is not finite.

    Args:
        name: the tensor.
        dtype: the dtype of the result.
        bound: the largest number that it holds.
        source: the tensor that it is made from, where that is known: it may not be finite itself.
        remedy: what to do where the dtype is too narrow.
    """
    if source is not None and not is_finite(source):
        return _broken(name)
    reach = "" if source is None else f"; the source's largest is {_magnitude(source):.6g}"
    return FormatError(
        name,
        expected=f"numbers that {dtype} holds, up to {bound:.6g}",
        got=f"one beyond that{reach}",
        remedy=remedy,
    )


def cast(name: str, array: np.ndarray, dtype: np.dtype, *, remedy: str) -> np.ndarray:
    """An array in another dtype, or the array itself where it has that one.

    Raises:
        FormatError: a number of it is beyond what the dtype holds, or was not finite before the cast.

    Example:
        >>> cast("x", np.array([1e5]), np.dtype("float16"), remedy="Choose bfloat16.")
        Traceback (most recent call last):
        tprog.errors.FormatError: x: expected numbers that float16 holds, up to 65504, got one beyond that; the
        source's largest is 100000. Choose bfloat16.
    """
    with np.errstate(over="ignore"):
        result = array.astype(dtype, copy=False)
    if can_overflow(array.dtype, dtype) and not is_finite(result):
        raise not_finite(name, dtype.name, largest(dtype), array, remedy)
    return result


def checked(source: TensorSource, *, remedy: str, origin: Callable[[str], np.ndarray] | None = None) -> LazyTensors:
    """The same tensors, each looked at as it passes.

    Args:
        source: the tensors.
        remedy: what to do where a dtype is too narrow for what was computed.
        origin: the tensor that one is made from, by the name of the result.

    Example:
        >>> from tprog.tensorheader import TensorSpec
        >>> source = LazyTensors({"x": TensorSpec(np.dtype("float32"), (1,))}, lambda name: np.float32([np.inf]))
        >>> checked(source, remedy="Store it in float64.").tensor("x")
        Traceback (most recent call last):
        tprog.errors.FormatError: x: expected numbers that float32 holds, up to 3.40282e+38, got one beyond that.
        Store it in float64.
    """

    def pieces(name: str) -> Iterator[np.ndarray]:
        for piece in pieces_of(source, name):
            if not is_finite(piece):
                old = None if origin is None else origin(name)
                raise not_finite(name, piece.dtype.name, largest(piece.dtype), old, remedy)
            yield piece

    return LazyTensors(source.specs, pieces=pieces)


def require_finite(*sources: TensorSource) -> None:
    """Look at every tensor of some sources.

    Raises:
        FormatError: one is not finite.
    """
    for source in sources:
        for name in source.specs:
            if not all(map(is_finite, pieces_of(source, name))):
                raise _broken(name)


def _broken(name: str) -> FormatError:
    return FormatError(
        name,
        expected="finite numbers in the source",
        got="infinity or NaN, which the source already holds",
        remedy="`tritter verify` names every such tensor: repair the source, or fetch it again.",
    )


def _magnitude(array: np.ndarray) -> float:
    flat = array.reshape(-1)
    chunks = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
    return max((float(np.abs(chunk.astype(np.float64)).max()) for chunk in chunks), default=0.0)
