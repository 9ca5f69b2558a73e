"""A checkpoint grown straight onto eight devices: every byte is read once, and no host holds a whole parameter."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
import tprog.flax
from jax.sharding import NamedSharding, PartitionSpec
from tprog import GrowthError, ModelConfig, ParameterError, UsageError, count_parameters, flax_load, param_specs
from tprog.reader import open_checkpoint
from tprog.tensorfile import TensorFile
from tprog.tree import flatten, nest

from tests.support import random_params, same_values
from tritter_jax.growth import grow, grow_optimizer, make_plan
from tritter_jax.growth.onto_mesh import grow_onto, grow_optimizer_onto
from tritter_jax.sharding import MeshShape, make_mesh, param_shardings

SMALL = ModelConfig(
    family="llama", hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=24, vocab_size=64
)
PLAN = make_plan(
    SMALL, replace(SMALL, hidden_size=48, num_layers=3, num_heads=8, num_kv_heads=4, intermediate_size=40), layers=[1]
)


@pytest.fixture
def source(tmp_path):
    return open_checkpoint(tprog.flax.save(tmp_path / "a-1K-0.tprog", random_params(SMALL), SMALL, shard_size=9000))


@pytest.fixture
def mesh():
    return make_mesh(MeshShape(fsdp=4, tensor=2))


def test_it_is_what_growing_in_memory_gives_and_little_is_held(source, mesh, monkeypatch):
    reads, held = [], []
    fill, empty = TensorFile.read, flax_load.aligned_empty

    def read(self, buffer, view):
        reads.append(buffer.nbytes)
        fill(self, buffer, view)

    def allocate(shape, dtype):
        held.append(int(np.prod(shape)) * dtype.itemsize)
        return empty(shape, dtype)

    monkeypatch.setattr(TensorFile, "read", read)
    monkeypatch.setattr(flax_load, "aligned_empty", allocate)
    shardings = param_shardings(PLAN.target, mesh)
    grown = grow_onto(source, PLAN, shardings)
    assert same_values(grown, grow(random_params(SMALL), PLAN))
    for path, leaf in flatten(grown).items():
        assert leaf.sharding.is_equivalent_to(flatten(shardings)[path], leaf.ndim)
    weights = 4 * count_parameters(SMALL)
    gains = 4 * sum(np.prod(spec.shape) for spec in param_specs(SMALL) if spec.axes[-1].role == "gain")
    assert sum(reads) <= weights  # none twice, though several devices hold the same
    assert sum(held) == weights
    largest = max(4 * int(np.prod(spec.shape)) for spec in param_specs(SMALL))
    assert max(held) <= max(largest // 8, gains)


def test_the_control_without_shardings_whole_parameters_are_held(source, monkeypatch):
    held, empty = [], flax_load.aligned_empty
    monkeypatch.setattr(flax_load, "aligned_empty", lambda shape, dtype: held.append(shape) or empty(shape, dtype))
    tprog.flax.load(source)
    assert set(held) == {spec.shape for spec in param_specs(SMALL)}


def test_what_does_not_fit_is_refused_before_anything_is_read(source, mesh, monkeypatch):
    monkeypatch.setattr(flax_load, "aligned_empty", lambda *_: pytest.fail("read"))
    shardings = flatten(param_shardings(PLAN.target, mesh))
    with pytest.raises(ParameterError, match="1 without"):
        grow_onto(source, PLAN, nest({path: leaf for path, leaf in shardings.items() if path != ("lm_head",)}))
    odd = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec("fsdp")), nest(shardings))
    with pytest.raises(GrowthError, match="not a multiple"):
        grow_onto(source, PLAN, odd)
    other = replace(SMALL, num_layers=4)
    with pytest.raises(GrowthError):
        grow_onto(source, make_plan(other, replace(other, num_layers=5), layers=[1]), nest(shardings))


ADAMW = optax.adamw(1e-3)


@pytest.fixture
def trained(tmp_path):
    """A checkpoint with a state of AdamW whose moments are no zeros."""
    params = random_params(SMALL)
    state = ADAMW.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        _, state = ADAMW.update(random_params(SMALL, seed=1), state, params)
    path = tprog.flax.save(tmp_path / "b-1K-0.tprog", params, SMALL, opt_state=state, shard_size=9000)
    return open_checkpoint(path), state


@pytest.mark.parametrize("strategy", ["transport", pytest.param("asymmetric", marks=pytest.mark.slow)])
def test_an_optimizers_state_is_what_growing_it_in_memory_gives(trained, mesh, monkeypatch, strategy):
    source, state = trained
    held, empty = [], flax_load.aligned_empty
    monkeypatch.setattr(flax_load, "aligned_empty", lambda shape, dtype: held.append(shape) or empty(shape, dtype))
    shardings = param_shardings(PLAN.target, mesh)
    grown = grow_optimizer_onto(source, PLAN, ADAMW, shardings, strategy=strategy)
    due = grow_optimizer(state, PLAN, ADAMW, strategy=strategy)
    assert same_values(grown[0].mu, due[0].mu)
    assert same_values(grown[0].nu, due[0].nu)
    assert int(grown[0].count) == int(due[0].count) == 1
    for path, leaf in flatten(grown[0].nu).items():
        assert leaf.sharding.is_equivalent_to(flatten(shardings)[path], leaf.ndim)
    assert max(map(np.prod, held)) <= max(np.prod(spec.shape) for spec in param_specs(SMALL)) // 4


def test_a_state_of_another_optimizer_takes_what_it_has_in_common(trained, mesh):
    source, state = trained
    grown = grow_optimizer_onto(source, PLAN, optax.lion(1e-3), param_shardings(PLAN.target, mesh))
    assert same_values(grown[0].mu, grow_optimizer(state, PLAN, ADAMW)[0].mu)


@pytest.mark.parametrize(
    ("optimizer", "strategy", "error", "message"),
    [
        (ADAMW, "reset", GrowthError, r"optimizer\.init"),
        (optax.sgd(1e-3, momentum=0.9), "transport", ParameterError, "every moment"),
        (optax.chain(optax.scale_by_adam(), optax.trace(0.9)), "transport", GrowthError, "which no growth maps"),
    ],
)
def test_a_state_that_cannot_be_moved_is_refused_before_anything_is_read(
    trained, mesh, monkeypatch, optimizer, strategy, error, message
):
    monkeypatch.setattr(flax_load, "aligned_empty", lambda *_: pytest.fail("read"))
    with pytest.raises(error, match=message):
        grow_optimizer_onto(trained[0], PLAN, optimizer, param_shardings(PLAN.target, mesh), strategy=strategy)


def test_without_a_stored_state_there_is_nothing_to_grow(source, mesh):
    with pytest.raises(UsageError, match="part named optimizer"):
        grow_optimizer_onto(source, PLAN, ADAMW, param_shardings(PLAN.target, mesh))
