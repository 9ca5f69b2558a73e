"""Sampling with a cache gives what running the whole sequence anew gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import UsageError

from tests.support import odd_config, random_tokens
from tritter_jax.model import apply, generate, init_params


@pytest.mark.parametrize(
    ("family", "changes"), [("llama", {}), ("qwen3", {"tie_embeddings": True}), ("mistral", {"sliding_window": 4})]
)
def test_the_likeliest_tokens_are_those_of_a_full_forward_pass(family, changes):
    config = odd_config(family, **changes)
    params = init_params(config)
    tokens = jnp.asarray(random_tokens(config, (2, 5)))
    made = generate(params, tokens, config, length=6, key=jax.random.key(0), temperature=0.0)
    for _ in range(6):
        following = jnp.argmax(apply(params, tokens, config)[:, -1], axis=-1).astype(jnp.int32)
        tokens = jnp.concatenate([tokens, following[:, None]], axis=1)
    np.testing.assert_array_equal(made, tokens[:, 5:])


def test_draws_depend_on_the_key_and_top_k_narrows_them():
    config = odd_config("llama")
    params = init_params(config)
    prompt = jnp.asarray(random_tokens(config, (1, 3)))
    a, b = (generate(params, prompt, config, length=20, key=jax.random.key(k)) for k in (0, 1))
    assert (np.asarray(a) != np.asarray(b)).any()
    one = generate(params, prompt, config, length=20, key=jax.random.key(0), top_k=1)
    likeliest = generate(params, prompt, config, length=20, key=jax.random.key(0), temperature=0.0)
    np.testing.assert_array_equal(one, likeliest)


def test_more_tokens_than_positions_are_refused():
    config = odd_config("llama")
    with pytest.raises(UsageError, match="1 to 54 tokens"):
        generate(init_params(config), jnp.zeros((1, 60), jnp.int32), config, length=10, key=jax.random.key(0))
