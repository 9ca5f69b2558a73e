"""The decoder computes what the transformers class of the same family computes, gradients included."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tprog.tree import flatten

from tests.model.variants import FULL, VARIANTS
from tests.support import (
    gradients,
    logits,
    params_of,
    random_tokens,
    relative_difference,
    torch_gradients,
    torch_logits,
    torch_model,
)

WHOLE_MODEL = 1e-4


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_logits_equal_those_of_transformers(config):
    model, tokens = torch_model(config), random_tokens(config)
    mask = np.ones(tokens.shape, np.int32)
    mask[0, :4] = 0  # padded on the left
    mask[1, -3:] = 0  # padded on the right
    real = mask.astype(bool)
    got = logits(params_of(model, config), tokens, config, mask=mask)
    assert relative_difference(np.asarray(got)[real], torch_logits(model, tokens, mask)[real]) < WHOLE_MODEL


@pytest.mark.parametrize("config", FULL.values(), ids=FULL)
def test_gradients_equal_those_of_transformers(config):
    model, tokens = torch_model(config), random_tokens(config)
    ours = flatten(gradients(params_of(model, config), tokens, config))
    for path, theirs in flatten(torch_gradients(model, tokens, config)).items():
        assert relative_difference(ours[path], theirs) < WHOLE_MODEL, ".".join(path)


@pytest.mark.parametrize("config", FULL.values(), ids=FULL)
def test_bfloat16_is_as_near_to_float32_as_transformers_is(config):
    config = replace(config, dtype="bfloat16")
    tokens, model = random_tokens(config), torch_model(config, dtype=torch.bfloat16)
    params = params_of(model, config)
    ours, theirs = logits(params, tokens, config), torch_logits(model, tokens)
    exact = torch_logits(model.float(), tokens)
    assert ours.dtype == jnp.bfloat16
    assert relative_difference(ours, exact) < 1.5 * relative_difference(theirs, exact)
    in_float32 = logits(params, tokens, config, dtype="float32")
    assert in_float32.dtype == jnp.float32
    assert relative_difference(in_float32, exact) < WHOLE_MODEL


@pytest.mark.parametrize("path", [("norm",), ("layers", "attention", "key"), ("layers", "mlp", "up_bias")], ids=str)
def test_one_percent_on_one_parameter_is_seen(path):
    config = FULL["llama"]
    model, tokens = torch_model(config), random_tokens(config)
    params = params_of(model, config)
    *parents, name = path
    node = params
    for parent in parents:
        node = node[parent]
    node[name] = node[name] * 1.01
    assert relative_difference(logits(params, tokens, config), torch_logits(model, tokens)) > WHOLE_MODEL
