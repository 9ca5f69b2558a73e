"""The dtypes a tensor file may hold: the code in its header, and the numpy dtype."""

import ml_dtypes
import numpy as np

from tprog.errors import FormatError

BY_CODE: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""numpy dtype by the code that a tensor file's header uses."""

CODES: dict[np.dtype, str] = {dtype: code for code, dtype in BY_CODE.items()}

_BY_NAME = {dtype.name: dtype for dtype in BY_CODE.values()}


def numpy_dtype(name: object) -> np.dtype:
    """The numpy dtype of a name such as `bfloat16`, or of anything numpy takes for a dtype.

    Raises:
        FormatError: no tensor file can hold it.

    Example:
        >>> numpy_dtype("bfloat16").itemsize
        2
    """
    known = _BY_NAME.get(name) if isinstance(name, str) else None
    try:
        dtype = known or np.dtype(name)  # pyright: ignore[reportArgumentType,reportCallIssue]
    except TypeError:
        dtype = None
    if dtype is None or dtype not in CODES:
        raise FormatError(
            "dtype", expected=f"one of {', '.join(_BY_NAME)}", got=str(name), remedy="Convert the array first."
        )
    return dtype


def same_bits(array: np.ndarray) -> np.ndarray:
    """A view of the array as unsigned integers: compares bit by bit, and copies fast for every dtype.

    Example:
        >>> same_bits(numpy_dtype("bfloat16").type(1.0).reshape(1))
        array([16256], dtype=uint16)
    """
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))
