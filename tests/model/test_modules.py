"""Each module computes what its transformers counterpart computes, to 1e-5 in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tprog import FAMILIES, ModelConfig
from tprog.wavelengths import inverse_wavelengths

from tests.model.variants import FULL, VARIANTS
from tests.support import odd_config, params_of, relative_difference, torch_model
from tritter_jax.model import Decoder
from tritter_jax.model.decoder import visible_keys
from tritter_jax.model.layers import attend, attend_causally, rms_norm
from tritter_jax.model.rope import rotation

MODULE = 1e-5
LAYER = 1
LENGTH = 11
every_family = pytest.mark.parametrize("config", FULL.values(), ids=FULL)


def our_layer(config: ModelConfig, model: torch.nn.Module) -> nnx.Module:
    """One layer of our decoder with the parameters of a transformers model."""
    graph, state = nnx.split(Decoder.from_params(params_of(model, config), config).layers)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[LAYER], state))


class Inputs:
    """The same hidden states, rotation and mask for both."""

    def __init__(self, config: ModelConfig, model: torch.nn.Module) -> None:
        self.x = np.random.default_rng(0).standard_normal((2, LENGTH, config.hidden_size), np.float32)
        self.tensor = torch.from_numpy(self.x)
        positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (2, LENGTH))
        self.rotation = rotation(config, jnp.asarray(positions), jnp.dtype("float32"))
        keep = np.ones((2, LENGTH), np.int32)
        keep[0, :3] = 0
        self.real = keep.astype(bool)
        self.mask = visible_keys(jnp.asarray(positions), jnp.asarray(keep), config.sliding_window)
        additive = np.where(self.mask, 0, np.finfo(np.float32).min).astype(np.float32)
        self.theirs = {
            "position_embeddings": model.model.rotary_emb(self.tensor, torch.from_numpy(positions.copy()).long()),
            "attention_mask": torch.from_numpy(additive),
        }

    def difference(self, ours: jax.Array, theirs: torch.Tensor | tuple) -> float:
        output = theirs[0] if isinstance(theirs, tuple) else theirs
        return relative_difference(np.asarray(ours)[self.real], output.numpy()[self.real])


@every_family
@torch.no_grad()
def test_rms_norm(config):
    model = torch_model(config)
    inputs, module = Inputs(config, model), model.model.layers[LAYER].input_layernorm
    gain = our_layer(config, model).attention_norm[...]
    assert np.abs(np.asarray(gain) - 1).max() > 0.1
    assert inputs.difference(rms_norm(jnp.asarray(inputs.x), gain, config.norm_eps), module(inputs.tensor)) < MODULE


@every_family
@torch.no_grad()
def test_attention(config):
    model = torch_model(config)
    inputs, module = Inputs(config, model), model.model.layers[LAYER].self_attn
    ours = our_layer(config, model).attention(jnp.asarray(inputs.x), inputs.rotation, inputs.mask)
    assert inputs.difference(ours, module(inputs.tensor, **inputs.theirs)) < MODULE


@every_family
@torch.no_grad()
def test_feed_forward(config):
    model = torch_model(config)
    inputs, module = Inputs(config, model), model.model.layers[LAYER].mlp
    assert inputs.difference(our_layer(config, model).mlp(jnp.asarray(inputs.x)), module(inputs.tensor)) < MODULE


@every_family
@torch.no_grad()
def test_one_whole_layer(config):
    model = torch_model(config)
    inputs, module = Inputs(config, model), model.model.layers[LAYER]
    ours = our_layer(config, model)(jnp.asarray(inputs.x), inputs.rotation, inputs.mask)
    assert inputs.difference(ours, module(inputs.tensor, **inputs.theirs)) < MODULE


@pytest.mark.parametrize("name", ["llama-plain", "llama-linear rope", "llama-llama3 rope"])
def test_rotary_wavelengths(name):
    config = VARIANTS[name]
    theirs = torch_model(config).model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(inverse_wavelengths(config), theirs, rtol=MODULE)


def test_llama3_rope_keeps_short_waves_and_stretches_long_ones():
    plain, stretched = (inverse_wavelengths(VARIANTS[f"llama-{name}"]) for name in ("plain", "llama3 rope"))
    ratio = stretched / plain
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(1 / 8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (5, 1)])
def test_attention_in_float64_is_float64_throughout(heads, kv_heads):
    """A softmax in float32 gave gradients that were wrong in the eighth digit."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 7, n, 4)) for n in (heads, kv_heads, kv_heads))
    mask = np.tril(np.ones((7, 7), bool))[None, None].repeat(2, 0)
    repeated_k, repeated_v = (np.repeat(each, heads // kv_heads, axis=2) for each in (k, v))
    scores = np.where(mask, np.einsum("bshk,bthk->bhst", q, repeated_k) / 2, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("bhst,bthk->bshk", weights / weights.sum(-1, keepdims=True), repeated_v)
    got = attend(*map(jnp.asarray, (q, k, v, mask)))
    assert got.dtype == jnp.float64
    assert relative_difference(got, expected) < 1e-14


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("length", [64, 150, 600])
def test_causal_attention_in_blocks_is_attention(length):
    """The last block is shorter, some keys are padding, and some are out of a query's window."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, length, n, 4))) for n in (4, 2, 2))
    keep = np.ones((2, length), np.int32)
    keep[0, -9:] = 0
    mask = visible_keys(jnp.zeros((2, length), jnp.int32), jnp.asarray(keep), 40)

    def both(attention, mask):
        def summed(q, k, v):
            return jnp.sum(jnp.square(attention(q, k, v, mask)))

        return jax.jit(jax.value_and_grad(summed, (0, 1, 2)))(q, k, v)

    expected, got = both(attend, mask), both(attend_causally, mask)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert relative_difference(ours, theirs) < 1e-13
    if length > 64:  # with later keys in view the blocks are no longer the whole
        everything = jnp.ones_like(mask)
        assert relative_difference(both(attend_causally, everything)[0], both(attend, everything)[0]) > 1e-3


def test_every_family_has_a_full_variant():
    assert FULL.keys() == FAMILIES.keys()
    assert odd_config("qwen3").head_dim * odd_config("qwen3").num_heads != odd_config("qwen3").hidden_size
