"""Copies in blocks give what a plain assignment gives, whatever the strides, shapes and dtypes."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tprog import blockcopy
from tprog.blockcopy import Recycled, aligned_empty, copy_into, run_all
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
    same = Recycled().contiguous(source)
    assert same.flags.c_contiguous
    assert np.array_equal(same.astype(np.float64), source.astype(np.float64))


def test_nan_keeps_its_bits():
    source = np.array([[0x7F81, 0xFFC1], [0x7FC0, 1]], np.uint16).view(numpy_dtype("bfloat16")).T
    target = np.empty(source.shape, source.dtype)
    copy_into(target, source)
    assert target.tobytes() == source.tobytes()


def test_what_is_contiguous_is_not_copied():
    array = np.zeros((3, 4))
    assert Recycled().contiguous(array) is array


def test_memory_that_somebody_still_reads_is_not_used_again():
    memory = Recycled()
    view = memoryview(memory.contiguous(np.full((3, 2), 1.0).T).reshape(-1).view(np.uint8))
    other = memory.contiguous(np.full((3, 2), 2.0).T)
    assert np.frombuffer(view).tolist() == [1.0] * 6
    assert other.tolist() == [[2.0] * 3] * 2


def test_errors_of_tasks_come_through():
    def fail():
        raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        run_all([fail])


@pytest.mark.parametrize("width", [1, 3, 100])
@settings(max_examples=60, deadline=None)
@given(source=views())
def test_rows_may_come_from_elsewhere(width, source):
    seen = []

    def read(buffer: np.ndarray, view: np.ndarray) -> None:
        assert buffer.flags.c_contiguous
        assert view.strides[1] == view.itemsize or view.shape[1] == 1
        seen.append(view.size)
        np.copyto(buffer, view)

    target = aligned_empty(source.shape, source.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockcopy, "_WIDEST", width)
        patch.setattr(blockcopy, "_STRIP", 2)
        copy_into(target, source, read)
    assert np.array_equal(target.astype(np.float64), source.astype(np.float64))
    assert sum(seen) in (0, source.size)


def test_a_matrix_is_turned_into_a_part_of_a_larger_one():
    target, source = np.zeros((4, 6), np.int32), np.arange(12, dtype=np.int32).reshape(3, 4).T
    copy_into(target[:, 1:4], source)
    assert np.array_equal(target[:, 1:4], source)
    assert not target[:, [0, 4, 5]].any()
