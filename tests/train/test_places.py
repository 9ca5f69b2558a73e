"""Checkpoints of a run in another directory, and on a bucket: a fake of Google's storage on loopback."""

from pathlib import Path

import fsspec
import pytest
import tprog.numpy
from etils.epath import backend
from tprog import UsageError
from tprog.reader import open_checkpoint

from tests.tprog.files import assert_same_bits
from tests.train.fake_gcs import environment, fake_gcs
from tests.train.test_processes import ON_A_MESH, training, written  # noqa: F401
from tests.train.test_run import losses
from tritter_jax.train import loop
from tritter_jax.train.exchange import import_run
from tritter_jax.train.setup import prepare


@pytest.fixture(scope="module")
def gcs():
    with fake_gcs() as served, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(served).items():
            patch.setenv(name, value)
        core = pytest.importorskip("gcsfs.core")
        for scheme in ("gcs", "gs"):  # where gcsfs was imported before, it is one that asks for credentials
            fsspec.register_implementation(scheme, core.GCSFileSystem, clobber=True)
        patch.setitem(fsspec.config.conf, "gcs", {})
        backend.fsspec_backend._get_filesystem.cache_clear()
        yield served
        backend.fsspec_backend._get_filesystem.cache_clear()
        core.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def bucket(gcs):
    gcs.objects.clear()
    gcs.requests.clear()
    yield gcs
    gcs.refuse = lambda method, path: None


class KilledError(Exception):
    pass


def kill(at: loop.Report) -> None:
    if at.step == 6:
        raise KilledError


def steps(bucket, path: str) -> set[str]:
    """Steps of the whole checkpoints below a path of the bucket."""
    whole = (name.removeprefix(path).split("/") for name in bucket.objects if name.startswith(path))
    return {parts[1] for parts in whole if parts[2:] == ["commit_success.txt"]}


@pytest.mark.parametrize("place", ["gs://bucket/runs/a", "elsewhere"])
def test_a_fresh_machine_goes_on_exactly_from_what_lies_elsewhere(
    settings,
    uninterrupted,
    bucket,
    tmp_path,
    place,
):
    there = place if "://" in place else str(tmp_path / place)
    chosen = settings(f"output.checkpoints={there}", directory="lost")
    with pytest.raises(KilledError):
        loop.train(prepare(chosen), report=kill)
    assert not Path(chosen.output.directory, "checkpoints").exists()
    fresh = settings(f"output.checkpoints={there}", directory="fresh")
    done = loop.train(prepare(fresh))
    assert losses(fresh) == uninterrupted[4:]
    made = import_run(fresh.output.directory, tmp_path / "made.tprog")
    ours, theirs = (tprog.numpy.load(open_checkpoint(path)) for path in (made, done.checkpoint))
    assert_same_bits(ours, theirs)
    if "://" in place:
        assert steps(bucket, "runs/a") == {"4", "8"}
    else:
        assert {path.name for path in Path(there).iterdir()} == {"4", "8"}


@pytest.mark.slow
def test_old_checkpoints_are_removed_from_a_bucket(settings, bucket):
    changes = ["output.checkpoint_interval=2", "output.keep_last=1", "output.keep_best=0", "output.eval_interval=0"]
    loop.train(prepare(settings("output.checkpoints=gs://bucket/a", *changes)))
    assert steps(bucket, "a") == {"8"}
    assert all(name.startswith("a/8/") for name in bucket.objects)


def test_what_else_lies_there_stays(settings, bucket):
    others = {"a/model.tprog/config.json": b"{}", "a/b/4/commit_success.txt": b"", "a/b/5/state/d": b"begun"}
    for name, content in others.items():
        bucket.put(name, content)
    loop.train(prepare(settings("output.checkpoints=gs://bucket/a", "output.keep_last=1", "output.eval_interval=0")))
    assert {name: bucket.objects[name][0] for name in others} == others


def test_another_models_checkpoints_are_refused_and_stay(settings, bucket):
    there = "output.checkpoints=gs://bucket/a"
    loop.train(prepare(settings(there, "training.steps=4")))
    before = dict(bucket.objects)
    other = settings(there, "model.size=test", directory="other")
    other = other.model_copy(update={"model": other.model.model_copy(update={"config": None})})
    with pytest.raises(UsageError, match=r"output\.checkpoints.*another one in gs://bucket/a"):
        loop.train(prepare(other))
    assert bucket.objects == before


