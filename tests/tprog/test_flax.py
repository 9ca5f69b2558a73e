"""Trees of JAX arrays: the table's layout, dtypes, and what cannot be loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tprog.flax
import tprog.flax_load
import tprog.numpy
from tprog.errors import ParameterError, UsageError
from tprog.flax_load import load_tree
from tprog.hf_names import hf_tensors
from tprog.params import param_specs
from tprog.tree import check_tree, nest
from tprog.writer import write_checkpoint

from tests.tprog.files import assert_same_bits, random_arrays, small_config

CONFIG = small_config()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_tree_goes_in_and_out_bit_for_bit(tmp_path, dtype, tied):
    config = small_config(dtype=dtype, tie_embeddings=tied)
    path = write_checkpoint(tmp_path / "a.tprog", config, random_arrays(config), shard_size=1000)
    params = tprog.flax.load(path)
    check_tree(params, config)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    again = tprog.flax.save(tmp_path / "b.tprog", params, config)
    assert_same_bits(tprog.numpy.load(again), random_arrays(config))


def test_layers_lie_where_the_table_says(tmp_path):
    arrays = random_arrays(CONFIG)
    params = tprog.flax.load(write_checkpoint(tmp_path / "a.tprog", CONFIG, arrays))
    query = arrays["model.layers.1.self_attn.q_proj.weight"]
    # torch's [out, in] is [heads * head_dim, hidden]; ours is [layers, heads, head_dim, hidden].
    assert params["layers"]["attention"]["query"][1, 2, 3, 5] == query[2 * 4 + 3, 5]
    assert not np.array_equal(params["layers"]["mlp"]["up"][0], params["layers"]["mlp"]["up"][1])


def test_the_arrays_outlive_the_files(tmp_path):
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    params = tprog.flax.load(path)
    before = np.array(params["norm"])
    weights = path / "weights.safetensors"
    with weights.open("r+b") as file:
        file.write(b"\0" * weights.stat().st_size)
    assert np.array_equal(params["norm"], before)


def test_conversion(tmp_path):
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    params = tprog.flax.load(path, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    expected = random_arrays(CONFIG)["model.norm.weight"].astype(jnp.bfloat16)
    assert np.array_equal(params["norm"], expected)


def test_float64_is_not_rounded_in_silence(tmp_path):
    config = small_config(dtype="float64")
    path = write_checkpoint(tmp_path / "a.tprog", config, random_arrays(config))
    with pytest.raises(UsageError, match="JAX_ENABLE_X64"):
        tprog.flax.load(path)
    assert tprog.flax.load(path, dtype="float32")["norm"].dtype == jnp.float32
    with jax.enable_x64(True):
        params = tprog.flax.load(path)
        again = tprog.flax.save(tmp_path / "b.tprog", params, config)
    assert_same_bits(tprog.numpy.load(again), random_arrays(config))


def test_a_tree_that_does_not_match_is_refused(tmp_path):
    params = tprog.flax.load(write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG)))
    del params["norm"]
    params["layers"]["mlp"]["up"] = params["layers"]["mlp"]["up"][:1]
    with pytest.raises(ParameterError) as caught:
        tprog.flax.save(tmp_path / "b.tprog", params, CONFIG)
    assert len(caught.value.findings) == 2
    assert not (tmp_path / "b.tprog").exists()


def test_tensors_are_made_one_at_a_time(tmp_path):
    params = tprog.flax.load(write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG)))
    source = tprog.flax.to_tensors(params, CONFIG)
    assert list(source.specs) == [tensor.name for tensor in hf_tensors(CONFIG)]
    assert_same_bits({name: source.tensor(name) for name in source.specs}, random_arrays(CONFIG))


def test_sharded_arrays_are_saved(tmp_path):
    params = tprog.flax.load(write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG)))
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    query = jax.device_put(params["layers"]["attention"]["query"], sharding)
    params["layers"]["attention"]["query"] = query
    again = tprog.flax.save(tmp_path / "b.tprog", params, CONFIG)
    assert_same_bits(tprog.numpy.load(again), random_arrays(CONFIG))


def mesh_of(*sizes: int) -> jax.sharding.Mesh:
    names = tuple("xyz"[: len(sizes)])
    return jax.make_mesh(sizes, names, axis_types=(jax.sharding.AxisType.Auto,) * len(sizes))


def spread(config, mesh, choose) -> dict:
    """A tree of shardings; `choose` gives the partition of each row of the table."""
    return nest(
        {
            spec.path: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*choose(spec)))
            for spec in param_specs(config)
        }
    )


def first_even(spec):
    """Every other axis that divides by two, over x and y in turn."""
    names = iter("xy")
    return [next(names, None) if size % 2 == 0 and size > 1 else None for size in spec.shape]


@pytest.mark.parametrize("choose", [lambda spec: [], lambda spec: [None] * (len(spec.shape) - 1) + ["x"], first_even])
def test_slices_are_read_as_the_whole_is_cut(tmp_path, choose):
    config = small_config(hidden_size=16, num_heads=4, num_kv_heads=2, intermediate_size=12, vocab_size=32)
    path = write_checkpoint(tmp_path / "a.tprog", config, random_arrays(config), shard_size=1000)
    whole = tprog.flax.load(path)
    shardings = spread(config, mesh_of(2, 2), choose)
    params = tprog.flax.load(path, shardings=shardings)
    for expected, got, sharding in zip(
        jax.tree.leaves(whole), jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True
    ):
        assert got.sharding == sharding
        assert np.array_equal(np.asarray(got), np.asarray(expected))
    again = tprog.flax.save(tmp_path / "b.tprog", params, config)
    assert_same_bits(tprog.numpy.load(again), random_arrays(config))


def test_no_more_is_read_than_the_devices_hold(tmp_path):
    """With the layers spread over devices, each slice is copied from its own layers' tensors, once."""
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    source = tprog.flax.to_tensors(tprog.flax.load(path), CONFIG)
    asked = []

    class Watched:
        specs = source.specs

        def tensor(self, name):
            asked.append(name)
            return source.tensor(name)

    shardings = spread(CONFIG, mesh_of(2, 2), lambda spec: ["x"] if spec.stacked else [])
    load_tree(Watched(), CONFIG, shardings=shardings)
    assert sorted(asked) == sorted(source.specs)


