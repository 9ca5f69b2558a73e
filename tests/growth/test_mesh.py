"""Growing on a mesh of eight devices: shardings stay, entries travel, no device ever holds a whole parameter."""

import math
import re
from dataclasses import replace
from functools import lru_cache, partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tprog import GrowthError, ModelConfig
from tprog.tree import flatten, nest

from tests.contracts.cases import params_for
from tests.support import every_value, first_of, random_params
from tritter_jax.growth import Plan, apply, grow, make_plan
from tritter_jax.growth.leaf import grow_stack, leaf_growth
from tritter_jax.growth.spread import Spread
from tritter_jax.sharding import MeshShape, make_mesh, param_shardings
from tritter_jax.train.state import grow_state, new_state, state_shardings

SMALL = ModelConfig(
    num_layers=4, hidden_size=160, num_heads=16, num_kv_heads=8, intermediate_size=192, head_dim=8, vocab_size=104
)
WIDE = {"hidden_size": 256, "num_heads": 32, "num_kv_heads": 16, "intermediate_size": 336}
MESHES = {
    "fsdp": MeshShape(fsdp=8),
    "tensor": MeshShape(tensor=8),
    "both": MeshShape(fsdp=4, tensor=2),
    "three": MeshShape(data=2, fsdp=2, tensor=2),
}
GROWTHS = {
    "duplicate": {"width": "duplicate", **WIDE},
    "fresh": {"width": "fresh", **WIDE},
    "deeper": {"num_layers": 6},
}
ADAMW = optax.adamw(1e-3)
LAYERS = 6  # one number a layer may be summed: the spread of what is drawn
KEEPS = ("transport", "asymmetric")


@lru_cache
def plan_for(growth: str) -> Plan:
    options = dict(GROWTHS[growth])
    choices = {name: options.pop(name) for name in ("width",) if name in options}
    target = replace(SMALL, **({"num_layers": 6} | options))
    return make_plan(SMALL, target, layers=[1, 3], **choices)


def started(params: dict):
    """A state whose moments are no zeros."""
    state = new_state(params, ADAMW, 0)
    with jax.numpy_dtype_promotion("standard"):
        _, opt_state = ADAMW.update(params, state.opt_state, params)
    return state._replace(opt_state=opt_state)


WHOLE = " all-gather", " all-reduce", " all-to-all"


def gathered(compiled) -> list[int]:
    """Number of elements of whatever a collective of a program makes, but for shards sent on and single numbers."""
    sizes = []
    for line in compiled.as_text().splitlines():
        for kind in WHOLE:
            made, found, _ = re.sub(r"^.*? = ", "", line).partition(kind)
            shapes = re.findall(r"\w+\[([\d,]*)\]", made) if found else []
            sizes += [math.prod(int(size) for size in shape.split(",") if size) for shape in shapes]
    return [size for size in sizes if size > LAYERS]


@every_value(shape=MESHES, growth=GROWTHS, strategy=KEEPS)
def test_the_compiled_growth_of_a_state_keeps_shardings_and_bits_and_gathers_nothing(shape, growth, strategy):
    plan, mesh = plan_for(growth), make_mesh(MESHES[shape])
    state = started(params_for(SMALL))
    before = state_shardings(ADAMW, state, SMALL, mesh)
    abstract = jax.eval_shape(partial(grow_state, plan=plan, optimizer=ADAMW), state)
    after = state_shardings(ADAMW, abstract, plan.target, mesh)
    run = jax.jit(
        lambda old: grow_state(old, plan, ADAMW, after, strategy=strategy),
        in_shardings=(before,),
        out_shardings=after,
    )
    compiled = run.lower(state).compile()
    assert gathered(compiled) == []
    result = compiled(jax.device_put(state, before))
    alone = grow_state(state, plan, ADAMW, strategy=strategy)
    for (path, leaf), due, lies in zip(
        jax.tree.leaves_with_path(result), jax.tree.leaves(alone), jax.tree.leaves(after), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(lies, leaf.ndim), path
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            np.testing.assert_array_equal(leaf, due, err_msg=str(path))


@pytest.mark.parametrize("growth", ["duplicate", "fresh"])
def test_the_control_xla_alone_gathers_whole_parameters(growth):
    plan, mesh = plan_for(growth), make_mesh(MESHES["fsdp"])
    before, after = (flatten(param_shardings(config, mesh)) for config in (SMALL, plan.target))
    whole = set()
    for old, _ in plan.target_specs():
        run = jax.jit(
            partial(grow_stack, growth=leaf_growth(plan, old, "weight")),
            in_shardings=before[old.path],
            out_shardings=after[old.path],
        )
        compiled = run.lower(jax.ShapeDtypeStruct(old.shape, jnp.float32)).compile()
        if max(gathered(compiled), default=0) >= math.prod(old.shape):
            whole.add(old.name)
    assert {"embed", "lm_head", "layers.mlp.up", "layers.attention.query"} <= whole


@pytest.mark.parametrize("growth", first_of(GROWTHS))
def test_outside_jit_a_state_stays_on_its_mesh_and_is_freed_as_it_grows(growth):
    plan, mesh = plan_for(growth), make_mesh(MESHES["both"])
    state = started(random_params(SMALL))  # not the shared ones: these are freed
    split = jax.device_put(state, state_shardings(ADAMW, state, SMALL, mesh))
    places = {path: _addresses(leaf) for path, leaf in flatten(split.params).items()}
    kept = grow_state(split, plan, ADAMW)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(split))
    result = grow_state(split, plan, ADAMW, donate=True)
    for path, leaf in flatten(result.params).items():
        assert leaf.sharding.is_equivalent_to(flatten(param_shardings(plan.target, mesh))[path], leaf.ndim)
        assert flatten(split.params)[path].is_deleted()
        same_shape = leaf.shape == flatten(split.params)[path].shape
        assert (_addresses(leaf) == places[path]) == same_shape, path
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((split.opt_state[0].mu, split.opt_state[0].nu)))
    for one, other in zip(jax.tree.leaves(kept.params), jax.tree.leaves(result.params), strict=True):
        np.testing.assert_array_equal(one, other)


