"""Tensors read into memory, by the names that their source gives them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tprog.flax
from tprog import ModelConfig
from tprog.reader import open_checkpoint
from tprog.source import named_source
from tprog.tensorfile import TensorFile, write_tensors
from tprog.weights import Prefixed, find_part, find_weights, in_memory

from tritter_jax.growth import make_plan
from tritter_jax.growth.expand import expand
from tritter_jax.model import init_params


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


@pytest.fixture
def looked_up(monkeypatch):
    """How often the header of a tensor file was looked into."""
    counted, specs = Counter(), TensorFile.specs

    def count(file):
        counted["specs"] += 1
        return specs.fget(file)

    monkeypatch.setattr(TensorFile, "specs", property(count))
    return counted


@pytest.mark.parametrize("view", [lambda found: found, lambda found: Prefixed(found, "x", tuple("0123456789"))])
def test_a_set_describes_its_tensors_once(tmp_path, looked_up, view):
    write_tensors(tmp_path / "model.safetensors", {f"x{i}": np.zeros(i + 1, np.float32) for i in range(10)})
    found = view(find_weights(tmp_path))
    looked_up.clear()
    assert [found.specs[name].nbytes for name in found.specs] == [4 * (i + 1) for i in range(10)]
    assert looked_up["specs"] <= 10
    assert len(found.specs) == 10
    assert looked_up["specs"] <= 10


def test_growing_a_stack_twice_as_deep_looks_at_twice_as_many_descriptions(tmp_path, looked_up):
    looked = []
    for layers in (4, 8):
        config = ModelConfig(hidden_size=8, num_layers=layers, num_heads=2, num_kv_heads=1, intermediate_size=8,
                             vocab_size=16, dtype="float32")  # fmt: skip
        source = tprog.flax.save(tmp_path / f"{layers}.tprog", init_params(config), config)
        looked_up.clear()
        plan = make_plan(config, replace(config, num_layers=2 * layers))
        expand(open_checkpoint(source), tmp_path / f"grown-{layers}.tprog", plan)
        looked.append(looked_up["specs"])
    assert looked[1] < 2.5 * looked[0]
