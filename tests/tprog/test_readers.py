"""Readers of other projects take a .tprog as it is, in one file and sharded, and give the same tensors.

`compatibility.py` beside this file asks older releases of transformers the same, in environments of their own.
Nothing is loaded with `strict`: accelerate 1.2 and huggingface_hub 1.31 hold each of several files against the whole
model with it. A tensor that is missing keeps other values than the file's, and is found by comparing.
"""

import accelerate
import huggingface_hub
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import tprog.numpy
import tprog.torch
import transformers
from orbax.checkpoint import v1 as ocp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from tests.support import odd_config, torch_model
from tests.tprog.files import assert_same_bits

CONFIG = odd_config("llama", num_layers=2, dtype="bfloat16")


def by_transformers(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path).state_dict()


def by_accelerate(path):
    model = torch_model(CONFIG, seed=1, dtype=torch.bfloat16)
    accelerate.load_checkpoint_in_model(model, str(path))
    return model.state_dict()


def by_accelerate_dispatched(path):
    config = transformers.AutoConfig.from_pretrained(path)
    with accelerate.init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(config)
    accelerate.load_checkpoint_and_dispatch(model, str(path), device_map={"": "cpu"})
    return model.state_dict()


def by_the_hub(path):
    model = torch_model(CONFIG, seed=1, dtype=torch.bfloat16)
    result = huggingface_hub.load_torch_model(model, path, strict=False)
    assert not result.missing_keys
    assert not result.unexpected_keys
    return model.state_dict()


def by_torch_dcp(path):
    state = {name: torch.zeros_like(tensor) for name, tensor in tprog.torch.load(path).items()}
    dcp.load(state, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return state


def by_orbax(path):
    context = ocp.Context(checkpoint_layout=ocp.options.CheckpointLayout.SAFETENSORS)
    with context:
        return ocp.load(path)


READERS = [by_transformers, by_accelerate, by_accelerate_dispatched, by_the_hub, by_torch_dcp, by_orbax]


def as_arrays(state) -> dict[str, np.ndarray]:
    return {
        name: tprog.torch.as_numpy(value) if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in state.items()
    }


@pytest.mark.parametrize("shard_size", [10**9, 20_000], ids=["one file", "sharded"])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # one process is meant
@pytest.mark.parametrize("reader", READERS)
def test_another_reader_gives_the_same_tensors(tmp_path, reader, shard_size):
    path = tprog.torch.save(
        tmp_path / "a.tprog", torch_model(CONFIG, dtype=torch.bfloat16), CONFIG, shard_size=shard_size,
        rng_state={"torch.cpu": torch.get_rng_state()},
    )  # fmt: skip
    assert (len(list(path.glob("weights*.safetensors"))) > 1) == (shard_size == 20_000)
    assert_same_bits(as_arrays(reader(path)), tprog.numpy.load(path))


@pytest.mark.parametrize("reader", [by_transformers, by_orbax])
def test_the_comparison_can_fail(tmp_path, reader):
    path = tprog.torch.save(tmp_path / "a.tprog", torch_model(CONFIG, dtype=torch.bfloat16), CONFIG)
    other = tprog.torch.save(tmp_path / "b.tprog", torch_model(CONFIG, seed=2, dtype=torch.bfloat16), CONFIG)
    with pytest.raises(AssertionError):
        assert_same_bits(as_arrays(reader(path)), tprog.numpy.load(other))
