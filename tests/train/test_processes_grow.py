"""Two processes of four devices each grow, save and measure one model; a killed one ends both, which then resume."""

import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tprog.flax
import tprog.numpy
from tprog.flax_state import load_optimizer
from tprog.jsonio import read_json
from tprog.reader import open_checkpoint
from tprog.verify import verify

from tests.support import same_values
from tests.train import member
from tests.train.gangs import A_MINUTE, Gang
from tests.train.member import GROWN, MEASURED, TEXT
from tritter_jax.continual import estimate
from tritter_jax.continual.accumulate import compile_step
from tritter_jax.growth import grow
from tritter_jax.sharding import MeshShape
from tritter_jax.train.setup import prepare

ON_A_MESH = 1e-5


@pytest.fixture
def together(tmp_path):
    """What the processes share: a directory with a text."""
    directory = tmp_path / "together"
    directory.mkdir()
    (directory / TEXT).write_text("".join(f"{i} times {i} is {i * i}.\n\n" for i in range(200)))
    return directory


@pytest.fixture
def source(settings, together):
    """A checkpoint with an optimizer's state of which nothing is zero."""
    run = prepare(settings(f"data.train={together / TEXT}"))
    state = run.first_state()
    with jax.numpy_dtype_promotion("standard"):  # optax counts in integers
        opt_state = jax.jit(run.optimizer.update)(state.params, state.opt_state, state.params)[1]
    return tprog.flax.save(together.parent / "source.tprog", state.params, run.config, opt_state=opt_state)


@pytest.fixture
def _measured_with_one_program(monkeypatch):
    programs: dict = {}
    monkeypatch.setattr(estimate, "compile_step", lambda *given: programs.setdefault(given[-1], compile_step(*given)))


def members(source: Path, directory: Path, fault: str = "none") -> Gang:
    command = ("-m", "tests.train.member", str(source), str(directory), fault)
    return Gang(command, command, devices=4)


def assert_lost(job: Gang) -> None:
    """All of a job end within a minute, and none of them well."""
    began = time.monotonic()
    codes = [code for code, _ in job.finish(timeout=A_MINUTE)]
    assert time.monotonic() - began < A_MINUTE
    assert all(code != 0 for code in codes), codes


def assert_grown(directory: Path, source: Path) -> None:
    """What one device grows, bit for bit, in files that two processes wrote."""
    found, old = open_checkpoint(directory / GROWN), open_checkpoint(source)
    assert verify(found.path).ok
    assert len(list(found.path.glob("weights-*.safetensors"))) >= 2
    assert same_values(tprog.flax.load(found), grow(tprog.flax.load(old), member.plan_of(old)))
    state = member.grown_state(member.run_on(old, MeshShape(), directory), old)
    stored = load_optimizer(found, state.opt_state)
    for got, expected in zip(jax.tree.leaves(stored), jax.tree.leaves(state.opt_state), strict=True):
        np.testing.assert_array_equal(got, expected)


def assert_measured(directory: Path) -> None:
    """The Fisher information that one device measures."""
    mine, theirs = (tprog.numpy.load_part(path, "fisher") for path in (alone(directory), directory / MEASURED))
    assert mine.keys() == theirs.keys()
    for name, leaf in mine.items():
        assert np.abs(leaf - theirs[name]).max() <= 10 * ON_A_MESH * leaf.max(), name
    assert verify(directory / MEASURED).ok


def alone(directory: Path) -> Path:
    own = directory / "alone"
    own.mkdir()
    for name in (GROWN, TEXT):
        (own / name).symlink_to(directory / name)
    return member.measured(own, MeshShape()).path


@pytest.fixture
def killed(source, together):
    """What is left of two processes that grew and saved, and one of which was killed while they measured."""
    with members(source, together, "measure") as job:
        assert job.members[1].stdout is not None
        assert "stalled\n" in job.members[1].stdout, job.finish()  # waits for it
        job.members[1].kill()
        assert_lost(job)
    assert not (together / MEASURED).exists()
    rows = read_json(together / f"{MEASURED}.measuring" / "state.json")["rows"]
    assert 0 < rows < member.STALLED
    return rows


@pytest.mark.usefixtures("_measured_with_one_program")
def test_they_grow_save_and_measure_and_a_killed_one_ends_both_and_loses_little(source, together, killed):
    assert_grown(together, source)
    said: list[str] = []
    member.measured(together, MeshShape(), say=said.append)  # one process of one device goes on as well as they would
    assert f"going on after {killed} rows" in said[0]
    assert_measured(together)


@pytest.mark.slow
def test_two_processes_go_on_where_a_killed_one_ended_both(together, killed):
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in member.MEASURING.items()]
    paths = [str(together / GROWN), "--data", str(together / TEXT), "--out", str(together / MEASURED)]
    command = ["fisher", *paths, *sizes, "--mesh", "fsdp=4,tensor=2", "--tokenizer", "bytes"]
    with Gang(command, command, devices=4) as job:
        (code, said), (other, _) = job.finish()
    assert (code, other) == (0, 0), said
    assert f"going on after {killed} rows" in " ".join(said.split())
    assert_measured(together)


@pytest.mark.slow
def test_a_process_that_is_killed_while_they_save_leaves_nothing(source, together):
    with members(source, together, "save") as job:
        assert_lost(job)
    assert not (together / GROWN).exists()
    with members(source, together) as job:
        assert [code for code, _ in job.finish()] == [0, 0]
    assert_grown(together, source)
    assert_measured(together)
    assert not [path for path in together.iterdir() if ".tmp" in path.name or path.name.startswith(".")]
