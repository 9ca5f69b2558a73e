"""Tensors read into memory, by the names that their source gives them."""

import numpy as np
from tprog.source import named_source
from tprog.tensorfile import write_tensors
from tprog.weights import Prefixed, find_part, in_memory


def test_a_tensor_in_memory_is_that_of_its_source_whatever_the_file_calls_it(tmp_path):
    array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    write_tensors(tmp_path / "state.safetensors", {"mu.x": array, "nu.x": array + 1})
    stored = find_part(tmp_path, "state")
    assert stored is not None
    for source, name, expected in (
        (stored, "nu.x", array + 1),
        (Prefixed(stored, "nu.", ("x",)), "x", array + 1),
        (named_source({"x": array}), "x", array),
    ):
        got = in_memory(source, name)
        np.testing.assert_array_equal(got, expected)
        assert not np.shares_memory(got, stored.tensor("nu.x"))
