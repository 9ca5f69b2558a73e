"""A grown model survives the disk bit for bit, and transformers runs the directory with no code of ours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import tprog.flax
import transformers
from tprog.dtypes import same_bits
from tprog.reader import open_checkpoint
from tprog.tree import flatten

from tests.contracts.cases import EACH_MODEL, cases, in_dtype, params_for
from tests.support import logits, random_tokens, relative_difference, torch_logits
from tritter_jax.growth import TOLERANCE, WIDTH, grow
from tritter_jax.growth.drift import precision
from tritter_jax.growth.stream import grown_tensors

MODULE = 1e-5


IN_DTYPES = [pytest.param(*EACH_MODEL[0], dtype, id=dtype) for dtype in TOLERANCE if dtype != "bfloat16"]
IN_BFLOAT16 = [pytest.param(model, growth, "bfloat16", id=model.name) for model, growth in EACH_MODEL]


@pytest.mark.parametrize(("model", "growth", "dtype"), IN_DTYPES + IN_BFLOAT16)
def test_the_disk_keeps_every_bit(model, growth, dtype, tmp_path):
    plan = growth.plan(in_dtype(model.config, dtype))
    with precision(dtype):
        grown = grow(params_for(plan.source), plan)
        path = tprog.flax.save(tmp_path / "grown.tprog", grown, plan.target, shard_size=300_000)
        back = tprog.flax.load(path)
    assert open_checkpoint(path).config == plan.target
    assert len(list(path.glob("weights-*-of-*.safetensors"))) > 1
    assert flatten(back).keys() == flatten(grown).keys()
    for name, leaf in flatten(grown).items():
        there, here = np.asarray(flatten(back)[name]), np.asarray(leaf)
        assert there.dtype == here.dtype
        np.testing.assert_array_equal(same_bits(there), same_bits(here), err_msg=".".join(name))


@cases(EACH_MODEL)
def test_transformers_computes_the_source_from_the_grown_directory(model, growth, tmp_path):
    # An activation of a ternary model that lies between two 8-bit levels falls to either side by float32's rounding.
    dtype = "float64" if model.config.ternary else "float32"
    plan = growth.plan(in_dtype(model.config, dtype))
    with precision(dtype):
        params, tokens = params_for(plan.source), random_tokens(plan.source)
        path = tprog.flax.save(tmp_path / "grown.tprog", grow(params, plan), plan.target)
        due = logits(params, tokens, plan.source)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    assert type(theirs).__name__ == plan.target.family_record.architecture
    assert theirs.config.num_hidden_layers == plan.target.num_layers
    assert relative_difference(torch_logits(theirs, tokens), due) < MODULE


@cases(
    [
        (model, replace(growth, width=width))
        for width in WIDTH
        for model, growth in EACH_MODEL[::2]
        if model.takes(replace(growth, width=width))
    ]
)
def test_growing_tensor_by_tensor_gives_what_growing_the_tree_gives(model, growth, tmp_path):
    plan = growth.plan(in_dtype(model.config, "bfloat16"))
    params = params_for(plan.source)
    source = open_checkpoint(tprog.flax.save(tmp_path / "source.tprog", params, plan.source))
    streamed, whole = grown_tensors(source, plan), tprog.flax.to_tensors(grow(params, plan), plan.target)
    assert streamed.specs == whole.specs
    for name in whole.specs:
        one, other = streamed.tensor(name), whole.tensor(name)
        if any(along.fresh.any() for _, along in plan.maps):  # the spread of what is drawn is a sum, in some order
            np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), rtol=1e-2, err_msg=name)
        else:
            np.testing.assert_array_equal(same_bits(one), same_bits(other), err_msg=name)
