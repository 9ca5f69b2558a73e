"""Trees of JAX arrays: the table's layout, dtypes, and what cannot be loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tprog.flax
import tprog.numpy
from tprog.errors import ParameterError, UsageError
from tprog.params import check_tree, hf_tensors
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
    # torch's [out, in] is [heads * head_dim, hidden]; ours is [layers, hidden, heads, head_dim].
    assert params["layers"]["attention"]["query"][1, 5, 2, 3] == query[2 * 4 + 3, 5]
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
