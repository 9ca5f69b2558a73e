"""Numbers that are not finite are found in every dtype, and casts that would make them are refused."""

import jax
import numpy as np
import pytest
import torch
import tprog.flax
import tprog.gguf
import tprog.numpy
import tprog.torch
import tprog.torch_state
from tprog.dtypes import BY_CODE
from tprog.errors import FormatError
from tprog.finite import can_overflow, cast, is_finite
from tprog.huggingface import export_directory, export_torch
from tprog.reader import open_checkpoint

from tests.tprog.files import random_arrays, small_config

BEYOND = 1e5
NAME = "model.layers.1.mlp.up_proj.weight"
REFUSED = rf"{NAME}: expected numbers that float16 holds, up to 65504, got .* largest is 100000.*bfloat16"
BROKEN = rf"{NAME}: expected finite numbers in the source, got infinity or NaN, which the source already holds"


@pytest.mark.parametrize("code", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I32", "BOOL"])
def test_finiteness_agrees_with_numpy_for_every_leading_bit_pattern(code):
    dtype = BY_CODE[code]
    width = dtype.itemsize
    leading = np.arange(
        0, 2 if code == "BOOL" else min(256**width, 65536), 1 if width == 1 else 16, dtype=f"u{width}"
    )
    values = (leading << (8 * width - 16) if width > 2 else leading).view(dtype)
    with np.errstate(invalid="ignore"):
        expected = np.isfinite(values.astype(np.float64))
    assert [is_finite(values[place : place + 1]) for place in range(values.size)] == expected.tolist()
    assert is_finite(values[expected])


def test_a_value_anywhere_in_a_large_array_is_found():
    values = np.zeros(2**20 + 3, np.float32)
    assert is_finite(values)
    for place in (0, 2**18 - 1, 2**18, values.size - 1):
        changed = values.copy()
        changed[place] = -np.inf
        assert not is_finite(changed)


def test_dtypes_that_reach_less_far_can_overflow():
    reach = {name: [other for other in BY_CODE if can_overflow(BY_CODE[name], BY_CODE[other])] for name in BY_CODE}
    assert reach["F32"] == ["F16", "BF16", "F8_E4M3", "F8_E5M2"]
    assert reach["BF16"] == ["F16", "F8_E4M3", "F8_E5M2"]
    assert reach["F16"] == ["F8_E4M3", "F8_E5M2"]


def test_underflow_is_no_error():
    assert cast("x", np.array([1e-12], np.float32), np.dtype("float16"), remedy="").tolist() == [0.0]


def test_what_is_just_within_reach_is_cast():
    assert cast("x", np.array([65519.0], np.float32), np.dtype("float16"), remedy="").tolist() == [65504.0]
    with pytest.raises(FormatError, match="x: expected numbers that float16 holds"):
        cast("x", np.array([65520.0], np.float32), np.dtype("float16"), remedy="")


def checkpoint(tmp_path, value=BEYOND):
    config = small_config()
    arrays = random_arrays(config)
    arrays[NAME][2, 3] = value
    return tprog.numpy.save(tmp_path / "a.tprog", arrays, config)


@pytest.mark.parametrize("load", [tprog.numpy.load, tprog.flax.load, tprog.torch.load])
def test_loading_in_a_dtype_that_cannot_hold_a_number_is_refused(tmp_path, load):
    path = checkpoint(tmp_path)
    with pytest.raises(FormatError, match=REFUSED):
        load(path, dtype="float16")
    assert load(path, dtype="bfloat16")
    (path / "weights.safetensors").unlink()


def test_a_sharded_load_is_refused_too(tmp_path):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with pytest.raises(FormatError, match=REFUSED):
        tprog.flax.load(checkpoint(tmp_path), dtype="float16", shardings=everywhere)


def test_a_model_of_a_narrower_dtype_is_not_filled(tmp_path):
    path = checkpoint(tmp_path)
    state = {name: torch.zeros(t.shape, dtype=torch.float16) for name, t in tprog.torch.load(path).items()}

    class Model(torch.nn.Module):
        def state_dict(self, *_, **__):
            return state

    with pytest.raises(FormatError, match=REFUSED):
        tprog.torch.load_into(Model(), path)
    assert not any(tensor.any() for tensor in state.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_export_of_weights_that_are_not_finite_says_that_the_source_is_not(tmp_path, value):
    path = open_checkpoint(checkpoint(tmp_path, value))
    with pytest.raises(FormatError, match=BROKEN):
        export_directory(path, tmp_path / "hf")
    with pytest.raises(FormatError, match=BROKEN):
        export_torch(path, tmp_path / "torch.pt")
    with pytest.raises(FormatError, match=BROKEN):
        tprog.gguf.export_gguf(path, tmp_path / "a.gguf", type_="f32", tokenizer=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tprog"]


@pytest.mark.parametrize(("type_", "value"), [("f16", BEYOND), ("bf16", np.finfo(np.float32).max)])
def test_a_gguf_type_that_cannot_hold_a_number_is_refused(tmp_path, type_, value):
    path = checkpoint(tmp_path, value)
    with pytest.raises(FormatError, match=rf"{NAME}: expected numbers that {type_} holds, up to"):
        tprog.gguf.export_gguf(path, tmp_path / "a.gguf", type_=type_, tokenizer=False)
    assert tprog.gguf.export_gguf(path, tmp_path / "a.gguf", type_="f32", tokenizer=False)


def test_copies_of_wide_weights_are_exported_as_they_are(tmp_path):
    path = open_checkpoint(checkpoint(tmp_path))
    assert tprog.numpy.load(export_directory(path, tmp_path / "hf"))[NAME][2, 3] == np.float32(BEYOND)
