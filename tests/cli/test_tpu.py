"""tritter tpu: what is wrong with a request is told before anything is compiled, and results are JSON."""

import importlib.util

import pytest
from tprog import named_size

from tritter_jax.aot import Check, Topology, plan
from tritter_jax.aot.cost import Cost
from tritter_jax.train.config import RunConfig


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "--size", "7B", "--topology", "v5e:3x3"), "a slice that there is"),
        (("plan", "--size", "6B", "--topology", "v5e:4x4"), "Did you mean"),
        (("check", "nowhere.toml"), "nothing there"),
    ],
)
def test_bad_input_is_told_in_a_paragraph(tritter, arguments, said):
    assert said in tritter("tpu", *arguments).error


def test_a_configuration_without_a_machine_is_told_what_to_add(tritter, tmp_path):
    (tmp_path / "run.toml").write_text('[model]\nsize = "test"\n')
    outcome = tritter("tpu", "check", "run.toml")
    assert outcome.code == 1
    assert 'topology = "v5e:4x4"' in outcome.error


@pytest.mark.parametrize("name", ["v5e-16", "v5e:4x4"])
def test_training_refuses_another_machine_before_it_reads_anything(tritter, tmp_path, name):
    text = f'[model]\nsize = "test"\n[data]\ntrain = "nowhere.txt"\n[machine]\ntopology = "{name}"\n'
    (tmp_path / "run.toml").write_text(text)
    outcome = tritter("train", "--config", "run.toml", "--out", "run")
    assert outcome.code == 1
    assert "the 16 devices (TPU v5 lite) of 1 x v5e:4x4, got 8 (cpu)" in outcome.error
    assert not (tmp_path / "run").exists()
    here = tritter("train", "--config", "run.toml", "--out", "run", "--set", "machine.topology=")
    assert "nowhere.txt" in here.error  # the machine is no reason any more


def test_without_the_compiler_the_extra_is_named(tritter, tmp_path, monkeypatch):
    (tmp_path / "run.toml").write_text('[model]\nsize = "test"\n[machine]\ntopology = "v5e:2x2"\n')
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'tritter-jax[tpu]'" in tritter("tpu", "check", "run.toml").error


@pytest.fixture
def compiled(monkeypatch):
    """Names of what a plan had compiled, of which the first does not fit; nothing is compiled in earnest."""
    compiled = []

    def check(settings, name, **_):
        config = named_size(settings.model.size)
        topology = Topology.parse(settings.machine.topology, settings.machine.slices)
        compiled.append(name)
        fits = len(compiled) != 1
        return Check(
            name=name, settings=settings, topology=topology, config=config, needed=1 << 30,
            memory=dict.fromkeys(("arguments", "temporaries", "outputs", "code"), 1 << 28) if fits else None,
            cost=Cost(flops=1e12, bytes=1e9 * len(compiled)) if fits else None,
        )  # fmt: skip

    monkeypatch.setattr(plan, "check", check)
    return compiled


PLAN = ("tpu", "plan", "--size", "7B", "--topology", "v5e:4x8", "--compiled", "2")


def test_a_plan_compiles_as_many_as_asked_and_writes_the_best_of_them(tritter, tmp_path, compiled):
    outcome = tritter(*PLAN, "--json", "--quiet")
    said = outcome.json
    assert (outcome.code, outcome.err) == (0, "")
    assert [one["name"] for one in said["tried"]] == compiled
    assert [one["fits"] for one in said["tried"]] == [False, True, True]
    assert said["best"]["name"] == compiled[1]
    written = RunConfig.load(tmp_path / said["path"])
    mesh = written.mesh
    assert f"data {mesh.data} fsdp {mesh.fsdp} tensor {mesh.tensor} batch {written.data.batch_size}" in compiled[1]
    assert written.machine.topology == "v5e:4x8"


def test_a_plan_is_a_table_for_a_person(tritter, compiled):
    outcome = tritter(*PLAN)
    rows = outcome.out.splitlines()
    said = [next(row for row in rows if row.startswith(f" {name} ")).rstrip() for name in compiled]
    assert said[0].endswith(" does not fit")
    assert [row.endswith(" best") for row in said] == [False, True, False]
    assert (outcome.code, rows[-1]) == (0, "wrote 7b-v5e-4x8.toml")


def test_a_plan_overwrites_nothing(tritter, tmp_path):
    (tmp_path / "7b-v5e-4x4.toml").write_text("mine")
    assert "a new file" in tritter("tpu", "plan", "--size", "7B", "--topology", "v5e-16").error
    assert (tmp_path / "7b-v5e-4x4.toml").read_text() == "mine"
