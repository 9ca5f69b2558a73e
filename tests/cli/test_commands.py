"""Each command does its job on real files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tprog
import tprog.numpy
from safetensors.numpy import load_file
from tprog.reader import open_checkpoint

from tests.cli.conftest import LARGER
from tests.support import odd_config, torch_model
from tritter_jax.growth import new_parameters, plan_from_record


def test_expand_writes_a_checkpoint_that_remembers_how_it_grew(tritter, small, config_file):
    outcome = tritter(
        "expand", "--from", small, "--to", config_file("large.json", **LARGER), "--layers", "1", "--json"
    )
    assert outcome.code == 0, outcome.err
    result = outcome.json
    assert result["plan"]["guarantee"]["exact"]
    assert 0 < result["measured_drift"]["max_relative"] < 1e-5

    grown = open_checkpoint(result["path"])
    assert (grown.config.hidden_size, grown.config.num_layers) == (64, 3)
    (entry,) = grown.progressive.expansion_history
    assert entry.method == "depth_and_width_upscaling"
    assert entry.tokens_after == 0
    assert entry.measured_drift == result["measured_drift"]
    assert entry.plan is not None
    plan = plan_from_record(entry.plan, grown.config)
    assert plan.new_layers == (2,)
    assert new_parameters(plan)["norm"].count == 24


def test_the_default_destination_is_model_size_step(tritter, small, config_file):
    outcome = tritter(
        "expand", "--from", small, "--to", config_file("large.json", **LARGER), "--layers", "0", "--json"
    )
    grown = tprog.load_config(Path(outcome.json["path"]) / "config.json")
    assert Path(outcome.json["path"]).name == f"tiny-{tprog.size_label(grown)}-0.tprog"


def test_a_named_size_means_the_newest_checkpoint_of_that_size_here(tritter):
    assert tritter("init", "--size", "test", "--seed", "1", "--out", "old-test-0.tprog").code == 0
    assert tritter("init", "--size", "test", "--seed", "2", "--out", "new-test-5.tprog").code == 0
    outcome = tritter("info", "test", "--json")
    assert Path(outcome.json["path"]).name == "new-test-5.tprog"


def test_dtype_converts_the_result(tritter, small, config_file):
    large = config_file("large.json", **LARGER)
    outcome = tritter("expand", "--from", small, "--to", large, "--layers", "0", "--dtype", "bf16", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["plan"]["guarantee"]["dtype"] == "bfloat16"
    assert open_checkpoint(outcome.json["path"]).config.dtype == "bfloat16"


def test_no_verify_skips_the_comparison_and_says_so(tritter, small, config_file):
    large = config_file("large.json", **LARGER)
    outcome = tritter("expand", "--from", small, "--to", large, "--layers", "0", "--no-verify")
    assert outcome.code == 0, outcome.err
    assert "not verified" in outcome.out


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_import_and_export_keep_every_tensor_bit_for_bit(tritter, tmp_path, max_shard_size):
    model = torch_model(odd_config("qwen2"))
    model.save_pretrained(tmp_path / "hf", max_shard_size=max_shard_size)
    before = {}
    for file in sorted((tmp_path / "hf").glob("*.safetensors")):
        before |= load_file(file)
    assert tritter("import", "hf", "a.tprog").code == 0
    assert tritter("export", "a.tprog", "back", "--to", "hf").code == 0
    after = tprog.numpy.load(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_orbax_round_trip_is_bit_equal(tritter, small, tmp_path):
    assert tritter("export", small, "orbax", "--to", "orbax").code == 0
    assert tritter("import", "orbax", "again.tprog").code == 0
    before, after = tprog.numpy.load(small), tprog.numpy.load(tmp_path / "again.tprog")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_export_to_torch_is_a_state_dict(tritter, small, tmp_path):
    import torch

    assert tritter("export", small, "weights.pt", "--to", "torch").code == 0
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    before = tprog.numpy.load(small)
    assert state.keys() == before.keys()
    assert all(np.array_equal(before[name], state[name].numpy()) for name in before)


def test_init_depends_on_the_seed_only(tritter, config_file):
    config = config_file()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert tritter("init", "--config", config, "--seed", seed, "--out", f"{name}.tprog").code == 0
    a, b, c = (tprog.numpy.load(f"{name}.tprog")["lm_head.weight"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_plan_needs_no_checkpoint(tritter):
    outcome = tritter("plan", "--from", "3B", "--to", "7B", "--json")
    assert outcome.json["new_layers"] == [4, 9, 14, 19, 24, 29]
    assert outcome.json["parameters"] == [2_124_812_800, 6_207_836_160]
    assert outcome.json["guarantee"]["exact"]


def test_plan_for_a_person_names_layers_bytes_and_guarantee(tritter):
    text = tritter("plan", "--from", "3B", "--to", "7B").out
    for part in ("4, 9, 14, 19, 24, 29", "12.4 GB", "6,207,836,160", "exact"):
        assert part in text


def test_sizes_prints_true_parameter_counts(tritter):
    rows = {row["name"]: row for row in tritter("sizes", "--json").json["sizes"]}
    assert list(rows) == list(tprog.SIZES)
    assert rows["3B"]["parameters"] == 2_124_812_800
    assert "2,124,812,800" in tritter("sizes").out


def test_info_shows_files_and_history(tritter, small, config_file):
    large = config_file("large.json", **LARGER)
    grown = tritter("expand", "--from", small, "--to", large, "--layers", "0", "--json").json["path"]
    text = tritter("info", grown).out
    for part in ("weights.safetensors", "depth_and_width_upscaling", "new layers 1", "3 layers"):
        assert part in text
    assert tritter("info", grown, "--json").json["parameters"] == tprog.count_parameters(
        open_checkpoint(grown).config
    )


def test_demo_grows_in_mid_run_and_proves_the_function_unchanged(tmp_path, monkeypatch):
    """As users run it: with what XLA leaves out in tests it takes half as long again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XLA_FLAGS")
    command = "from tritter_jax.cli.main import main; main()"
    arguments = ["demo", "--json", "--steps", "4", "--plot", "loss.png"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    rows = outcome["comparisons"]
    assert len(rows) == 5
    assert all(row["holds"] for row in rows)
    assert [row["relation"] for row in rows].count(">") == 1
    losses = {
        run: {line["step"]: line["loss"] for line in outcome[run] if "loss" in line}
        for run in ("unexpanded", "expanded")
    }
    assert list(losses["expanded"]) == list(losses["unexpanded"]) == list(range(1, 9))
    # The step after the growth sees the same batch through the same function.
    assert losses["expanded"][5] == pytest.approx(losses["unexpanded"][5], rel=1e-5)
    assert losses["expanded"][8] != pytest.approx(losses["unexpanded"][8], rel=1e-5)
    assert Path("loss.png").read_bytes().startswith(b"\x89PNG")
    assert Path("loss-forgetting.png").read_bytes().startswith(b"\x89PNG")
    courses = outcome["forgetting"]["ways"]
    assert len(courses) == 5
    assert {course[0]["old"] for course in courses.values()} == {courses["no EWC"][0]["old"]}
    assert [course[-1]["step"] for course in courses.values()] == [4] * 5
    assert len({course[-1]["old"] for course in courses.values()}) == 5


def test_demo_leaves_a_full_directory_alone(tritter):
    Path("kept").mkdir()
    Path("kept/mine").touch()
    assert "a new or empty directory" in tritter("demo", "--out", "kept").error
    assert [path.name for path in Path("kept").iterdir()] == ["mine"]


def test_json_is_alone_on_standard_output(tritter, small):
    outcome = tritter("export", small, "hf", "--json")
    assert json.loads(outcome.out)["format"] == "hf"
