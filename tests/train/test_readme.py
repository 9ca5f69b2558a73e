"""What the READMEs show is true: the configuration is one, the commands have these options."""

import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import tritter_jax.train
from tritter_jax.cli.main import app
from tritter_jax.train.config import RunConfig

TRAIN = Path(tritter_jax.train.__file__).parent / "README.md"
ROOT = Path(__file__).parents[2] / "README.md"


def blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)


def test_the_configuration_is_valid_and_its_defaults_are_the_true_ones():
    (text,) = blocks(TRAIN, "toml")
    shown = tomllib.loads(text)
    chosen = RunConfig.parse(shown)
    differing = {"model.size", "data.train", "training.compute_dtype", "mesh.data"}
    found, default = (each.model_dump(by_alias=True) for each in (chosen, RunConfig()))
    for section, fields in shown.items():
        for name in fields:
            same = found[section][name] == default[section][name]
            assert same != (f"{section}.{name}" in differing), f"{section}.{name}"


@pytest.mark.parametrize("readme", [ROOT, TRAIN], ids=["root", "train"])
def test_every_command_has_the_options_it_is_shown_with(readme):
    shown = [line.partition("#")[0].split() for block in blocks(readme, "sh") for line in block.splitlines()]
    lines = [words for words in shown if "tritter" in words]
    assert len(lines) > 6
    for words in lines:
        words = words[words.index("tritter") + 1 :]
        command = get_command(app).commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words
