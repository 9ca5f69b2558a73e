"""A run resumes exactly, stops cleanly, and says what is wrong before its first step."""

import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tprog.flax
from tprog import FormatError, TritterError, UsageError, VerificationError, load_config
from tprog.flax_state import load_optimizer
from tprog.reader import open_checkpoint
from tprog.tokenizer_copies import missing_copies

from tritter_jax.train import loop
from tritter_jax.train.config import RunConfig, ScheduleSection
from tritter_jax.train.metrics import read_metrics
from tritter_jax.train.optimizer import SCHEDULES, make_schedule
from tritter_jax.train.setup import choose_model, lay_out, prepare
from tritter_jax.train.step import train_step

ON_A_MESH = 1e-5


def losses(settings) -> list[float]:
    return [line["loss"] for line in read_metrics(Path(settings.output.directory)) if "loss" in line]


def test_loss_falls_and_the_checkpoint_has_everything(settings):
    chosen = settings("training.steps=30", "output.checkpoint_interval=0")
    done = loop.train(prepare(chosen))
    course = losses(chosen)
    assert course[-1] < course[0] - 0.5
    checkpoint = open_checkpoint(done.checkpoint)
    assert {"optimizer", "rng_state", "scheduler", "data_state"} <= set(checkpoint.parts)
    assert checkpoint.progressive.steps == 30
    assert checkpoint.progressive.training_progress.tokens_seen == 30 * 8 * 32
    assert checkpoint.tokenizer_files
    assert not missing_copies(done.checkpoint)
    assert (done.checkpoint / "tokenizer.json").is_file()


def test_a_resumed_run_has_exactly_the_losses_of_an_uninterrupted_one(settings, uninterrupted):
    chosen = settings()

    class KilledError(Exception):
        pass

    def kill(at: loop.Report) -> None:
        if at.step == 6:
            raise KilledError

    with pytest.raises(KilledError):
        loop.train(prepare(chosen), report=kill)
    loop.train(prepare(chosen))
    assert losses(chosen) == uninterrupted


@pytest.mark.sends_signals
def test_sigterm_saves_the_step_at_hand_and_the_run_goes_on(settings, uninterrupted):
    chosen = settings("output.checkpoint_interval=0")

    def preempt(at: loop.Report) -> None:
        if at.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    done = loop.train(prepare(chosen), report=preempt)
    assert (done.step, done.stopped, done.signal) == (3, "asked to stop", signal.SIGTERM)
    loop.train(prepare(chosen))
    assert losses(chosen) == uninterrupted


def test_a_half_written_checkpoint_is_passed_over_and_cleared(settings):
    constant = "schedule.name=constant"
    loop.train(prepare(settings("training.steps=4", constant)))
    litter = Path(settings().output.directory, "checkpoints", "6.orbax-checkpoint-tmp")
    (litter / "state").mkdir(parents=True)
    loop.train(prepare(settings(constant)))
    reference = settings(constant, directory="reference")
    loop.train(prepare(reference))
    assert losses(settings()) == losses(reference)
    assert not litter.exists()


