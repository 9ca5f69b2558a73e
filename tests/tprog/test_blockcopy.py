"""Copies in blocks give what a plain assignment gives, whatever the strides, shapes and dtypes."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tprog.blockcopy import aligned_empty, contiguous, copy_into, run_all
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
    same = contiguous(source)
    assert same.flags.c_contiguous
    assert np.array_equal(same.astype(np.float64), source.astype(np.float64))


def test_nan_keeps_its_bits():
    source = np.array([[0x7F81, 0xFFC1], [0x7FC0, 1]], np.uint16).view(numpy_dtype("bfloat16")).T
    target = np.empty(source.shape, source.dtype)
    copy_into(target, source)
    assert target.tobytes() == source.tobytes()


def test_what_is_contiguous_is_not_copied():
    array = np.zeros((3, 4))
    assert contiguous(array) is array


def test_errors_of_tasks_come_through():
    def fail():
        raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        run_all([fail])
