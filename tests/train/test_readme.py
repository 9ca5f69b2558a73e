"""The configuration that the README shows is one, and its defaults are the true ones."""

import tomllib
from pathlib import Path

import tritter_jax.train
from tests.docs.blocks import blocks
from tritter_jax.train.config import RunConfig

README = Path(tritter_jax.train.__file__).parent / "README.md"


def test_the_configuration_is_valid_and_its_defaults_are_the_true_ones():
    (text,) = (block.text for block in blocks(README) if block.language == "toml")
    shown = tomllib.loads(text)
    chosen = RunConfig.parse(shown)
    differing = {
        "model.size",
        "data.train",
        "data.tokenizer",
        "optimizer.learning_rate",
        "training.compute_dtype",
        "mesh.data",
    }
    found, default = (each.model_dump(by_alias=True) for each in (chosen, RunConfig()))
    for section, fields in shown.items():
        for name in fields:
            same = found[section][name] == default[section][name]
            assert same != (f"{section}.{name}" in differing), f"{section}.{name}"
