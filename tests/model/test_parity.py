"""The decoder computes what the transformers class of the same family computes."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tests.support import odd_config, params_of, random_tokens, relative_difference, torch_model

from tprog import FAMILIES, RopeScaling
from tritter_jax.model import apply

WHOLE_MODEL = 1e-4

VARIANTS = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "one kv head": {"num_kv_heads": 1},
    "all kv heads": {"num_kv_heads": 6},
}
ONLY_SOME = {
    "attention bias": ({"attention_bias": True}, ("llama", "qwen3", "bitnet")),
    "mlp bias": ({"mlp_bias": True}, ("llama",)),
    "sliding window": ({"sliding_window": 5}, ("mistral",)),
    "linear rope": ({"rope_scaling": RopeScaling.of("linear", factor=4.0)}, ("llama", "qwen2")),
    "llama3 rope": (
        {
            "rope_scaling": RopeScaling.of(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            )
        },
        ("llama",),
    ),
}
CASES = [(family, name, change) for family in FAMILIES for name, change in VARIANTS.items()]
CASES += [(family, name, change) for name, (change, families) in ONLY_SOME.items() for family in families]


def _unquantized(family: str, change: dict) -> dict:
    return change | ({"ternary": False} if FAMILIES[family].ternary else {})


@pytest.mark.parametrize(("family", "name", "change"), CASES, ids=[f"{f}-{n}" for f, n, _ in CASES])
def test_logits_equal_those_of_transformers(family, name, change):
    config = odd_config(family, **_unquantized(family, change))
    model = torch_model(config)
    tokens = random_tokens(config)
    mask = np.ones(tokens.shape, np.int64)
    mask[0, :4] = 0  # padded on the left
    mask[1, -3:] = 0  # padded on the right
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long(), attention_mask=torch.from_numpy(mask)).logits.numpy()
    got = apply(params_of(model, config), jnp.asarray(tokens), config, attention_mask=jnp.asarray(mask))
    real = mask.astype(bool)
    assert relative_difference(np.asarray(got)[real], expected[real]) < WHOLE_MODEL


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "tritter"])
def test_bfloat16_is_as_near_to_float32_as_transformers_is(family):
    config = odd_config(family, dtype="bfloat16", **_unquantized(family, {}))
    model = torch_model(config, dtype=torch.bfloat16)
    exact = model.float()
    tokens = random_tokens(config)
    with torch.no_grad():
        reference = exact(torch.from_numpy(tokens).long()).logits.numpy()
    low = torch_model(config, dtype=torch.bfloat16)
    with torch.no_grad():
        theirs = low(torch.from_numpy(tokens).long()).logits.float().numpy()
    ours = apply(params_of(low, config), jnp.asarray(tokens), config)
    assert ours.dtype == jnp.bfloat16
    assert relative_difference(ours, reference) < 1.5 * relative_difference(theirs, reference)


def test_a_wrong_gain_is_seen():
    config = odd_config("llama")
    model = torch_model(config)
    params = params_of(model, config)
    params["norm"] = params["norm"] * 1.01
    tokens = random_tokens(config)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long()).logits.numpy()
    assert relative_difference(apply(params, jnp.asarray(tokens), config), expected) > WHOLE_MODEL
