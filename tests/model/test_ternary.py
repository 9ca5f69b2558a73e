"""Ternary arithmetic: transformers' own BitNet class on ternary weights, and the rules of the rounding."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tprog import ModelConfig
from tprog.tree import flatten

from tests.model.test_modules import LAYER, MODULE, Inputs, our_layer
from tests.model.test_parity import WHOLE_MODEL
from tests.support import (
    gradients,
    logits,
    odd_config,
    params_of,
    random_tokens,
    relative_difference,
    torch_gradients,
    torch_logits,
    torch_model,
)
from tritter_jax.model.ternary import quantize_activations, quantize_weight

CONFIG = odd_config("bitnet", attention_bias=True)
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> torch.nn.Module:
    """transformers' model in its online mode: weights are made ternary at every use."""
    path: Path = tmp_path_factory.mktemp("bitnet")
    torch_model(CONFIG).save_pretrained(path)
    config = path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": ONLINE}))
    return transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()


def test_the_reference_runs_on_ternary_weights(theirs):
    linear = theirs.model.layers[LAYER].mlp.up_proj
    assert type(linear).__name__ == "AutoBitLinear"
    unquantised = torch_logits(torch_model(CONFIG), random_tokens(CONFIG))
    assert relative_difference(torch_logits(theirs, random_tokens(CONFIG)), unquantised) > 0.05


@torch.no_grad()
def test_modules_equal_those_of_transformers(theirs):
    inputs, ours = Inputs(CONFIG, theirs), our_layer(CONFIG, theirs)
    module, x = theirs.model.layers[LAYER], jnp.asarray(inputs.x)
    attention = ours.attention(x, inputs.rotation, inputs.mask)
    assert inputs.difference(attention, module.self_attn(inputs.tensor, **inputs.theirs)) < MODULE
    assert inputs.difference(ours.mlp(x), module.mlp(inputs.tensor)) < MODULE
    whole = ours(x, inputs.rotation, inputs.mask)
    assert inputs.difference(whole, module(inputs.tensor, **inputs.theirs)) < MODULE


def test_logits_equal_those_of_transformers(theirs):
    tokens = random_tokens(CONFIG)
    ours = logits(params_of(theirs, CONFIG), tokens, CONFIG)
    assert relative_difference(ours, torch_logits(theirs, tokens)) < WHOLE_MODEL


def test_gradients_pass_straight_through_the_rounding_as_in_transformers(theirs):
    tokens = random_tokens(CONFIG)
    ours = flatten(gradients(params_of(theirs, CONFIG), tokens, CONFIG))
    theirs.zero_grad()
    for path, gradient in flatten(torch_gradients(theirs, tokens, CONFIG)).items():
        assert np.abs(gradient).max() > 0, ".".join(path)
        assert relative_difference(ours[path], gradient) < WHOLE_MODEL, ".".join(path)


def test_a_ternary_and_an_unquantised_model_differ():
    params = params_of(torch_model(CONFIG), CONFIG)
    tokens = random_tokens(CONFIG)
    plain: ModelConfig = odd_config("bitnet", attention_bias=True, ternary=False)
    assert relative_difference(logits(params, tokens, plain), logits(params, tokens, CONFIG)) > 0.05


@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_weights_take_three_values_the_mean_of_their_sizes_apart(seed, scale):
    weight = np.random.default_rng(seed).standard_normal((7, 5)).astype(np.float32) * np.float32(scale)
    rounded = np.asarray(quantize_weight(jnp.asarray(weight)))
    mean = np.abs(weight).mean()
    np.testing.assert_allclose(rounded / mean, np.clip(np.round(weight / mean), -1, 1), atol=1e-5)


def test_weights_of_zero_stay_zero():
    assert not np.asarray(quantize_weight(jnp.zeros((3, 4)))).any()


@given(seed=st.integers(0, 2**31))
def test_activations_are_rounded_to_a_127th_of_their_largest(seed):
    x = np.random.default_rng(seed).standard_normal((3, 6)).astype(np.float32)
    rounded = np.asarray(quantize_activations(jnp.asarray(x), (-1,)))
    step = np.abs(x).max(axis=-1, keepdims=True) / 127
    assert (np.abs(rounded - x) <= step * 0.5001).all()
    np.testing.assert_allclose(rounded / step, np.round(rounded / step), atol=1e-3)


@pytest.mark.parametrize("quantize", [quantize_weight, lambda x: quantize_activations(x, (-1,))], ids=["weight", "x"])
def test_the_gradient_of_the_rounding_is_one(quantize):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5)), jnp.float32)
    toward = jnp.arange(20, dtype=jnp.float32).reshape(4, 5)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.vdot(quantize(x), toward))(x), toward)