def damage(directory: Path, step: int) -> None:
    """Cut short the files that hold the arrays of a checkpoint."""
    files = [path for path in (directory / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    large = [path for path in files if path.stat().st_size > 20_000]
    assert large
    for path in large:
        os.truncate(path, 100)


def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_it_gone_on_from(settings, uninterrupted):
    chosen = settings()
    loop.train(prepare(chosen))
    directory = Path(chosen.output.directory)
    damage(directory, 8)
    said: list[str] = []
    done = loop.train(prepare(chosen), say=said.append)
    assert done.step == 8
    assert losses(chosen) == uninterrupted
    assert (directory / "damaged-checkpoint-8").is_dir()
    assert "checkpoint 8 could not be read" in " ".join(said)


@pytest.mark.parametrize("fault", ["damage", "another optimizer"])
def test_where_no_checkpoint_can_be_read_the_run_is_left_as_it_was(settings, fault):
    chosen = settings()
    loop.train(prepare(chosen))
    directory = Path(chosen.output.directory)
    if fault == "damage":
        damage(directory, 4)
        damage(directory, 8)
    before = (directory / "run.toml").read_text()
    with pytest.raises(FormatError, match="a state of this model and optimizer"):
        loop.train(prepare(settings("optimizer.name=lion")))
    assert (directory / "run.toml").read_text() == before
    assert {path.name for path in (directory / "checkpoints").iterdir()} == {"4", "8"}


def test_nothing_need_be_held_out_where_nothing_is_evaluated(settings):
    with pytest.raises(UsageError, match=r"data\.held_out: expected a share above 0.*output\.eval_interval=0"):
        loop.train(prepare(settings("data.held_out=0", directory="never")))
    assert not Path(settings(directory="never").output.directory).exists()
    done = loop.train(prepare(settings("data.held_out=0", "output.eval_interval=0", "training.steps=2")))
    assert done.held_out_loss is None


def test_several_corpora_are_one(settings, tmp_path):
    for number in range(3):
        (tmp_path / f"n'{number}.txt").write_text(" ".join(map(str, range(number * 999, number * 999 + 500))))
    names = [str(tmp_path / "n'0.txt"), str(tmp_path / "n'[12].txt")]
    chosen = RunConfig.parse(
        settings("training.steps=2").model_dump(exclude_none=True), [], {"data": {"train": names}}
    )
    run = prepare(chosen)
    assert run.tokens.train.documents + run.tokens.held_out.documents == 3
    loop.train(run)
    assert RunConfig.load(Path(chosen.output.directory) / "run.toml") == run.settings


def test_one_mesh_axis_may_take_the_devices_that_are_left(settings):
    assert dict(prepare(settings("mesh.fsdp=-1", "mesh.tensor=2")).mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2}


def test_the_best_checkpoint_is_kept_beside_the_last(settings, monkeypatch):
    course = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(loop, "held_out_loss", lambda run: lambda params: next(course))
    chosen = settings("training.steps=16", "output.keep_last=1", "output.eval_interval=4")
    assert loop.train(prepare(chosen)).best_loss == 1.0
    assert {path.name for path in Path(chosen.output.directory, "checkpoints").iterdir()} == {"8", "16"}


def test_metrics_go_to_json_tensorboard_and_a_plot(settings):
    chosen = settings()
    loop.train(prepare(chosen))
    directory = Path(chosen.output.directory)
    assert list(directory.glob("events.out.tfevents.*"))
    assert (directory / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {"loss", "grad_norm", "learning_rate", "tokens_per_second"} <= set(read_metrics(directory)[0])


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_weights_that_are_not_finite_are_never_saved(settings, monkeypatch, number):
    chosen = settings("output.checkpoint_interval=0", "output.eval_interval=0")
    run = prepare(chosen)
    state = run.first_state()
    poisoned = state.params | {"norm": state.params["norm"] * np.float32(number)}
    monkeypatch.setattr(type(run), "first_state", lambda self: state._replace(params=poisoned))
    with pytest.raises(VerificationError, match="step 0: expected finite weights and moments"):
        loop.train(run)
    directory = Path(chosen.output.directory)
    assert not list(directory.glob("*.tprog"))
    assert not list(Path(directory, "checkpoints").iterdir())


def test_moments_that_overflow_are_not_saved_and_the_last_whole_checkpoint_is_named(settings, monkeypatch):
    chosen = settings("output.checkpoint_interval=2", "output.eval_interval=0")
    compiled = loop.compile_train_step

    def compile_overflowing(*arguments, **options):
        take_step = compiled(*arguments, **options)

        def step(state, windows, number, *memory):
            after, metrics = take_step(state, windows, number, *memory)
            if number == 3:
                after = after._replace(opt_state=jax.tree.map(lambda leaf: leaf * jnp.asarray(jnp.inf, leaf.dtype)
                    if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, after.opt_state))  # fmt: skip
            return after, metrics

        return step

    monkeypatch.setattr(loop, "compile_train_step", compile_overflowing)
    with pytest.raises(VerificationError, match=r"^step 4: expected finite weights and moments.*is of step 2"):
        loop.train(prepare(chosen))
    assert [path.name for path in Path(chosen.output.directory, "checkpoints").iterdir()] == ["2"]


def spoiled(monkeypatch, *numbers: int, also=lambda number: None, seen=None):
    """Has the steps of these numbers, counted from 1, find something that is not finite; `seen` gets all batches."""
    compiled, count = loop.compile_train_step, itertools.count(1)

    def compile_spoiled(*arguments, **options):
        take_step = compiled(*arguments, **options)

        def step(state, windows, *rest):
            number = next(count)
            also(number)
            if seen is not None:
                seen.append(np.asarray(windows))
            if number not in numbers:
                return take_step(state, windows, *rest)
            return state, {"loss": jnp.float32("nan"), "grad_norm": jnp.float32("nan"), "finite": jnp.bool(False)}

        return step

    monkeypatch.setattr(loop, "compile_train_step", compile_spoiled)


@pytest.mark.parametrize(
    ("numbers", "interval", "good"),
    [((3,), 0, 2), ((3, 4), 0, 2), ((3, 4), 1, 2), ((3,), 3, 2), ((8,), 0, 7)],
    ids=["then-a-good-one", "two", "each-saved", "where-one-is-saved", "the-last"],
)
def test_steps_that_are_not_finite_do_not_count(settings, monkeypatch, numbers, interval, good):
    chosen = settings(
        f"output.checkpoint_interval={interval}", "output.eval_interval=0", "output.keep_last=1",
        "output.log_interval=8",
    )  # fmt: skip
    spoiled(monkeypatch, *numbers)
    with pytest.raises(VerificationError, match=rf"^step {numbers[0]}: expected a finite loss"):
        loop.train(prepare(chosen))
    directory = Path(chosen.output.directory)
    (written,) = directory.glob("*.tprog")
    progress = open_checkpoint(written).progressive.training_progress
    assert progress is not None
    assert (progress.steps, progress.tokens_seen) == (good, good * 8 * 32)
    assert [path.name for path in Path(directory, "checkpoints").iterdir()] == [str(good)]
    monkeypatch.undo()
    assert loop.train(prepare(chosen)).tokens_seen == 8 * 8 * 32


@pytest.mark.parametrize(
    "intervals", [(0, 8, 0), (1, 1, 1), (2, 3, 5)], ids=["looked-at-late", "looked-at-at-once", "mixed"]
)
def test_the_last_good_state_is_that_before_the_bad_batch_and_resuming_replays_it(
    settings, monkeypatch, uninterrupted, intervals
):
    names = ("checkpoint", "log", "eval")
    chosen = settings(*(f"output.{name}_interval={each}" for name, each in zip(names, intervals, strict=True)))
    first, again = [], []
    with monkeypatch.context() as patch:
        spoiled(patch, 6, seen=first)
        with pytest.raises(VerificationError, match=r"^step 6: expected a finite loss"):
            loop.train(prepare(chosen))
    directory = Path(chosen.output.directory)
    (written,) = directory.glob("*.tprog")
    assert written.name.endswith("-5.tprog")
    assert all(line["step"] <= 5 and line.get("tokens_seen", 0) <= 5 * 8 * 32 for line in read_metrics(directory))
    assert open_checkpoint(written).to_parts().data_state["rows"] == 5 * 8

    every = chosen.model_copy(update={"output": chosen.output.model_copy(update={"log_interval": 1})})
    spoiled(monkeypatch, seen=again)
    done = loop.train(prepare(every))
    np.testing.assert_array_equal(again[0], first[5])
    assert len(again) == 3
    assert losses(chosen)[-3:] == uninterrupted[-3:]
    assert done.tokens_seen == 8 * 8 * 32


def test_a_step_behind_one_that_was_not_finite_changes_nothing(settings):
    run = prepare(settings())
    state = run.first_state()
    tokens = jnp.zeros((2, 9), jnp.int32)
    behind, told = train_step(state, tokens, number=1, config=run.config, optimizer=run.optimizer)
    due, _ = train_step(state, tokens, number=0, config=run.config, optimizer=run.optimizer)
    assert np.isfinite(told["loss"])
    assert not told["finite"]
    assert (int(behind.step), int(due.step)) == (0, 1)
    np.testing.assert_array_equal(behind.params["norm"], state.params["norm"])


@pytest.mark.sends_signals
def test_asked_to_stop_at_a_step_that_is_not_finite_a_run_tells_of_that(settings, monkeypatch):
    chosen = settings("output.eval_interval=0")
    spoiled(monkeypatch, 3, also=lambda number: number == 3 and signal.raise_signal(signal.SIGTERM))
    with pytest.raises(VerificationError, match=r"^step 3: expected a finite loss"):
        loop.train(prepare(chosen))
    (written,) = Path(chosen.output.directory).glob("*.tprog")
    assert open_checkpoint(written).progressive.steps == 2


def test_a_step_that_is_not_finite_changes_nothing(settings):
    run = prepare(settings())
    state = run.first_state()
    state.params["norm"] = state.params["norm"] * np.float32("inf")
    after, metrics = train_step(state, jnp.zeros((2, 9), jnp.int32), config=run.config, optimizer=run.optimizer)
    assert not metrics["finite"]
    assert int(after.step) == 0
    for before, now in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(before, now)


@pytest.mark.parametrize(
    "mesh",
    [*(pytest.param(f"{axis}=8", marks=pytest.mark.slow) for axis in ("data", "fsdp")), "data=2 fsdp=2 tensor=2"],
)
def test_a_mesh_gives_the_losses_of_one_device(settings, uninterrupted, mesh):
    chosen = settings(*(f"mesh.{part}" for part in mesh.split()), directory="mesh")
    loop.train(prepare(chosen))
    np.testing.assert_allclose(losses(chosen), uninterrupted, rtol=ON_A_MESH)


@pytest.mark.parametrize(
    "change",
    ["training.accumulate=4", "training.remat=full"],
)
def test_saving_memory_does_not_change_the_losses(settings, uninterrupted, change):
    chosen = settings(change, directory="other")
    loop.train(prepare(chosen))
    np.testing.assert_allclose(losses(chosen), uninterrupted, rtol=1e-5)


@pytest.mark.parametrize("name", ["lion", "muon"])
def test_every_optimizer_lowers_the_loss(settings, name):
    chosen = settings(f"optimizer.name={name}", "optimizer.learning_rate=3e-3", "training.steps=20")
    loop.train(prepare(chosen))
    assert losses(chosen)[-1] < losses(chosen)[0] - 0.2


def test_bfloat16_computes_over_float32_masters(settings):
    chosen = settings("training.compute_dtype=bfloat16")
    done = loop.train(prepare(chosen))
    assert open_checkpoint(done.checkpoint).config.dtype == "float32"
    assert losses(chosen)[-1] < losses(chosen)[0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warm_up_of_no_steps_begins_at_the_peak(name):
    """The constant rate was 0 for ever."""
    assert make_schedule(ScheduleSection(name=name, warmup=0), 0.5, 100)(0) == 0.5


def test_a_checkpoint_is_gone_on_from_with_its_optimizer(settings):
    first = loop.train(prepare(settings("training.steps=4", "schedule.name=constant")))
    chosen = settings(
        f"model.checkpoint='{first.checkpoint}'", "schedule.name=constant", directory="second"
    ).model_copy()
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"config": None})})
    run = prepare(chosen)
    state = run.first_state()
    assert int(state.step) == 4
    stored = load_optimizer(first.checkpoint, state.opt_state)
    for one, other in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(stored), strict=True):
        np.testing.assert_array_equal(one, other)
    params = tprog.flax.load(first.checkpoint)
    np.testing.assert_array_equal(state.params["embed"], params["embed"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["data.batch_size=6", "mesh.data=4"], "The nearest that works is 8"),
        (["mesh.data=16", "data.batch_size=16"], "8 devices"),
        (["mesh.tensor=8"], "not a multiple of tensor = 8"),
        (["optimizer.name=sgdd"], "adamw, lion, muon"),
        (["schedule.name=linear"], "warmup-cosine, wsd"),
        (["training.remat=dot"], "training.remat: .*Did you mean dots"),
        (["training.remat=true"], "training.remat: Input should be a valid string, got True"),
        (["training.stepz=5"], r"training.stepz is no field \(did you mean steps"),
        (["trainig.steps=5"], r"trainig is no field \(did you mean training"),
        (["mesh.data=-1", "mesh.fsdp=-1"], "one axis of -1"),
        (["mesh.data=-1", "mesh.fsdp=3"], "dividing the 8 devices"),
        (["mesh.data=0"], "a number of devices"),
        (["data.train=[]"], "at least 1 item"),
        (["data.held_out=0.9"], "less than or equal to 0.5"),
        (["training.seed=-1"], "greater than or equal to 0"),
        (["data.tokenizer=nowhere"], r"a tokenizer\.json"),
        (["training.steps=0"], "greater than or equal to 1"),
        (["training.steps=99999999999999999999"], "training.steps: Input should be less than 2147483648"),
        (["model.size=7B"], "one of size, config and checkpoint"),
        (["data.train=builtin:poetry"], "poetry"),
        (["model.vocab_size=100"], "vocab"),
        (["mesh.rules.hiden=fsdp"], "hidden"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(settings, changes, said):
    with pytest.raises(TritterError, match=said):
        prepare(settings(*changes))


def test_an_empty_name_of_the_run_directory_is_refused():
    with pytest.raises(UsageError, match=r"output\.directory: String should have at least 1 character"):
        RunConfig.parse({}, ["output.directory=''"])


def test_a_directory_in_place_of_settings_is_told_as_one(tmp_path):
    with pytest.raises(UsageError, match="got a directory"):
        RunConfig.load(tmp_path)
    with pytest.raises(TritterError, match="got a directory"):
        load_config(tmp_path)


def test_a_run_directory_of_another_model_is_left_alone(settings, tmp_path):
    loop.train(prepare(settings("training.steps=4")))
    other = settings("model.vocab_size=384")
    with pytest.raises(UsageError, match="checkpoints of another"):
        loop.train(prepare(other))


def test_a_longer_context_is_published_and_said(settings):
    chosen = settings("training.steps=1", "data.sequence_length=48", "output.eval_interval=0")
    path = Path(chosen.model.config)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 32}))
    said = []
    done = loop.train(prepare(chosen), say=said.append)
    assert json.loads((done.checkpoint / "config.json").read_text())["max_position_embeddings"] == 48
    assert any("48 tokens are longer than the 32" in line and "data.sequence_length=32" in line for line in said)
    as_long = settings("data.sequence_length=32")
    assert lay_out(as_long, replace(choose_model(as_long)[2], max_position_embeddings=32)).remarks == []