@pytest.mark.slow
def test_a_save_that_was_killed_is_passed_over_and_saved_anew(settings, bucket):
    chosen = settings("output.checkpoints=gs://bucket/a")
    loop.train(prepare(chosen))
    del bucket.objects["a/8/commit_success.txt"]
    assert steps(bucket, "a") == {"4"}
    fresh = settings("output.checkpoints=gs://bucket/a", directory="fresh")
    loop.train(prepare(fresh))
    assert losses(fresh) == losses(chosen)[4:]
    assert steps(bucket, "a") == {"4", "8"}
    again = settings("output.checkpoints=gs://bucket/a", "training.steps=8", directory="again")
    assert loop.train(prepare(again)).loss is None


@pytest.mark.slow
def test_a_damaged_checkpoint_is_moved_aside_on_the_bucket(settings, bucket):
    chosen = settings("output.checkpoints=gs://bucket/a")
    loop.train(prepare(chosen))
    for name in [name for name in bucket.objects if name.startswith("a/8/state/")]:
        del bucket.objects[name]
    said: list[str] = []
    fresh = settings("output.checkpoints=gs://bucket/a", directory="fresh")
    loop.train(prepare(fresh), say=said.append)
    assert losses(fresh) == losses(chosen)[4:]
    assert "moved to gs://bucket/a/damaged-checkpoint-8" in " ".join(said)
    assert "a/damaged-checkpoint-8/commit_success.txt" in bucket.objects
    assert steps(bucket, "a") >= {"4", "8"}


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("gs://no-bucket/a", "may be read or written"),
        ("gs://bucket/refused", "Forbidden"),
        ("gs://bucket", "gs://bucket/path"),
        ("s3://bucket/a", "gs://bucket/path"),
    ],
)
def test_a_bucket_that_cannot_be_written_is_told_before_anything_is_done(settings, bucket, place, told):
    bucket.refuse = lambda method, path: 403 if method == "POST" else None
    chosen = settings(f"output.checkpoints={place}")
    with pytest.raises(UsageError, match=told):
        prepare(chosen)
    assert not Path(chosen.output.directory).exists()
    assert not bucket.objects


def test_a_bucket_that_refuses_in_mid_run_is_told_and_the_same_run_goes_on(settings, bucket, uninterrupted):
    def lock(at: loop.Report) -> None:
        if at.step == 6:
            bucket.refuse = lambda method, path: 403 if method == "POST" else None

    chosen = settings("output.checkpoints=gs://bucket/a", "output.checkpoint_interval=2")
    with pytest.raises(UsageError, match=r"gs://bucket/a: expected checkpoints that can be written.*Forbidden"):
        loop.train(prepare(chosen), report=lock)
    bucket.refuse = lambda method, path: None
    assert "2" in steps(bucket, "a")
    loop.train(prepare(chosen))
    assert losses(chosen) == uninterrupted


def test_the_model_is_written_where_the_last_checkpoint_could_not_be(settings, bucket, whole):
    def lock(at: loop.Report) -> None:
        if at.step == 8:
            bucket.refuse = lambda method, path: 403 if method == "POST" else None

    chosen = settings("output.checkpoints=gs://bucket/a", "output.checkpoint_interval=2")
    with pytest.raises(UsageError, match=r"gs://bucket/a: expected checkpoints that can be written"):
        loop.train(prepare(chosen), report=lock)
    bucket.refuse = lambda method, path: None
    ours, due = (next(Path(path).glob("*.tprog")) for path in (chosen.output.directory, whole))
    assert_same_bits(tprog.numpy.load(ours), tprog.numpy.load(due))


@pytest.mark.parametrize(
    "part", [pytest.param("/state/", marks=pytest.mark.slow), "/state/d/", "/_CHECKPOINT_METADATA?alt=media"]
)
def test_a_bucket_that_may_not_be_read_is_no_damaged_checkpoint(settings, bucket, part):
    chosen = settings("output.checkpoints=gs://bucket/a")
    loop.train(prepare(chosen))
    before = dict(bucket.objects)
    bucket.refuse = lambda method, path: 403 if method == "GET" and part in path else None
    with pytest.raises(UsageError, match=r"gs://bucket/a: expected checkpoints that can be read"):
        loop.train(prepare(settings("output.checkpoints=gs://bucket/a", directory="fresh")))
    assert bucket.objects == before


@pytest.mark.slow
def test_two_processes_save_to_a_bucket_and_go_on_from_it(settings, written, bucket, uninterrupted):  # noqa: F811
    for directory in ("lost", "fresh"):
        chosen = settings("mesh.data=2", "output.checkpoints=gs://bucket/a", directory=directory)
        with training(written(chosen)) as job:
            assert [code for code, _ in job.finish()] == [0, 0]
        assert steps(bucket, "a") == {"4", "8"}
        if directory == "lost":
            del bucket.objects["a/8/commit_success.txt"]
    assert losses(chosen) == pytest.approx(uninterrupted[4:], rel=ON_A_MESH)
