"""A small model that has learned something, trained once for all tests here."""

import json

import numpy as np
import pytest
import tprog.flax
from tprog.reader import open_checkpoint

from tritter_jax.train.config import RunConfig
from tritter_jax.train.evaluate import batches_of
from tritter_jax.train.loop import train
from tritter_jax.train.setup import prepare

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 320,
}


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A corpus with something to learn at every distance: counting, and words that come back."""
    directory = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    for number in range(50):
        first = rng.permutation(words)[:3]
        lines = (f"{first[place % 3]} {number + place} {first[place % 2]}\n" for place in range(60))
        (directory / f"{number}.txt").write_text("".join(lines))
    return directory


@pytest.fixture(scope="session")
def trained(tmp_path_factory, texts):
    """The run directory of a model that was trained on `texts`."""
    directory = tmp_path_factory.mktemp("trained")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    settings = RunConfig.parse(
        {
            "model": {"config": str(directory / "config.json"), "name": "tiny"},
            "data": {
                "train": str(texts),
                "cache": str(directory / "cache"),
                "sequence_length": 48,
                "batch_size": 8,
                "held_out": 0.2,
            },
            "optimizer": {"learning_rate": 5e-3},
            "schedule": {"name": "constant", "warmup": 10},
            "training": {"steps": 100},
            "output": {
                "directory": str(directory / "run"),
                "log_interval": 5,
                "eval_interval": 25,
                "eval_batches": 4,
                "checkpoint_interval": 0,
            },
        }
    )
    train(prepare(settings))
    return directory / "run"


@pytest.fixture(scope="session")
def checkpoint(trained):
    """The trained model, open; tests must not write to it."""
    return open_checkpoint(next(trained.glob("*.tprog")))


@pytest.fixture(scope="session")
def params(checkpoint):
    return tprog.flax.load(checkpoint)


@pytest.fixture(scope="session")
def batches(checkpoint, texts, tmp_path_factory):
    """Held-out rows and weights."""
    cache = tmp_path_factory.mktemp("cache")
    found = batches_of(checkpoint, str(texts), batch_size=8, sequence_length=48, cache=cache)
    return [(batch.tokens, batch.weights) for batch in found]
