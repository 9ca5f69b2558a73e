"""Copies give what a plain assignment gives, whatever strides, shapes and dtypes; free memory is used again."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tprog.buffers import aligned_empty, copy_into, run_all
from tprog.dtypes import numpy_dtype

DTYPES = ("float32", "bfloat16", "float64", "int8")


@st.composite
def views(draw) -> np.ndarray:
    """An array of any dtype, with its axes permuted and cut."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 7, 40, 257]), min_size=1, max_size=3)))
    if math.prod(shape) > 200_000:
        shape = shape[:2]
    dtype = numpy_dtype(draw(st.sampled_from(DTYPES)))
    array = np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)
    array = array.transpose(draw(st.sampled_from(list(permutations(range(len(shape)))))))
    cuts = [
        draw(st.sampled_from([slice(None), slice(1, None), slice(0, 2), slice(None, None, 2)])) for _ in array.shape
    ]
    return array[tuple(cuts)]


@settings(max_examples=150, deadline=None)
@given(views(), st.sampled_from(DTYPES))
def test_a_copy_is_a_copy(source, dtype):
    target = aligned_empty(source.shape, numpy_dtype(dtype))
    copy_into(target, source)
    assert np.array_equal(target.astype(np.float64), source.astype(np.float64))


def test_nan_keeps_its_bits():
    source = np.array([[0x7F81, 0xFFC1], [0x7FC0, 1]], np.uint16).view(numpy_dtype("bfloat16")).T
    target = np.empty(source.shape, source.dtype)
    copy_into(target, source)
    assert target.tobytes() == source.tobytes()


def test_errors_of_tasks_come_through():
    def fail():
        raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        run_all([fail])


@settings(max_examples=100, deadline=None)
@given(source=views())
def test_rows_may_come_from_elsewhere(source):
    seen = []

    def read(buffer: np.ndarray, view: np.ndarray) -> None:
        assert buffer.flags.c_contiguous
        assert view.strides[1] == view.itemsize
        seen.append(view.size)
        np.copyto(buffer, view)

    target = aligned_empty(source.shape, source.dtype)
    copy_into(target, source, read)
    assert np.array_equal(target.astype(np.float64), source.astype(np.float64))
    assert sum(seen) in (0, source.size)


def test_columns_of_a_matrix_with_folded_axes_come_row_by_row():
    whole, seen = np.arange(120.0).reshape(2, 3, 20), []

    def read(buffer: np.ndarray, view: np.ndarray) -> None:
        seen.append(view.shape)
        np.copyto(buffer, view)

    target = np.empty((2, 3, 5))
    copy_into(target, whole[:, :, 10:15], read)
    assert np.array_equal(target, whole[:, :, 10:15])
    assert seen == [(3, 5), (3, 5)]
