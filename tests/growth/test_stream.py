"""Growing tensor by tensor, block by block: the bits that growing the tree gives, compiled once a kind."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import tprog.flax
from tprog import ModelConfig, ParameterError
from tprog.dtypes import same_bits
from tprog.reader import open_checkpoint
from tprog.source import LazyTensors
from tprog.tensorfile import TensorFile, TensorWriter
from tprog.tensorheader import TensorSpec

from tests.support import every_value, random_params
from tritter_jax.growth import grow, make_plan, rows
from tritter_jax.growth.expand import expand
from tritter_jax.growth.stream import grown_tensors, origins

SMALL = ModelConfig(
    family="qwen2", hidden_size=24, num_layers=3, num_heads=6, num_kv_heads=2, intermediate_size=20, vocab_size=40,
    dtype="bfloat16",
)  # fmt: skip
LARGE = replace(SMALL, hidden_size=40, num_layers=5, num_heads=12, num_kv_heads=4, intermediate_size=37)
PLANS = {
    "deeper and wider": make_plan(SMALL, LARGE, layers=[0, 2]),
    "deeper": make_plan(SMALL, replace(SMALL, num_layers=4), layers=[1]),
    "to another dtype": make_plan(SMALL, replace(LARGE, dtype="float32"), layers=[0, 2]),
    "drawn": make_plan(SMALL, LARGE, layers=[0, 2], width="fresh"),
    "more words": make_plan(SMALL, replace(SMALL, vocab_size=47)),
}


@pytest.fixture
def source(tmp_path):
    path = tprog.flax.save(tmp_path / "from" / "poet-1K-3.tprog", random_params(SMALL), SMALL, shard_size=8000)
    return open_checkpoint(path)


@every_value(name=PLANS, block=[7, 113])
def test_blocks_of_any_size_are_the_bits_that_growing_the_tree_gives(source, monkeypatch, block, name):
    plan = PLANS[name]
    monkeypatch.setattr(rows, "_BLOCK", block)
    due = tprog.flax.to_tensors(grow(random_params(SMALL), plan), plan.target)
    streamed = grown_tensors(source, plan)
    assert streamed.specs == due.specs
    whole = 0
    for tensor, spec in due.specs.items():
        pieces = list(streamed.pieces(tensor))
        whole += len(pieces) == 1
        got = np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(spec.shape)
        np.testing.assert_array_equal(same_bits(got), same_bits(due.tensor(tensor)), err_msg=tensor)
    assert whole < len(due.specs) // 2


def test_one_program_a_kind_whatever_the_number_of_layers_and_blocks(source, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK", 113)
    rows._compiled.cache_clear()
    programs = []
    compiled = rows._compiled
    monkeypatch.setattr(rows, "_compiled", lambda *kind: programs.append(compiled(*kind)) or programs[-1])
    streamed = grown_tensors(source, PLANS["deeper and wider"])
    for name in streamed.specs:
        list(streamed.pieces(name))
    assert len(programs) > 4 * len(set(programs))
    assert {program._cache_size() for program in set(programs)} == {1}


def test_what_does_not_change_is_not_computed(source, monkeypatch):
    monkeypatch.setattr(rows, "_compiled", lambda *kind: pytest.fail("compiled"))
    plan = PLANS["deeper"]
    streamed = grown_tensors(source, plan)
    for tensor, _, origin in origins(plan):
        if "residual" not in {axis.role for axis in tensor.spec.axes}:  # those are times 0 in the new layer
            np.testing.assert_array_equal(same_bits(streamed.tensor(tensor.name)), same_bits(source.tensor(origin)))


def test_float64_is_kept_in_the_writers_threads(tmp_path):
    wide = replace(SMALL, dtype="float64")
    with jax.enable_x64(True):
        path = tprog.flax.save(tmp_path / "wide-1K-3.tprog", random_params(wide), wide)
    done = expand(path, tmp_path / "large.tprog", replace(LARGE, dtype="float64"), layers=[0, 2])
    assert done.drift.max_relative < 1e-12
    assert {spec.dtype.name for spec in open_checkpoint(done.path).specs.values()} == {"float64"}


def test_a_writer_takes_pieces_of_a_tensor_and_nothing_else(tmp_path):
    specs = {name: TensorSpec(np.dtype("float32"), (2, 3)) for name in "ab"}
    with TensorWriter(tmp_path / "x.safetensors", specs) as writer:
        writer.append("a", np.arange(4, dtype=np.float32))
        for wrong in (np.zeros(3), np.zeros(3, np.float32), np.zeros((3, 2), np.float32)):
            with pytest.raises(ParameterError, match=r"\[2, 3\]"):
                writer.append("a", wrong)
        with pytest.raises(ParameterError, match="a next"):
            writer.append("b", np.zeros(6, np.float32))
        writer.append("a", np.arange(4, 6, dtype=np.float32))
        writer.append("b", np.ones((2, 3), np.float32))
    found = TensorFile.open(tmp_path / "x.safetensors")
    assert found.tensor("a").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_source_of_pieces_is_a_source_of_arrays():
    spec = TensorSpec(np.dtype("int8"), (2, 3))
    source = LazyTensors({"x": spec}, pieces=lambda name: iter(np.arange(6, dtype=np.int8).reshape(3, 2)))
    assert source.tensor("x").tolist() == [[0, 1, 2], [3, 4, 5]]
