"""tritter verify, diff and info tell what is wrong, what differs and what is there; hooks never run unasked."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tprog.parts import Parts
from tprog.reader import open_checkpoint
from tprog.writer import write_checkpoint

from tests.cli.conftest import LARGER
from tritter_jax.growth import SPLITS, load_strategies


def test_verify_is_content_with_a_whole_checkpoint(tritter, small):
    outcome = tritter("verify", small)
    assert outcome.code == 0
    assert "nothing wrong" in outcome.out


def test_verify_lists_everything_that_is_wrong_at_once(tritter, small):
    file = Path(small) / "weights.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], np.nan)
    save_file(tensors, file)
    (Path(small) / "config.json").write_text((Path(small) / "config.json").read_text() + " ")
    outcome = tritter("verify", small, "--json")
    assert outcome.code == 1
    findings = [(found["file"], found["problem"]) for found in outcome.json["findings"]]
    assert any(name == "weights.safetensors" and "model.norm.weight" in problem for name, problem in findings)
    assert any(name == "config.json" for name, _ in findings)


def test_verify_rebuilds_an_index(tritter, small):
    index = Path(small) / "model.safetensors.index.json"
    before = json.loads(index.read_text())
    index.unlink()
    assert tritter("verify", small, "--repair-index").code == 0
    assert json.loads(index.read_text())["weight_map"] == before["weight_map"]


def test_diff_names_what_differs(tritter, small, config_file):
    assert tritter("init", "--config", config_file(), "--seed", "5", "--out", "other.tprog").code == 0
    same, other = tritter("diff", small, small, "--json"), tritter("diff", small, "other.tprog", "--json")
    assert (same.code, same.json["same_model"]) == (0, True)
    assert (other.code, other.json["same_model"]) == (4, False)
    assert "model.norm.weight" not in {entry["name"] for entry in other.json["tensors"]}
    assert "lm_head.weight" in tritter("diff", small, "other.tprog").out


def test_info_is_a_tree_with_lineage(tritter, small, config_file):
    large = config_file("large.json", **LARGER)
    grown = tritter("expand", "--from", small, "--to", large, "--layers", "0", "--json").json["path"]
    text = tritter("info", grown).out
    for part in ("lineage", "new layers 1", "drift", "weights.safetensors", "3 layers"):
        assert part in text


HOOKS = """
from dataclasses import replace

import numpy as np

from tritter_jax.growth import SPLITS

SPLITS["thirds"] = replace(SPLITS["even"], name="thirds", rule=lambda copies: np.full(copies, 1 / copies))
"""


@pytest.fixture
def splits():
    """The registry of splits, as it was again after the test."""
    before = dict(SPLITS)
    yield SPLITS
    SPLITS.clear()
    SPLITS.update(before)


def test_hooks_run_only_when_trusted(tritter, small, config_file, tmp_path, splits):
    source = open_checkpoint(small)
    hooked = write_checkpoint(tmp_path / "hooked.tprog", source.config, source, parts=Parts(hooks=HOOKS.encode()))
    assert (
        json.loads((hooked / "progressive.json").read_text())["manifest"]["files"]["expansion_hooks.py"]["sha256"]
        == hashlib.sha256(HOOKS.encode()).hexdigest()
    )
    large = config_file("large.json", **LARGER)
    arguments = ("expand", "--from", hooked, "--to", large, "--layers", "0", "--out", "grown.tprog")
    error = tritter(*arguments).error
    assert "--trust-hooks" in error
    assert "numpy" in error
    assert "thirds" not in splits
    assert not Path("grown.tprog").exists()
    assert tritter(*arguments, "--trust-hooks").code == 0
    assert "thirds" in splits

    (hooked / "expansion_hooks.py").write_text(HOOKS + "# changed\n")
    assert "on record" in tritter(*arguments, "--trust-hooks", "--overwrite").error


def test_an_installed_package_adds_strategies_without_a_flag(
    tritter, small, config_file, monkeypatch, tmp_path, splits
):
    package = tmp_path / "site"
    (package / "extra-1.0.dist-info").mkdir(parents=True)
    (package / "extra-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (package / "extra-1.0.dist-info" / "entry_points.txt").write_text(
        "[tritter_jax.strategies]\nextra = extra_strategies:add\n"
    )
    (package / "extra_strategies.py").write_text(
        "from tritter_jax.growth import SPLITS\ndef add():\n    SPLITS['halves'] = SPLITS['even']\n"
    )
    monkeypatch.syspath_prepend(str(package))
    load_strategies.cache_clear()
    large = config_file("large.json", **LARGER)
    try:
        outcome = tritter("plan", "--from", small, "--to", large, "--layers", "0", "--split", "halves", "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.json["split"] == "halves"
    finally:
        load_strategies.cache_clear()
