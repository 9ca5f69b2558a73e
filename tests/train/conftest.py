"""Small runs on the built-in prose."""

import json

import pytest

from tritter_jax.train.config import RunConfig

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


@pytest.fixture
def settings(tmp_path, token_cache):
    """A run configuration; positional arguments are overrides such as `training.steps=5`."""

    def make(*changes: str, directory: str = "run") -> RunConfig:
        (tmp_path / "config.json").write_text(json.dumps(SMALL))
        base = {
            "model": {"config": str(tmp_path / "config.json"), "name": "tiny"},
            "data": {"cache": str(token_cache), "sequence_length": 32, "batch_size": 8},
            "schedule": {"warmup": 2},
            "training": {"steps": 8},
            "output": {
                "directory": str(tmp_path / directory),
                "log_interval": 1,
                "eval_interval": 4,
                "eval_batches": 2,
                "checkpoint_interval": 4,
            },
        }
        return RunConfig.parse(base, changes)

    return make