def test_one_sharding_serves_all_parameters(tmp_path):
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    sharding = jax.sharding.NamedSharding(mesh_of(4), jax.sharding.PartitionSpec())
    params = tprog.flax.load(path, shardings=sharding, dtype="bfloat16")
    assert {leaf.sharding for leaf in jax.tree.leaves(params)} == {sharding}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}


def test_a_parameter_without_a_sharding_is_named(tmp_path):
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    shardings = spread(CONFIG, mesh_of(2), lambda spec: [])
    del shardings["layers"]["mlp"]["up"]
    with pytest.raises(ParameterError, match=r"layers\.mlp\.up"):
        tprog.flax.load(path, shardings=shardings)


def test_loading_takes_the_memory_over(tmp_path):
    """On the CPU an array is made without a second copy."""
    pointer = {}
    real = tprog.flax_load.aligned_empty

    def watched(shape, dtype):
        array = real(shape, dtype)
        pointer[shape] = array.ctypes.data
        return array

    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tprog.flax_load.aligned_empty", watched)
        params = tprog.flax.load(path)
    leaf = params["layers"]["mlp"]["up"]
    assert leaf.unsafe_buffer_pointer() == pointer[leaf.shape]


def test_large_matrices_are_loaded_in_pieces(tmp_path, monkeypatch):
    arrays = random_arrays(CONFIG)
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, arrays)
    whole = tprog.flax.load(path)
    pieces = []
    monkeypatch.setattr(tprog.flax_load, "_PIECE", 100)
    monkeypatch.setattr(
        tprog.flax_load, "run_all", lambda tasks: [pieces.append(1) or task() for task in list(tasks)]
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, tprog.flax.load(path)))
    assert len(pieces) > 2 * len(arrays)
