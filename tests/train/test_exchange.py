"""A run goes from Orbax to a .tprog and back with nothing lost: the next loss is the one it would have had."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tprog.numpy
from tprog import FormatError, UsageError
from tprog.layout import TENSOR_PARTS
from tprog.reader import open_checkpoint
from tprog.verify import verify
from tprog.writer import write_checkpoint

from tests.cli.conftest import entries, tritter  # noqa: F401 - a fixture
from tests.tprog.files import assert_same_bits, random_arrays
from tests.train.conftest import small_run
from tritter_jax.train import loop
from tritter_jax.train.config import RunConfig
from tritter_jax.train.exchange import export_run, import_run
from tritter_jax.train.metrics import read_metrics
from tritter_jax.train.orbax_export import export_orbax, import_orbax
from tritter_jax.train.setup import prepare


def losses(directory: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(directory) if "loss" in line}


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Every tensor bit-equal, every other file equal, but for the manifest of progressive.json."""
    assert verify(one).ok
    assert verify(other).ok
    first, second = open_checkpoint(one), open_checkpoint(other)
    assert first.config == second.config
    assert first.parts == second.parts
    assert_same_bits(tprog.numpy.load(one), tprog.numpy.load(other))
    for part in set(TENSOR_PARTS) & set(first.parts):
        assert_same_bits(tprog.numpy.load_part(one, part), tprog.numpy.load_part(other, part))
    names = {path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()}
    assert names == {path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file()}
    for name in names - {"progressive.json"}:
        if not name.endswith(".safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert first.progressive.with_fields(manifest=None) == second.progressive.with_fields(manifest=None)


@pytest.fixture
def uninterrupted(whole):
    return losses(whole)


@pytest.fixture(scope="module")
def once_stopped(tmp_path_factory, token_cache):
    """A run that was asked to stop at step 3."""
    chosen = small_run(tmp_path_factory.mktemp("stopped"), token_cache)

    def preempt(at: loop.Report) -> None:
        if at.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    done = loop.train(prepare(chosen), report=preempt)
    assert done.step == 3
    return done.checkpoint


@pytest.fixture
def stopped(once_stopped, tmp_path):
    """A copy of it: its directory, and its .tprog."""
    directory = shutil.copytree(once_stopped.parent, tmp_path / "stopped")
    return directory, directory / once_stopped.name


@pytest.fixture
def rich(tmp_path, stopped):
    """The .tprog of a run that brought along everything there is."""
    checkpoint = open_checkpoint(stopped[1])
    progressive = checkpoint.progressive.with_fields(
        ewc_config={"enabled": True, "lambda": 10.0},
        expansion_history=[{"from_size": "1M", "to_size": "2M", "method": "width_upscaling", "tokens_after": 7}],
        unheard_of={"kept": True},
    )
    parts = replace(
        checkpoint.to_parts(),
        fisher=random_arrays(checkpoint.config, 1),
        old_params=random_arrays(checkpoint.config, 2),
        hooks=b"X = 1\n",
    )
    return write_checkpoint(
        tmp_path / "rich.tprog", checkpoint.config, checkpoint, progressive=progressive, parts=parts,
        tokenizer_from=checkpoint.path, files={"generation_config.json": b'{"top_k": 5}\n'},
    )  # fmt: skip


def test_a_tprog_becomes_a_run_that_goes_on_exactly(tritter, stopped, uninterrupted, token_cache, tmp_path):  # noqa: F811
    directory, checkpoint = stopped
    moved = Path(shutil.move(checkpoint, tmp_path / "elsewhere.tprog"))
    shutil.rmtree(directory)
    assert tritter("export", moved, "--orbax", "exported").code == 0
    (tmp_path / "exported").rename(tmp_path / "again")
    outcome = tritter("train", "--resume", "again", "--set", f"data.cache='{token_cache}'", "--json")
    assert outcome.code == 0, outcome.err
    assert losses(tmp_path / "again") == {step: loss for step, loss in uninterrupted.items() if step > 3}
    assert outcome.json["tokens_seen"] == 8 * 8 * 32


def test_a_killed_run_becomes_a_tprog_that_goes_on_exactly(settings, uninterrupted, tmp_path):
    chosen = settings(directory="killed")

    class KilledError(Exception):
        pass

    def kill(at: loop.Report) -> None:
        if at.step == 6:
            raise KilledError

    with pytest.raises(KilledError):
        loop.train(prepare(chosen), report=kill)
    checkpoint = import_run(chosen.output.directory, tmp_path / "killed.tprog")
    assert verify(checkpoint).ok
    assert open_checkpoint(checkpoint).progressive.steps == 4
    exported = export_run(open_checkpoint(checkpoint), tmp_path / "exported")
    going_on = RunConfig.load(exported / "run.toml", [f"data.cache='{chosen.data.cache}'"])
    loop.train(prepare(going_on))
    assert losses(exported) == {step: loss for step, loss in uninterrupted.items() if step > 4}


def test_the_last_checkpoint_of_a_run_is_the_tprog_that_the_run_wrote(stopped, tmp_path):
    directory, checkpoint = stopped
    assert_same_checkpoint(import_run(directory, tmp_path / "again.tprog"), checkpoint)


@pytest.mark.parametrize("export", [export_run, export_orbax])
@pytest.mark.parametrize("part", ["weights", "optimizer", "fisher", "old_params"])
def test_what_is_not_finite_is_not_exported(rich, tmp_path, export, part):
    file = rich / ("weights.safetensors" if part == "weights" else TENSOR_PARTS[part] + ".safetensors")
    with file.open("r+b") as opened:
        opened.seek(-4, os.SEEK_END)
        opened.write(np.float32(np.inf).tobytes())
    with pytest.raises(FormatError, match="infinity or NaN, which the source already holds"):
        export(open_checkpoint(rich), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_there_and_back_is_bit_equal_with_all_that_a_checkpoint_can_hold(rich, tmp_path):
    exported = export_run(open_checkpoint(rich), tmp_path / "exported")
    again = import_run(exported, tmp_path / "again.tprog")
    assert_same_checkpoint(again, rich)
    assert (again / "generation_config.json").read_bytes() == b'{"top_k": 5}\n'
    assert open_checkpoint(again).progressive.to_json()["unheard_of"] == {"kept": True}


def test_training_on_keeps_what_the_model_brought_along(settings, rich, tmp_path):
    chosen = settings("training.steps=5", "schedule.name=constant", directory="second")
    model = chosen.model.model_copy(update={"config": None, "checkpoint": str(rich)})
    done = loop.train(prepare(chosen.model_copy(update={"model": model})))
    found = open_checkpoint(done.checkpoint)
    assert_same_bits(tprog.numpy.load_part(found, "fisher"), tprog.numpy.load_part(rich, "fisher"))
    assert_same_bits(tprog.numpy.load_part(found, "old_params"), tprog.numpy.load_part(rich, "old_params"))
    assert (found.path / "generation_config.json").read_bytes() == b'{"top_k": 5}\n'
    (entry,) = found.progressive.expansion_history
    assert entry.tokens_after == 7 + 2 * 8 * 32
    assert found.progressive.ewc_config.enabled


def test_what_no_run_wrote_keeps_everything_beside_its_params(rich, tmp_path):
    checkpoint = open_checkpoint(rich)
    parts = replace(checkpoint.to_parts(), scheduler={"of": "another program"})
    foreign = write_checkpoint(
        tmp_path / "foreign.tprog", checkpoint.config, checkpoint, progressive=checkpoint.progressive, parts=parts,
        tokenizer_from=checkpoint.path, files={"generation_config.json": b"{}\n"},
    )  # fmt: skip
    exported = export_orbax(open_checkpoint(foreign), tmp_path / "exported")
    assert_same_checkpoint(import_orbax(exported, tmp_path / "again.tprog"), foreign)


def test_an_optimizer_that_was_lost_would_be_seen(stopped, uninterrupted, settings, tmp_path):
    exported = export_run(open_checkpoint(stopped[1]), tmp_path / "exported")
    going_on = RunConfig.load(exported / "run.toml", [f"data.cache='{settings().data.cache}'"])
    run = prepare(going_on)
    fresh = run.first_state()
    original = loop.resume

    def forgetful(*given):
        state, place = original(*given)
        return state._replace(opt_state=fresh.opt_state), place

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "resume", forgetful)
        loop.train(run)
    assert losses(exported)[4] == uninterrupted[4]
    assert losses(exported)[6] != uninterrupted[6]


def test_any_kept_step_can_be_had_and_others_are_named(settings, tmp_path):
    chosen = settings()
    loop.train(prepare(chosen))
    early = import_run(chosen.output.directory, tmp_path / "early.tprog", step=4)
    assert open_checkpoint(early).progressive.steps == 4
    with pytest.raises(UsageError, match="a checkpoint of step 5, got those of 4, 8"):
        import_run(chosen.output.directory, tmp_path / "other.tprog", step=5)
    assert not (tmp_path / "other.tprog").exists()


def test_mistakes_are_named_and_nothing_is_touched(tritter, stopped, settings, tmp_path):  # noqa: F811
    directory, checkpoint = stopped
    before = entries(directory)
    assert "one place to write to" in tritter("export", checkpoint).error
    assert "one place to write to" in tritter("export", checkpoint, "a", "--orbax", "b").error
    assert "something there already" in tritter("export", checkpoint, "--orbax", directory).error
    assert "something else" in tritter("export", checkpoint, "--orbax", directory, "--overwrite").error
    assert "a run directory to choose" in tritter("import", checkpoint, "a.tprog", "--step", 3).error
    assert "a checkpoint of step 9" in tritter("import", directory, "a.tprog", "--step", 9).error
    assert "no field" not in tritter("train", "--resume", "nowhere").error
    assert "to be given alone" in tritter("train", "--resume", directory, "--out", "b").error
    assert entries(directory) == before
    assert not {"a", "b", "a.tprog"} & entries(tmp_path)
    (directory / "start" / "progressive.json").write_text("{")
    with pytest.raises(FormatError, match=r"progressive\.json"):
        import_run(directory, tmp_path / "a.tprog")


def test_settings_in_a_published_checkpoint_name_no_place_on_this_machine(once_stopped):
    text = json.dumps(open_checkpoint(once_stopped).scheduler)
    assert str(once_stopped.parents[1]) not in text
    assert '"train": "builtin:prose"' in text


def test_no_number_differs_by_accident(stopped):
    """What `assert_same_bits` compares is not empty, and a changed bit is seen."""
    arrays = tprog.numpy.load(stopped[1])
    changed = {name: np.array(array) for name, array in arrays.items()}
    next(iter(changed.values())).flat[0] += 1
    with pytest.raises(AssertionError):
        assert_same_bits(arrays, changed)
