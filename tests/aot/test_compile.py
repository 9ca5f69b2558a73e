"""The real TPU compiler, where it is installed: a small configuration of each generation, and what does not fit."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tprog import UsageError, config_to_json, named_size

from tritter_jax.aot import CHIPS, check
from tritter_jax.train.config import RunConfig

pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install 'tritter-jax[tpu]'")

KEPT = Path(kept) if (kept := os.environ.get("TRITTER_TPU_KEEP")) else None
"""What `python -m tpu_configs.table --keep` compiled of this very code, which is then not compiled again."""
CONFIGS = sorted((Path(__file__).parents[2] / "tpu_configs").glob("*.toml"))


def small(**machine) -> RunConfig:
    return RunConfig.parse(
        {
            "model": {"size": "test", "vocab_size": 16384},
            "data": {"sequence_length": 128, "batch_size": 8},
            "training": {"compute_dtype": "bfloat16"},
            "mesh": {"data": machine.get("slices", 1), "fsdp": -1, "tensor": 1},
            "machine": machine,
        }
    )


@pytest.mark.parametrize(
    ("topology", "slices"), [("v5e:2x2", 2), ("v5p:2x2x1", 1), ("v6e:2x2", 1), ("tpu7x:2x2x1", 1)]
)
def test_the_training_step_compiles_for_each_generation(topology, slices):
    assert {name.partition(":")[0] for name in CHIPS} >= {topology.partition(":")[0]}
    found = check(small(topology=topology, slices=slices), "small")
    said = found.to_json()
    assert said["fits"]
    assert said["memory"]["arguments"] * said["devices"] > 12 * said["parameters"]
    assert said["memory"]["arguments"] < said["memory"]["peak"] < said["memory"]["available"]
    # All the products there are and, of the forward pass's, few more than once.
    assert 1.0 < found.cost.flops * said["devices"] / found.model_flops < 1.6
    assert (said["whole_parameter_gathers"], said["loops_counted_once"]) == ([], 0)
    across = sum(row["bytes"] for row in said["collectives"] if row["across_slices"])
    if slices == 1:
        assert across == 0
    else:  # each device's part of the gradients, in two or four bytes
        assert 2 < across * said["devices"] / slices / said["parameters"] < 5


@pytest.mark.slow
def test_a_step_of_the_fisher_information_gathers_no_whole_parameter():
    settings = small(topology="v5e:2x2", program="fisher")
    said = check(settings, "fisher").to_json()
    assert said["fits"]
    assert (said["whole_parameter_gathers"], said["loops_counted_once"]) == ([], 0)


@pytest.fixture
def grown(tmp_path):
    """A growth over two slices, of a model with a vocabulary."""
    smaller = replace(named_size("test"), num_layers=2, intermediate_size=256)
    (tmp_path / "smaller.json").write_text(json.dumps(config_to_json(smaller)))

    def make(vocabulary: int) -> RunConfig:
        return RunConfig.parse(
            {
                "model": {"size": "test", "vocab_size": vocabulary},
                "mesh": {"data": 2, "fsdp": 4},
                "machine": {
                    "topology": "v5e:2x2",
                    "slices": 2,
                    "program": "grow",
                    "grow_from": str(tmp_path / "smaller.json"),
                },
            }
        )

    return make


def test_growth_and_two_slices_compile(grown):
    found = check(grown(512), "grow")
    assert found.fits
    assert found.whole == ()
    assert found.to_json()["roofline"]["bound_by"] in found.times()


def test_what_does_not_fit_says_by_how_much(grown):
    said = check(grown(1 << 26), "large", remedies=False).to_json()
    assert not said["fits"]
    assert said["short_by"] == said["memory"]["needed"] - CHIPS["v5e"].memory > 0


@pytest.mark.slow
def test_what_would_make_it_fit_is_compiled_each_by_itself(tmp_path):
    deep = replace(named_size("test"), num_layers=64, vocab_size=512)
    (tmp_path / "deep.json").write_text(json.dumps(config_to_json(deep)))
    settings = RunConfig.parse(
        {
            "model": {"config": str(tmp_path / "deep.json")},
            "data": {"sequence_length": 1024, "batch_size": 1024},
            "training": {"compute_dtype": "bfloat16"},
            "mesh": {"fsdp": 4},
            "machine": {"topology": "v5e:2x2"},
        }
    )
    found = check(settings, "deep")
    assert not found.fits
    assert {str(one): one.fits for one in found.remedies} == {
        "training.remat = attention": False,
        "training.remat = full": True,
        "data.batch_size = 512": False,
        "mesh.fsdp = 2, mesh.tensor = 2": False,
    }
    less, least = (one.needed for one in found.remedies[:2])
    assert found.needed > less > least


def test_what_the_compiling_process_refuses_is_told_as_any_other_mistake():
    settings = small(topology="v5e:2x2")
    wrong = settings.model_copy(update={"mesh": RunConfig.parse({"mesh": {"fsdp": 2}}).mesh})
    with pytest.raises(UsageError, match="small: mesh: expected all 4 devices of 1 x v5e:2x2, got 1 x 2 x 1"):
        check(wrong, "small")


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_fits_its_machine(path):
    said = check(RunConfig.load(path), path.stem, remedies=False, keep=KEPT).to_json()
    assert said["fits"], json.dumps(said, indent=1)
    assert said["loops_counted_once"] == 0
    assert said["whole_parameter_gathers"] == []
    assert any(row["across_slices"] for row in said["collectives"]) == (said["slices"] > 1)