@pytest.mark.parametrize(("rate", "said"), [(0.1, True), (0.0, False), (None, False)])
def test_dropout_that_is_not_applied_is_said(settings, rate, said):
    chosen = settings("training.steps=1")
    path = Path(chosen.model.config)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_dropout": rate}))
    _, tokenizer, model = choose_model(chosen)
    remarks = lay_out(chosen, replace(model, vocab_size=tokenizer.vocab_size)).remarks
    assert any("attention_dropout 0.1" in line for line in remarks) == said


def test_the_settings_are_echoed_and_read_back(settings):
    chosen = settings("training.steps=1", "mesh.rules.hidden=none", "output.eval_interval=0")
    run = prepare(chosen)
    loop.train(run)
    assert RunConfig.load(Path(chosen.output.directory) / "run.toml") == run.settings
    found, asked = (each.model_dump(mode="json", by_alias=True) for each in (run.settings, chosen))
    assert (found["data"].pop("tokenizer"), asked["data"].pop("tokenizer")) == ("bytes", None)
    assert (found["optimizer"].pop("learning_rate"), asked["optimizer"].pop("learning_rate")) == (1e-3, None)
    assert found == asked


def test_an_override_needs_a_section_and_a_value(settings):
    with pytest.raises(UsageError, match=r"section\.field=value"):
        settings("steps")
