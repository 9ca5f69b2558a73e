"""Token ids outside the vocabulary are refused wherever they enter, never looked up."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import FormatError, ModelConfig, UsageError
from tprog.flax import to_tensors

from tests.support import random_params
from tritter_jax.analysis import losses_without, measure_layers
from tritter_jax.data import byte_tokenizer, open_corpus, tokenize
from tritter_jax.data.tokens import DESCRIPTION, open_tokens
from tritter_jax.model import apply, generate, logits_by_layer, stages

CONFIG = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=16, vocab_size=24)
PARAMS = random_params(CONFIG)


def measure(tokens):
    return measure_layers(PARAMS, [(np.asarray(tokens), np.ones((1, tokens.shape[1] - 1)))], CONFIG)


def without(tokens):
    return losses_without(PARAMS, [(np.asarray(tokens), np.ones((1, tokens.shape[1] - 1)))], CONFIG, [[0]])


ENTRANCES = {
    "apply": lambda tokens: apply(PARAMS, tokens, CONFIG),
    "stages": lambda tokens: stages(PARAMS, tokens, CONFIG),
    "generate": lambda tokens: generate(PARAMS, tokens, CONFIG, length=2, key=jax.random.key(0)),
    "by_layer": lambda tokens: logits_by_layer(to_tensors(PARAMS, CONFIG), np.asarray(tokens), CONFIG),
    "measure_layers": measure,
    "losses_without": without,
}


@pytest.mark.parametrize("wrong", [24, -1, 2**31 - 1])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_id_outside_the_vocabulary_is_refused_with_its_number(entrance, wrong):
    tokens = jnp.array([[0, wrong, 23]], jnp.int32)
    with pytest.raises(UsageError, match=f"token ids from 0 to 23, .* vocab_size being 24, got the id {wrong}"):
        ENTRANCES[entrance](tokens)


def test_the_first_and_last_ids_are_taken_eagerly_and_compiled():
    tokens = jnp.array([[0, 23]], jnp.int32)
    eager, compiled = (run(PARAMS, tokens, CONFIG) for run in (apply, jax.jit(apply, static_argnums=2)))
    np.testing.assert_allclose(eager, compiled, rtol=1e-5, atol=1e-5)


def test_a_token_file_that_understates_its_largest_id_is_damaged(tmp_path):
    file = tokenize(open_corpus("builtin:prose"), byte_tokenizer(), cache=tmp_path)
    path = file.path / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_id": 3}))
    with pytest.raises(FormatError, match=f"the id {file.max_id} above max_id 3"):
        open_tokens(file.path)
