"""What users have is not lost, odd names and values do no harm, and narrow dtypes hide no wrong growth."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tprog.reader import open_checkpoint

from tests.cli.conftest import LARGER
from tritter_jax import growth
from tritter_jax.demo import net2net
from tritter_jax.growth import planning


@pytest.fixture
def expand(tritter, small, config_file):
    """Expand the small checkpoint to the usual larger size."""

    def run(*options: object, source: object = small):
        large = config_file("large.json", **LARGER)
        return tritter("expand", "--from", source, "--to", large, "--layers", "0", *options)

    return run


def test_a_source_is_never_its_own_destination(tritter, expand, small):
    before = (Path(small) / "weights.safetensors").read_bytes()
    assert "outside the source" in expand("--out", small, "--overwrite").error
    assert "outside the source" in expand("--out", Path(small) / "inner.tprog").error
    for kind in ("hf", "torch", "orbax"):
        assert "outside the source" in tritter("export", small, small, "--to", kind, "--overwrite").error
    assert (Path(small) / "weights.safetensors").read_bytes() == before


def test_overwriting_spares_files_that_are_not_of_a_checkpoint(tritter, small, tmp_path):
    assert tritter("export", small, "hf").code == 0
    (tmp_path / "hf" / "NOTES.md").write_text("mine")
    assert "other files" in tritter("export", small, "hf", "--overwrite").error
    assert (tmp_path / "hf" / "NOTES.md").read_text() == "mine"


def test_generation_settings_go_along(expand, small):
    settings = {"do_sample": True, "temperature": 0.5}
    (Path(small) / "generation_config.json").write_text(json.dumps(settings))
    grown = Path(expand("--json").json["path"])
    assert json.loads((grown / "generation_config.json").read_text()) == settings


def test_plain_net2net_is_caught_in_bfloat16(tritter, config_file, monkeypatch):
    source = config_file("narrow.json", torch_dtype="bfloat16")
    assert tritter("init", "--config", source, "--out", "narrow.tprog").code == 0
    target = config_file("wide.json", hidden_size=44, torch_dtype="bfloat16", head_dim=8)
    arguments = ("expand", "--from", "narrow.tprog", "--to", target, "--out", "grown.tprog", "--overwrite", "--json")
    honest = tritter(*arguments)
    assert honest.code == 0, honest.err
    assert honest.json["measured_drift"]["before_rounding"] < 1e-5
    monkeypatch.setattr(growth, "make_plan", lambda *a, **k: net2net(planning.make_plan(*a, **k)))
    outcome = tritter(*arguments)
    assert outcome.code == 3
    assert "before rounding" in outcome.error


def test_an_explicit_dtype_converts_every_tensor(expand, small, tritter):
    file = Path(small) / "weights.safetensors"
    tensors = load_file(file)
    tensors = {name: t if "norm" in name else t.astype(np.float16) for name, t in tensors.items()}
    save_file(tensors, file)
    (Path(small) / "progressive.json").unlink()
    kept = open_checkpoint(expand("--json", "--out", "kept.tprog").json["path"])
    assert {spec.dtype.name for spec in kept.specs.values()} == {"float16", "float32"}
    converted = open_checkpoint(expand("--json", "--out", "converted.tprog", "--dtype", "fp16").json["path"])
    assert {spec.dtype.name for spec in converted.specs.values()} == {"float16"}


def test_logits_of_zero_are_equal_to_logits_of_zero(expand, small):
    file = Path(small) / "weights.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = np.zeros_like(tensors["lm_head.weight"])
    save_file(tensors, file)
    (Path(small) / "progressive.json").unlink()
    assert expand("--json").json["measured_drift"]["max_relative"] == 0.0


def test_a_source_that_is_not_finite_is_told_from_a_wrong_growth(expand, small):
    file = Path(small) / "weights.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = np.nan
    save_file(tensors, file)
    (Path(small) / "progressive.json").unlink()
    assert "finite logits of the source" in expand().error


def test_names_with_brackets_spaces_and_accents_are_only_names(tritter, small):
    for name in ("z[/foo]q.tprog", "a[b] c.tprog", "modèle.tprog"):
        outcome = tritter("import", small, name)
        assert outcome.code == 0, outcome.err
        assert name in outcome.out


@pytest.mark.parametrize("seed", [-1, 1 << 32, 99999999999999999999])
def test_seeds_that_do_not_fit_are_refused(expand, tritter, config_file, seed):
    rule = "greater than or equal to 0" if seed < 0 else "4294967295"
    assert rule in expand("--seed", seed).error.replace("│ ", "")
    assert rule in tritter("init", "--config", config_file(), "--seed", seed).error.replace("│ ", "")


@pytest.mark.parametrize(
    "field",
    [
        {"num_hidden_layers": 10**9},
        {"hidden_size": 10**12},
        {"vocab_size": 10**400},
        {"layer_types": 5},
        {"attention_bias": "false"},
    ],
)
def test_absurd_configurations_are_refused_at_once(tritter, config_file, field):
    error = tritter("init", "--config", config_file("absurd.json", **field)).error
    assert next(iter(field)).removeprefix("num_hidden_") in error
    assert len(error) < 1000


def test_a_long_list_of_layers_is_shortened_in_the_message(tritter):
    assert len(tritter("plan", "--from", "3B", "--to", "7B", "--layers", "0-999999").error) < 400


def test_positions_are_chosen_to_fit_unless_a_rule_is_named(tritter):
    fitted = tritter("plan", "--from", "1B", "--to", "3B", "--json")
    assert fitted.json["positions"] == "spread"
    assert tritter("plan", "--from", "3B", "--to", "7B", "--json").json["positions"] == "uniform"
    error = tritter("plan", "--from", "1B", "--to", "3B", "--positions", "uniform").error
    assert "--positions spread" in error


def test_what_a_target_file_says_beside_the_sizes_is_not_dropped_in_silence(tritter, small, config_file):
    large = config_file("large.json", **LARGER, bos_token_id=7)
    outcome = tritter("plan", "--from", small, "--to", large, "--layers", "0", "--json")
    assert outcome.code == 0
    assert "kept from the source" in outcome.err


def test_the_version_is_told(tritter):
    assert tritter("--version").out.startswith("tritter-jax ")


def test_layers_that_no_array_can_hold_together_are_named(tritter, small):
    import ml_dtypes

    file = Path(small) / "weights.safetensors"
    tensors = load_file(file)
    for name in tensors:
        narrow = ml_dtypes.bfloat16 if ".layers.0." in name else np.float16
        tensors[name] = tensors[name].astype(narrow)
    save_file(tensors, file)
    (Path(small) / "progressive.json").unlink()
    assert "bfloat16, float16" in tritter("export", small, "orbax", "--to", "orbax").error


def test_elastic_weight_consolidation_is_off_where_its_fisher_stayed_behind(expand, small):
    path = Path(small) / "progressive.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"ewc_config": {"enabled": True, "lambda": 5.0, "ours": 1}})
    )
    config = open_checkpoint(expand("--json").json["path"]).progressive.to_json()["ewc_config"]
    assert config == {"enabled": False, "lambda": 5.0, "ours": 1}
