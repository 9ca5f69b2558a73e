"""State dicts: mapped, converted, copied into models."""

import warnings

import numpy as np
import pytest
import torch
import tprog.torch
from tprog.errors import ParameterError
from tprog.reader import open_checkpoint
from tprog.writer import write_checkpoint

from tests.support import odd_config, torch_model
from tests.tprog.files import assert_same_bits, random_arrays, small_config

CONFIG = small_config(dtype="bfloat16")


@pytest.fixture
def saved(tmp_path):
    return write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG), shard_size=1000)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_state_dict_holds_the_same_bits_without_a_warning(tmp_path, dtype):
    config = small_config(dtype=dtype)
    path = write_checkpoint(tmp_path / "a.tprog", config, random_arrays(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = tprog.torch.load(path)
    assert {tensor.dtype for tensor in state.values()} == {tprog.torch.torch_dtype(dtype)}
    assert_same_bits({name: tprog.torch.as_numpy(tensor) for name, tensor in state.items()}, random_arrays(config))


def test_tensors_are_mapped_and_writing_to_them_does_not_reach_the_file(saved):
    checkpoint = open_checkpoint(saved)
    name = "model.norm.weight"
    before = checkpoint.file_of(name).path.read_bytes()
    tensor = tprog.torch.load(checkpoint)[name]
    mapped = np.frombuffer(checkpoint.file_of(name).data, np.uint8)
    assert (
        mapped.__array_interface__["data"][0]
        <= tensor.data_ptr()
        < mapped.__array_interface__["data"][0] + mapped.size
    )
    tensor.zero_()
    assert checkpoint.file_of(name).path.read_bytes() == before
    assert tprog.torch.load(saved)[name].abs().max() > 0


def test_conversion(saved):
    assert {tensor.dtype for tensor in tprog.torch.load(saved, dtype="float32").values()} == {torch.float32}
    assert {tensor.dtype for tensor in tprog.torch.load(saved, dtype=torch.float16).values()} == {torch.float16}
    assert {tensor.device.type for tensor in tprog.torch.load(saved, device="meta").values()} == {"meta"}


@pytest.mark.parametrize("tied", [False, True])
def test_load_into_a_model(tmp_path, tied):
    config = odd_config("qwen3", tie_embeddings=tied)
    model = torch_model(config)
    path = tprog.torch.save(tmp_path / "a.tprog", model, config)
    other = torch_model(config, seed=1)
    assert not torch.equal(other.model.norm.weight, model.model.norm.weight)
    assert tprog.torch.load_into(other, path) is other
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_load_into_another_model_lists_every_mismatch_and_copies_nothing(tmp_path):
    config = odd_config("llama")
    path = tprog.torch.save(tmp_path / "a.tprog", torch_model(config), config)
    deeper = torch_model(odd_config("llama", num_layers=4, intermediate_size=90), seed=1)
    before = {name: tensor.clone() for name, tensor in deeper.state_dict().items()}
    with pytest.raises(ParameterError) as caught:
        tprog.torch.load_into(deeper, path)
    text = str(caught.value)
    assert "model.layers.3.input_layernorm.weight is not in the checkpoint" in text
    assert "[88, 60], the model [90, 60]" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in deeper.state_dict().items())


def test_load_into_a_deeper_model_where_that_is_wanted(tmp_path):
    config = odd_config("llama")
    model = torch_model(config)
    path = tprog.torch.save(tmp_path / "a.tprog", model, config)
    deeper = torch_model(odd_config("llama", num_layers=4), seed=1)
    tprog.torch.load_into(deeper, path, strict=False)
    assert torch.equal(deeper.model.norm.weight, model.model.norm.weight)


def test_saving_a_tied_state_dict_whose_output_differs_is_refused(tmp_path):
    config = odd_config("llama", tie_embeddings=True)
    state = dict(torch_model(config).state_dict())
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(ParameterError, match=r"lm_head\.weight"):
        tprog.torch.save(tmp_path / "a.tprog", state, config)
    assert list(tmp_path.iterdir()) == []


def test_saving_an_unknown_name_is_refused(tmp_path):
    config = odd_config("llama")
    state = torch_model(config).state_dict() | {"model.extra": torch.zeros(2)}
    with pytest.raises(ParameterError, match=r"model\.extra is unknown"):
        tprog.torch.save(tmp_path / "a.tprog", state, config)


def test_a_dtype_that_no_file_holds_is_refused(tmp_path):
    config = odd_config("llama")
    state = torch_model(config).state_dict() | {"model.norm.weight": torch.zeros(60, dtype=torch.complex64)}
    with pytest.raises(ParameterError, match=r"model\.norm\.weight: expected one of"):
        tprog.torch.save(tmp_path / "a.tprog", state, config)
