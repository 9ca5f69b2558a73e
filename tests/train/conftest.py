"""Small runs on the built-in prose."""

import json
from functools import partial
from pathlib import Path

import pytest

from tritter_jax.train import loop
from tritter_jax.train.config import RunConfig
from tritter_jax.train.metrics import read_metrics
from tritter_jax.train.setup import prepare

SMALL = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 320,
}


@pytest.fixture(scope="session")
def token_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


def small_run(directory_of_all: Path, token_cache: Path, *changes: str, directory: str = "run") -> RunConfig:
    """A run configuration; `changes` are overrides such as `training.steps=5`."""
    (directory_of_all / "config.json").write_text(json.dumps(SMALL))
    base = {
        "model": {"config": str(directory_of_all / "config.json"), "name": "tiny"},
        "data": {"cache": str(token_cache), "sequence_length": 32, "batch_size": 8},
        "schedule": {"warmup": 2},
        "training": {"steps": 8},
        "output": {
            "directory": str(directory_of_all / directory),
            "log_interval": 1,
            "eval_interval": 4,
            "eval_batches": 2,
            "checkpoint_interval": 4,
        },
    }
    return RunConfig.parse(base, changes)


@pytest.fixture
def settings(tmp_path, token_cache):
    """Makes a run configuration of this test's own."""
    return partial(small_run, tmp_path, token_cache)


@pytest.fixture(scope="session")
def whole(tmp_path_factory, token_cache):
    """The directory of a run of eight steps that nothing interrupted. Read only: many tests share it."""
    chosen = small_run(tmp_path_factory.mktemp("whole"), token_cache)
    loop.train(prepare(chosen))
    return Path(chosen.output.directory)


@pytest.fixture
def uninterrupted(whole):
    """Its losses, step by step."""
    return [line["loss"] for line in read_metrics(whole) if "loss" in line]
