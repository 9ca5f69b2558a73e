"""A model that was grown, with a tokenizer and a chat template, and what our own code makes of it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tprog.flax
from tprog import ModelConfig

from tests.clients.environments import Clients
from tests.support import logits, random_params
from tritter_jax.data import load_tokenizer, open_corpus, train_bpe
from tritter_jax.growth.expand import expand
from tritter_jax.model import generate

PROMPT = "It was a fine day, and nobody had yet"
LENGTH = 12
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
SMALL = {
    "family": "llama", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
    "intermediate_size": 96, "vocab_size": 384, "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip
LARGE = {"hidden_size": 128, "num_layers": 3, "num_heads": 8, "num_kv_heads": 4, "intermediate_size": 192}


@dataclasses.dataclass(frozen=True)
class Grown:
    """The model, and what it says.

    Args:
        path: the `.tprog`.
        ids: the tokens of `PROMPT`.
        made: the likeliest tokens behind it, one after the other.
        text: the prompt and those.
        logits: [1, S, V] of the prompt.
        bits_per_byte: of the prompt, each token given those before it and the first given the end of a text.
    """

    path: Path
    ids: list[int]
    made: list[int]
    text: str
    logits: np.ndarray
    bits_per_byte: float


@pytest.fixture(scope="session")
def grown(tmp_path_factory) -> Grown:
    directory = tmp_path_factory.mktemp("grown")
    prose = "".join(next(iter(open_corpus("builtin:prose"))).read())
    words = train_bpe([prose[:50_000]], SMALL["vocab_size"]).save(directory / "words")
    (words / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer, config = load_tokenizer(words), ModelConfig(**SMALL)
    params = random_params(config)
    # It says nothing but plain letters, so that its text can be compared and does not end.
    plain = [tokenizer.decode([token]) for token in range(config.vocab_size)]
    speaks = np.array([text.isascii() and text.isprintable() and "<" not in text for text in plain])
    params["lm_head"] = params["lm_head"] * speaks[:, None].astype(np.float32)
    source = tprog.flax.save(directory / "small.tprog", params, config, tokenizer_from=words)
    path = expand(source, directory / "grown.tprog", ModelConfig(**(SMALL | LARGE))).path
    config, params = ModelConfig(**(SMALL | LARGE)), tprog.flax.load(path)
    ids = tokenizer.encode(PROMPT).tolist()
    made = generate(params, jnp.asarray([ids]), config, length=LENGTH, key=jax.random.key(0), temperature=0)[0]
    scores = logits(params, np.asarray([[tokenizer.end_of_text, *ids]], np.int32), config)[0, :-1]
    likelihood = np.asarray(jax.nn.log_softmax(scores))[np.arange(len(ids)), ids].sum()
    return Grown(
        path=path, ids=ids, made=made.tolist(), text=tokenizer.decode([*ids, *made.tolist()]),
        logits=np.asarray(logits(params, np.asarray([ids], np.int32), config)),
        bits_per_byte=float(-likelihood / np.log(2) / len(PROMPT.encode())),
    )  # fmt: skip


def pytest_addoption(parser):
    parser.addoption(
        "--client-environments",
        type=Path,
        help="where the clients' environments are kept; a temporary place without",
    )


@pytest.fixture(scope="session")
def clients(request, tmp_path_factory) -> Clients:
    chosen = request.config.getoption("--client-environments", default=None)
    directory = (chosen or tmp_path_factory.mktemp("clients")).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    return Clients(directory)
