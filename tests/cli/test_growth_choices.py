"""Every way to grow can be chosen on the command line, and what makes no sense is told before any work."""

import json
from pathlib import Path

import pytest
from tprog.reader import open_checkpoint

from tests.cli.conftest import LARGER, entries


@pytest.fixture
def grown(tritter, small, config_file):
    """Expand the small checkpoint of two layers; keywords replace sizes of the target."""

    def run(*options: object, **changes: object):
        target = config_file("large.json", **(LARGER | changes))
        outcome = tritter("expand", "--from", small, "--to", target, *options, "--json")
        assert outcome.code == 0, outcome.err
        return outcome.json

    return run


@pytest.mark.parametrize(
    ("options", "layers", "sources"),
    [
        (("--depth", "copy", "--layers", "0"), 3, [0]),
        (("--depth", "stack"), 4, [0, 1]),
        (("--depth", "solar"), 4, [0, 1]),
        (("--positions", "middle"), 3, [1]),
        (("--positions", "top"), 3, [1]),
        (("--layers", "0-1"), 4, [0, 1]),
    ],
)
def test_depth_and_positions_are_taken(grown, options, layers, sources):
    result = grown(*options, num_hidden_layers=layers)
    assert result["plan"]["copied_layers"] == sources
    exact = result["plan"]["guarantee"]["exact"]
    assert exact == ("--depth" not in options)
    assert (result["measured_drift"]["max_relative"] < 1e-5) == exact


def test_importance_reads_the_scores_of_the_checkpoint(tritter, small, config_file):
    path = Path(small) / "progressive.json"
    target = config_file("large.json", **LARGER)
    command = ("expand", "--from", small, "--to", target, "--positions", "importance")
    assert "importance_scores in layer_analysis of progressive.json, got none stored" in tritter(*command).error
    data = json.loads(path.read_text()) | {"layer_analysis": {"importance_scores": [0.9, 0.1]}}
    path.write_text(json.dumps(data))
    assert tritter("plan", *command[1:], "--json").json["copied_layers"] == [0]
    assert tritter(*command, "--json").json["plan"]["copied_layers"] == [0]


def test_noise_is_recorded_with_its_seed_and_changes_nothing(grown):
    result = grown("--layers", "0", "--noise", "10", "--seed", "3")
    assert result["measured_drift"]["max_relative"] < 1e-4
    assert result["plan"]["noise"] == {"decibels": 10.0, "everywhere": False}
    (entry,) = open_checkpoint(result["path"]).progressive.expansion_history
    assert entry.plan is not None
    assert entry.plan["noise"] == {"decibels": 10.0, "everywhere": False}
    assert entry.plan["seed"] == 3


def test_noise_everywhere_is_called_inexact_with_the_drift_that_was_measured(tritter, small, config_file):
    outcome = tritter("expand", "--from", small, "--to", config_file("large.json", **LARGER),
                      "--layers", "0", "--noise", "10", "--noise-everywhere", "--seed", "3")  # fmt: skip
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "function: NOT exact" in said
    assert "noise of 10 dB lies on every new entry" in said
    assert "largest relative difference of the logits:" in said
    assert "none was promised" in said


def test_a_larger_vocabulary_is_grown_with_the_rest(grown):
    result = grown("--layers", "0", vocab_size=80)
    assert result["plan"]["sizes"]["vocab_size"] == [64, 80]
    assert result["measured_drift"]["max_relative"] < 1e-5
    assert open_checkpoint(result["path"]).config.vocab_size == 80


def test_a_plan_that_was_saved_is_applied(tritter, small, config_file, tmp_path):
    target = config_file("large.json", **LARGER)
    options = ("--layers", "0", "--width", "fresh", "--noise", "20", "--seed", "7")
    assert tritter("plan", "--from", small, "--to", target, *options, "--save", "plan.json").code == 0
    done = tritter("expand", "--from", small, "--to", "plan.json", "--out", "one.tprog", "--json").json
    direct = tritter("expand", "--from", small, "--to", target, *options, "--out", "two.tprog", "--json").json
    assert done["plan"] == direct["plan"]
    weights = [Path(result["path"], "weights.safetensors").read_bytes() for result in (done, direct)]
    tensors = [data[8 + int.from_bytes(data[:8], "little") :] for data in weights]
    assert tensors[0] == tensors[1]
    assert "one that exists" in tritter("plan", "--from", small, "--to", target, "--save", "plan.json").error


def test_a_plan_for_another_model_is_refused(tritter, small, config_file, tmp_path):
    target = config_file("large.json", **LARGER)
    assert tritter("plan", "--from", small, "--to", target, "--layers", "0", "--save", "plan.json").code == 0
    other = config_file("other.json", num_hidden_layers=3)
    assert tritter("init", "--config", other, "--out", "tiny-other-0.tprog").code == 0
    before = entries(tmp_path)
    error = tritter("expand", "--from", "tiny-other-0.tprog", "--to", "plan.json").error
    assert "expected a model with fingerprint" in error
    assert "num_layers: the plan has 2, the model 3" in error
    assert (
        "--split: expected none beside a stored plan"
        in tritter("expand", "--from", small, "--to", "plan.json", "--split", "even").error
    )
    Path("plan.json").write_text(json.dumps(json.loads(Path("plan.json").read_text()) | {"width": "nonsense"}))
    assert "expected one of duplicate, fresh" in tritter("expand", "--from", small, "--to", "plan.json").error
    assert entries(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--noise", "10"), "seed: expected one for the noise"),
        (("--noise", "201", "--seed", "0"), "from -200 to 200 dB"),
        (("--noise", "nan", "--seed", "0"), "--noise: expected a finite number, got nan"),
        (("--noise-everywhere",), "noise_everywhere: expected a signal-to-noise ratio beside it"),
        (("--layers", "0,0"), "each layer once, got 0 repeated. Give the layers to copy, such as --layers 1"),
        (("--layers", "2"), "numbers from 0 to 1, got 2. Give the layers to copy, such as --layers 1"),
        (("--depth", "solar"), "The nearest that works is 4 layers"),
        (("--depth", "stack"), "The nearest that works is 4 layers"),
        (("--depth", "stack", "--positions", "top"), "expected none with --depth stack"),
        (("--positions", "importance"), "got none stored"),
        (("--save", "x"), "--save"),
    ],
)
def test_what_makes_no_sense_is_told_before_any_work(tritter, small, config_file, tmp_path, options, said):
    target = config_file("large.json", **LARGER)
    before = entries(tmp_path)
    assert said in tritter("expand", "--from", small, "--to", target, *options).error
    assert entries(tmp_path) == before
