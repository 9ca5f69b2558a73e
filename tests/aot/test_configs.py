"""The configurations of tpu_configs: whole, matching their machines, and taken by training as they are."""

import tomllib
from pathlib import Path

import jax
import pytest
from tprog import UsageError, named_size

from tritter_jax.aot import Topology, candidates
from tritter_jax.model import REMAT
from tritter_jax.sharding import MeshShape, make_mesh
from tritter_jax.train.config import RunConfig
from tritter_jax.train.setup import lay_out, prepare

CONFIGS = sorted((Path(__file__).parents[2] / "tpu_configs").glob("*.toml"))
MACHINES = {"v5e:4x4", "v5e:8x8", "v6e:4x4", "v5p:2x2x1", "v5p:2x4x4", "tpu7x:2x2x1"}


def test_every_size_has_every_machine():
    several = {
        (settings.model.size, settings.machine.topology)
        for settings in map(RunConfig.load, CONFIGS)
        if settings.machine.slices > 1
    }
    found = {
        (settings.model.size, settings.machine.topology)
        for settings in map(RunConfig.load, CONFIGS)
        if settings.machine.program == "train" and settings.machine.slices == 1
    }
    assert found >= {(size, machine) for size in ("3B", "7B") for machine in MACHINES}
    assert found >= {("13B", machine) for machine in MACHINES - {"v5e:4x4"}}  # where its state alone fits
    assert ("70B", "v5p:2x4x4") in found
    assert {size for size, machine in several} >= {"7B", "70B"}
    programs = {(each.machine.program, each.machine.topology) for each in map(RunConfig.load, CONFIGS)}
    assert programs >= {("grow", "v5e:4x4"), ("grow", "v5p:2x2x1")}
    assert "fisher" in {program for program, _ in programs}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_takes_its_whole_machine(path):
    settings = RunConfig.load(path)
    mesh, machine = settings.mesh, settings.machine
    topology = Topology.parse(machine.topology, machine.slices)
    assert mesh.data * mesh.fsdp * mesh.tensor == topology.device_count
    assert settings.data.batch_size % (mesh.data * mesh.fsdp * settings.training.accumulate) == 0
    assert RunConfig.parse(tomllib.loads(settings.to_toml())) == settings


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_training_takes_it_as_it_is_but_for_the_machine(path, tmp_path):
    smaller = ["model.size=test", "mesh.data=1", "mesh.fsdp=8", "data.sequence_length=32", "data.batch_size=8"]
    run = prepare(RunConfig.load(path, [*smaller, "model.vocab_size=512", f"data.cache={tmp_path}"]))
    assert run.dtype == "bfloat16"
    assert run.mesh.size == 8


def test_candidates_take_the_whole_slice_and_divide_the_model():
    topology, config = Topology.parse("v5e:4x8"), named_size("7B")
    found = candidates(config, topology, 4096)
    assert found
    for one in found:
        assert one.data * one.fsdp * one.tensor == 32
        assert config.num_kv_heads % one.tensor == 0
        assert one.batch % (one.data * one.fsdp) == 0
    assert [one.seconds for one in found] == sorted(one.seconds for one in found)
    assert candidates(named_size("70B"), Topology.parse("v5e:2x2"), 4096) == []
    # The same products everywhere: what tells these from the others is how much they move for how many tokens.
    assert {one.tensor for one in found[:3]} <= {1, 2}
    assert {one.batch for one in found[:3]} == {32}


def test_candidates_that_take_as_long_and_store_more_are_left_out():
    """On this slice all policies have room; `none` computes as little again as `dots`, and stores more."""
    found = candidates(named_size("3B"), Topology.parse("v5p:2x4x4"), 4096)
    assert {one.remat for one in found} == set(REMAT) - {"none"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["mesh.fsdp=3"], "a multiple of data x fsdp x accumulate = 3"),
        (["mesh.fsdp=8"], "at most 4 devices"),
        (["mesh.fsdp=-1", "mesh.tensor=3"], "the others dividing the 4 devices"),
        (["mesh.rules.hidden=sequence"], "mesh.rules.hidden"),
    ],
)
def test_a_mesh_that_does_not_match_the_slice_is_refused(changes, said):
    settings = RunConfig.parse({"model": {"size": "test"}}, changes)
    with pytest.raises(UsageError) as raised:
        lay_out(settings, named_size("test"), jax.devices()[:4])
    assert said in str(raised.value)


class OfASlice:
    """A device that says which slice it is in."""

    platform = device_kind = "cpu"

    def __init__(self, device, slice_index):
        self.id, self.process_index, self.slice_index = device.id, slice_index, slice_index


def test_slices_lie_along_the_data_axis():
    devices = [OfASlice(device, device.id % 2) for device in jax.devices()]
    mesh = make_mesh(MeshShape(data=4, fsdp=2), devices)
    slices = [[one.slice_index for one in row.flat] for row in mesh.devices]
    assert sorted(slices) == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert slices[0] == slices[1]  # the slices are the major part
    with pytest.raises(UsageError, match="a multiple of the 2 slices"):
        make_mesh(MeshShape(fsdp=8), devices)