def _addresses(leaf: jax.Array) -> list[int]:
    return [shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards]


@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
def test_a_mesh_that_no_longer_divides_is_told_before_any_work(given):
    mesh = make_mesh(MESHES["tensor"])
    plan = make_plan(SMALL, replace(SMALL, intermediate_size=333, num_heads=24))
    state = started(random_params(SMALL))  # not the shared ones: these are freed
    split = jax.device_put(state, state_shardings(ADAMW, state, SMALL, mesh))
    odd = nest({path: NamedSharding(mesh, leaf.sharding.spec) for path, leaf in flatten(split.params).items()})
    with pytest.raises(GrowthError) as caught:
        grow(split.params, plan, odd if given else None, donate=True)
    assert "mlp has length 333 after growth, not a multiple of tensor = 8" in str(caught.value)
    assert "The nearest that works is mlp 336" in str(caught.value)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(split.params))
    with pytest.raises(GrowthError, match="mlp has length 333"):
        grow_state(split, plan, ADAMW, donate=True)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(split))


def test_shardings_that_leave_an_axis_whole_are_the_way_out():
    mesh = make_mesh(MESHES["tensor"])
    plan = make_plan(SMALL, replace(SMALL, intermediate_size=333))
    split = jax.device_put(params_for(SMALL), param_shardings(SMALL, mesh))
    due = param_shardings(plan.target, mesh, {"heads": "tensor", "vocab": "tensor"})
    result = grow(split, plan, due)
    for path, leaf in flatten(result).items():
        assert leaf.sharding.is_equivalent_to(flatten(due)[path], leaf.ndim)
        np.testing.assert_array_equal(leaf, flatten(grow(params_for(SMALL), plan))[path])


def test_a_composed_plan_grows_on_a_mesh_as_on_one_device():
    """Though the mesh does not divide the model on the way."""
    mesh = make_mesh(MESHES["tensor"])
    first = make_plan(SMALL, replace(SMALL, intermediate_size=203, num_layers=5), layers=[0])
    plan = first.then(make_plan(first.target, replace(SMALL, intermediate_size=336, num_layers=6), layers=[2]))
    split = jax.device_put(params_for(SMALL), param_shardings(SMALL, mesh))
    alone = flatten(grow(params_for(SMALL), plan))
    for path, leaf in flatten(grow(split, plan)).items():
        assert leaf.sharding.is_equivalent_to(flatten(param_shardings(plan.target, mesh))[path], leaf.ndim)
        np.testing.assert_allclose(leaf, alone[path], rtol=1e-6)


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.data())
def test_taking_from_shard_to_shard_is_taking(data):
    names = data.draw(st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a")]))
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("a", "b"))
    shards = math.prod(mesh.shape[name] for name in names)
    old, new = (shards * data.draw(st.integers(1, 3)) for _ in range(2))
    gather = np.asarray(data.draw(st.lists(st.integers(0, old - 1), min_size=new, max_size=new)), np.int32)
    axis = data.draw(st.integers(0, 1))
    x = np.arange(old * 3, dtype=np.float32).reshape((old, 3) if axis == 0 else (3, old))
    lies = tuple(names if i == axis else () for i in range(2))
    placed = jax.device_put(x, NamedSharding(mesh, P(*(along or None for along in lies))))
    spread = Spread(mesh, lies, lies)
    taken = jax.jit(lambda array: spread.take(array, gather, axis))(placed)
    np.testing.assert_array_equal(taken, np.take(x, gather, axis=axis))


@pytest.mark.parametrize("processes", [1, 2])
def test_of_several_processes_on_processors_none_starts_a_growth_while_another_is_in_flight(monkeypatch, processes):
    plan, mesh = plan_for("duplicate"), make_mesh(MESHES["fsdp"])
    params = jax.device_put(random_params(SMALL), param_shardings(SMALL, mesh))
    events: list[str] = []
    wait, compiled = jax.block_until_ready, apply._compiled
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: events.append("waits") or wait(tree))
    monkeypatch.setattr(apply, "_compiled", lambda *given: events.append("starts") or compiled(*given))
    grow(params, plan)
    starts = events.count("starts")
    assert starts > 1
    assert events == (["starts"] * starts if processes == 1 else ["starts", "waits"] * starts)
