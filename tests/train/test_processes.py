"""Real processes that train one model together: the losses of one device, one checkpoint, and one fate."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tprog.numpy
from tprog import UsageError
from tprog.reader import open_checkpoint
from tprog.verify import verify

from tests.train.gangs import A_MINUTE, Gang
from tritter_jax.train.metrics import read_metrics
from tritter_jax.train.processes import start_processes

ON_A_MESH = 1e-5


def training(settings: Path, *options: str, devices: int = 1, each=((), ())) -> Gang:
    """`tritter train` in several processes; `each` are further options of one process each."""
    return Gang(*(["train", "--config", str(settings), *options, *own] for own in each), devices=devices)


@pytest.fixture
def written(tmp_path):
    """Write settings as TOML."""

    def write(settings) -> Path:
        path = tmp_path / f"{Path(settings.output.directory).name}.toml"
        path.write_text(settings.to_toml())
        return path

    return write


@pytest.fixture
def alone(whole):
    """What a run of one process on one device has written."""
    (checkpoint,) = whole.glob("*.tprog")
    return checkpoint


def losses(directory: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(directory) if "loss" in line]


def held_out(directory: Path) -> list[float]:
    return [line["held_out_loss"] for line in read_metrics(directory) if "held_out_loss" in line]


def assert_trained_like(directory: Path, alone: Path) -> None:
    """The same losses to 1e-5, and one good checkpoint with the same values."""
    steps, values = zip(*losses(directory), strict=True)
    expected_steps, expected = zip(*losses(alone.parent), strict=True)
    assert steps == expected_steps
    np.testing.assert_allclose(values, expected, rtol=ON_A_MESH)
    np.testing.assert_allclose(held_out(directory), held_out(alone.parent), rtol=ON_A_MESH)
    (found,) = directory.glob("*.tprog")
    assert found.name == alone.name
    assert verify(found).ok
    one, other = open_checkpoint(alone), open_checkpoint(found)
    assert (one.data_state, one.parts) == (other.data_state, other.parts)
    assert one.progressive.training_progress.tokens_seen == other.progressive.training_progress.tokens_seen
    mine, theirs = tprog.numpy.load(found), tprog.numpy.load(alone)
    assert mine.keys() == theirs.keys()
    assert max(float(np.abs(mine[name] - theirs[name]).max()) for name in mine) < 1e-4
    moments, others = (tprog.numpy.load_part(path, "optimizer") for path in (found, alone))
    assert moments.keys() == others.keys()
    assert moments["step"] == others["step"]


def test_two_processes_of_four_devices_train_like_one_device(settings, written, alone):
    chosen = settings("mesh.data=2", "mesh.fsdp=4", directory="two")
    with training(written(chosen), devices=4) as job:
        assert [code for code, _ in job.finish()] == [0, 0]
    assert_trained_like(Path(chosen.output.directory), alone)


@pytest.mark.slow
def test_a_tensor_axis_may_span_processes(settings, written, alone):
    chosen = settings("mesh.tensor=2", directory="two")
    with training(written(chosen)) as job:
        assert [code for code, _ in job.finish()] == [0, 0]
    assert_trained_like(Path(chosen.output.directory), alone)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_job_which_then_resumes_exactly(settings, written, lost):
    options = ("mesh.data=2", "output.checkpoint_interval=4", "training.steps=24", "schedule.name=constant")
    whole = settings(*options, directory="whole")
    with training(written(whole)) as job:
        assert [code for code, _ in job.finish()] == [0, 0]

    chosen = settings(*options, directory="killed")
    directory = Path(chosen.output.directory)
    # Slowed down, so that the kill comes between two checkpoints, and told to go on for ever.
    with training(written(chosen), "--set", "training.steps=100000", "--set", "output.eval_interval=1") as job:
        until = time.monotonic() + 120
        while not (directory / "checkpoints" / "8").is_dir():
            assert time.monotonic() < until
            assert job.members[1 - lost].poll() is None
            time.sleep(0.01)
        job.members[lost].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        codes = [code for code, _ in job.finish(timeout=A_MINUTE)]
        assert time.monotonic() - killed < A_MINUTE
    assert all(code != 0 for code in codes), codes

    last = max(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdecimal())
    assert 8 <= last < 24, "the job outran the test"
    with training(written(chosen)) as job:
        assert [code for code, _ in job.finish()] == [0, 0]
    assert losses(directory) == losses(Path(whole.output.directory))


def test_what_is_wrong_in_one_process_ends_both_and_is_told_to_both(settings, written):
    chosen = settings("mesh.data=2", directory="two")
    with training(written(chosen), each=((), ("--data", "builtin:poetry"))) as job:
        (code, error), (other_code, other_error) = job.finish(timeout=A_MINUTE)
    assert (code, other_code) == (1, 1)
    assert "process 1: --data: expected one of" in " ".join(error.split())
    assert "Did you mean" in other_error or "builtin:poetry" in other_error
    assert "Traceback" not in error + other_error
    assert not Path(chosen.output.directory).exists()


def test_a_mesh_that_leaves_a_process_idle_is_refused(settings, written):
    chosen = settings("mesh.data=1", directory="two")
    with training(written(chosen)) as job:
        ended = job.finish(timeout=A_MINUTE)
    assert [code for code, _ in ended] == [1, 1]
    assert all("each process to hold an equal part" in " ".join(error.split()) for _, error in ended)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID: expected all of the three"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "a:1"}, "got 2, 2"),
        ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:1"}, "got two, 0"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "here"}, "host:port"),
    ],
)
def test_an_environment_that_does_not_add_up_is_named(environment, said):
    with pytest.raises(UsageError, match=said):
        start_processes(environment=environment)


def test_one_process_alone_needs_no_environment():
    start_processes(environment={})
    start_processes(environment={"JAX_COORDINATOR_ADDRESS": "read by JAX itself"})
