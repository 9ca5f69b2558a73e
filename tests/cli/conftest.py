"""The command line as a user meets it: arguments in; exit code, standard output and standard error out."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from tritter_jax.cli.main import main


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one paragraph of an error; fails on a traceback, on success, and on anything left unsaid."""
        assert self.code not in (0, None), self.out
        assert "Traceback" not in self.err
        assert "error" in self.err.lower()
        return " ".join(self.err.split())


@pytest.fixture
def tritter(monkeypatch, capsys, tmp_path):
    """Run `tritter ARGS` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["tritter", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def config_file(tmp_path):
    """Write a config.json of a small llama; keywords replace its fields."""

    def write(name: str = "small.json", **changes: object):
        values = {
            "model_type": "llama",
            "hidden_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "intermediate_size": 48,
            "vocab_size": 64,
            "max_position_embeddings": 64,
            "torch_dtype": "float32",
            **changes,
        }
        path = tmp_path / name
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
        return path

    return write


LARGER = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
}
"""A size that the small model of `config_file` can grow to; head_dim stays 8."""


@pytest.fixture
def small(tritter, config_file):
    """A small checkpoint, made by `tritter init`."""
    outcome = tritter("init", "--config", config_file(), "--out", "tiny-small-0.tprog", "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json["path"]


def entries(path: object) -> set[str]:
    """Every name in a directory, hidden ones too."""
    return {entry.name for entry in Path(str(path)).iterdir()}
