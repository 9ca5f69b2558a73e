"""A user's mistake gets one clear paragraph and a non-zero exit code, and leaves nothing behind."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tprog.reader import open_checkpoint

from tests.cli.conftest import LARGER, entries


@pytest.fixture
def expand(tritter, small, config_file, tmp_path):
    """Try to expand the small checkpoint to a size; asserts that nothing was left behind."""

    def run(*options: object, source: object = small, **changes: object) -> str:
        target = config_file("large.json", **(LARGER | changes))
        before = entries(tmp_path)
        error = tritter("expand", "--from", source, "--to", target, *options).error
        assert entries(tmp_path) == before
        return error

    return run


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1},
            "hidden_size shrinks from 40 to 24",
        ),
        ({"num_hidden_layers": 1}, "num_layers shrinks from 2 to 1"),
        ({"head_dim": 16}, "head_dim: expected 8, as in the source, got 16"),
        ({"model_type": "qwen2"}, "family: expected llama"),
        ({"vocab_size": 63}, "vocab_size shrinks from 64 to 63"),
        ({"rope_theta": 5.0}, "rope_theta"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers: expected a whole number, got 2.5"),
        ({"model_type": "gpt2"}, "model_type"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_a_target_that_cannot_be_grown_to_is_named(expand, changes, said):
    assert said in expand("--layers", "0", **changes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layers", "7"), "numbers from 0 to 1"),
        (("--layers", "0,1"), "expected 1 of them"),
        (("--layers", "x"), "13-18"),
        (("--width", "duplicat"), "Did you mean duplicate?"),
        (("--split", "odd"), "one of uneven, even, first"),
        (("--depth", "stak"), "identity"),
        (("--positions", "unifrm"), "Did you mean uniform?"),
        (("--dtype", "int8"), "bfloat16"),
        (("--shard-size", "big"), "5GB"),
        (("--nonsense",), "--nonsense"),
        (("--positions", "top"), "--positions: expected none beside --layers"),
    ],
)
def test_an_option_that_is_wrong_is_named_with_what_would_be_right(expand, options, said):
    assert said in expand("--layers", "0", *options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recommend", "--tokens-seen", "inf"), "--tokens-seen: expected a finite number, got inf"),
        (("recommend", "--tokens-a-parameter", "1e400"), "--tokens-a-parameter: expected a finite number, got inf"),
        (("generate", "--temperature", "inf"), "--temperature: expected a finite number"),
        (("generate", "--tokenizer", "bytes", "--length", "9999"), "length: expected 1 to 63 tokens"),
        (("eval", "--tokenizer", "bytes", "--data", ""), "--data: expected the path of a text file"),
        (("eval", "--tokenizer", "bytes", "--data", "text:"), "--data: expected the path of a text file"),
    ],
)
def test_numbers_and_paths_that_make_no_sense_are_named(tritter, config_file, words, said):
    model = config_file("c.json", vocab_size=300, max_position_embeddings=64)
    made = tritter("init", "--config", model, "--json").json
    command, *options = words
    assert said in tritter(command, made["path"], *options).error


def test_a_target_that_exists_is_left_alone(tritter, small, config_file):
    target = config_file("large.json", **LARGER)
    made = tritter("expand", "--from", small, "--to", target, "--layers", "0", "--json").json["path"]
    before = (Path(made) / "progressive.json").read_bytes()
    error = tritter("expand", "--from", small, "--to", target, "--layers", "1").error
    assert "--overwrite" in error
    assert (Path(made) / "progressive.json").read_bytes() == before
    assert tritter("expand", "--from", small, "--to", target, "--layers", "1", "--overwrite").code == 0
    assert (Path(made) / "progressive.json").read_bytes() != before


def test_an_unknown_size_is_answered_with_the_nearest(tritter):
    assert "Did you mean 7B?" in tritter("plan", "--from", "3B", "--to", "7C").error
    assert "Did you mean 3B?" in tritter("plan", "--from", "3C", "--to", "7B").error
    assert "Did you mean" not in tritter("plan", "--from", "poet.tprog", "--to", "7B").error


def test_a_regrouping_without_room_is_answered_with_the_nearest_that_works(tritter):
    error = tritter("plan", "--from", "30B", "--to", "33B", "--positions", "spread", "--exact-shape").error
    assert "room for the 13 queries of every old kv head" in error
    assert "78 query heads" in error


def test_a_source_that_is_not_there_is_named(tritter):
    assert "nowhere" in tritter("info", "nowhere").error
    assert "*-3B-*.tprog" in tritter("expand", "--from", "3B", "--to", "7B").error


def test_an_empty_name_is_shown_as_one(tritter):
    assert "error: '': expected org/name" in tritter("pull", "").error


def test_a_source_that_is_not_a_model_is_named(tritter, tmp_path):
    (tmp_path / "photos").mkdir()
    assert "config.json" in tritter("info", "photos").error
    (tmp_path / "file.txt").write_text("hello")
    assert "file" in tritter("info", "file.txt").error


def _rewrite(path: str, change) -> None:
    file = Path(path) / "weights.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def _drop(tensors):
    del tensors["model.norm.weight"]


def _reshape(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1]


def _add(tensors):
    tensors["model.extra.weight"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop, "model.norm.weight is missing; expected shape [40]"),
        (_reshape, "model.norm.weight has shape [39], expected [40]"),
        (_add, "model.extra.weight is unknown"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tritter, small, config_file, change, said):
    _rewrite(small, change)
    for name in ("progressive.json", "model.safetensors.index.json"):
        (Path(small) / name).unlink()
    target = config_file("large.json", **LARGER)
    assert said in tritter("expand", "--from", small, "--to", target, "--layers", "0").error


def test_a_result_that_breaks_its_promise_is_not_written(tritter, small, config_file, tmp_path, monkeypatch):
    from tritter_jax.growth import rows

    # Growth is broken on purpose: what fresh memory would hold instead of the grown weights.
    compiled = rows._compiled
    monkeypatch.setattr(rows, "_compiled", lambda *what: lambda *x: compiled(*what)(*x) * 1.05)
    before = entries(tmp_path)
    outcome = tritter(
        "expand",
        "--from",
        small,
        "--to",
        config_file("large.json", **LARGER),
        "--layers",
        "0",
        "--out",
        "grown.tprog",
    )
    assert outcome.code == 3
    assert "largest relative difference" in outcome.error
    assert entries(tmp_path) - before == {"large.json"}


def test_a_plan_that_is_not_exact_for_ternary_models_is_refused(tritter, config_file, tmp_path):
    bitnet = {
        "model_type": "bitnet",
        "hidden_act": "relu2",
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "online",
        },
    }
    source = config_file("bitnet.json", **bitnet)
    assert tritter("init", "--config", source, "--out", "b.tprog").code == 0
    wider = config_file("wider.json", **bitnet, **LARGER)
    error = tritter("expand", "--from", "b.tprog", "--to", wider, "--layers", "0").error
    assert "groups of 4, which the norm behind the heads would see. 10/2 heads are whole groups" in error
    allowed = tritter("expand", "--from", "b.tprog", "--to", wider, "--layers", "0", "--allow-inexact", "--json")
    assert not allowed.json["plan"]["guarantee"]["exact"]
    assert allowed.json["measured_drift"]["max_relative"] > 1e-3
    deeper = config_file("deeper.json", **bitnet, num_hidden_layers=4)
    outcome = tritter("expand", "--from", "b.tprog", "--to", deeper, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["measured_drift"]["max_relative"] == 0.0
    assert open_checkpoint(outcome.json["path"]).config.num_layers == 4


def test_init_needs_one_of_size_and_config(tritter, config_file):
    assert "--size or --config" in tritter("init").error
    assert "--size or --config" in tritter("init", "--size", "test", "--config", config_file()).error


@pytest.mark.parametrize(
    ("words", "where", "said"),
    [
        (("--json", "expand", "--nope"), "tritter expand", "--nope"),
        (("expand", "--nope", "--json"), "tritter expand", "--nope"),
        (("--json", "expnd"), "tritter", "expnd"),
        (("tpu", "check", "--json", "--topology"), "tritter tpu check", "--topology"),
    ],
)
def test_wrong_usage_left_a_program_without_its_document(tritter, words, where, said):
    outcome = tritter(*words)
    assert outcome.code == 2
    assert outcome.json["error"]["where"].endswith(where)
    assert said in outcome.json["error"]["got"]
    assert "Usage" in outcome.err
    plain = tritter(*(word for word in words if word != "--json"))
    assert (plain.code, plain.out) == (2, "")


def test_what_looks_like_the_code_of_an_emoji_is_shown_as_it_is(tritter):
    assert "x:smile:y" in tritter("info", "./x:smile:y").error


def test_a_config_that_is_not_json_is_named(tritter, tmp_path):
    (tmp_path / "broken.json").write_text("{nonsense")
    assert "broken.json" in tritter("init", "--config", "broken.json").error
    (tmp_path / "list.json").write_text(json.dumps([1]))
    assert "list" in tritter("init", "--config", "list.json").error


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--from", "3B", "--to", "7B", "--save", "nowhere/plan.json"),
        ("demo", "--plot", "nowhere/loss.png"),
        ("report", "small.json", "--out", "nowhere/report.html"),
        ("tpu", "plan", "--size", "7B", "--topology", "v5e:4x4", "--out", "nowhere/run.toml"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(tritter, words):
    assert "nowhere, which is no directory" in tritter(*words).error


def test_an_export_to_nothing_known_is_refused(tritter, small):
    assert "orbax" in tritter("export", small, "x", "--to", "onnx").error
