"""Where a run goes on: at its last whole checkpoint, or at the beginning."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from tprog import FormatError, UsageError, config_to_json
from tprog.disk import told_plainly

from tritter_jax.data import TrainBatches
from tritter_jax.train.checkpoint import RunCheckpoints
from tritter_jax.train.places import checkpoints_of
from tritter_jax.train.processes import all_or_none, is_first, processes
from tritter_jax.train.setup import Run
from tritter_jax.train.start import write_start
from tritter_jax.train.state import TrainState

T = TypeVar("T")
SETTINGS = "run.toml"
Say = Callable[[str], None]
"""Told, in a sentence, of what the user should know and need not mend."""


def open_run(run: Run, say: Say) -> RunCheckpoints:
    """Open the run directory; nothing in it is touched where it is another model's.

    Raises:
        UsageError: the directory holds a run of another model, or cannot be written.
    """
    directory = run.settings.directory
    with told_plainly(directory):
        directory.mkdir(parents=True, exist_ok=True)
    output, place = run.settings.output, checkpoints_of(run.settings)
    checkpoints = all_or_none(lambda: RunCheckpoints(place, keep_last=output.keep_last, keep_best=output.keep_best))
    try:
        all_or_none(lambda: _claim(run, checkpoints, say))
    except BaseException:
        checkpoints.close()
        raise
    return checkpoints


def _claim(run: Run, checkpoints: RunCheckpoints, say: Say) -> None:
    directory, steps = run.settings.directory, checkpoints.steps
    for step in reversed(steps):
        try:
            found = checkpoints.place(step).get("config")
        except FormatError as error:
            say(f"checkpoint {step} is damaged: {error}")
            continue
        if found != config_to_json(run.config):
            elsewhere = run.settings.output.checkpoints
            raise UsageError(
                "output.checkpoints" if elsewhere else "output.directory", expected="a run of this model",
                got=f"checkpoints of another one in {elsewhere or directory}",
                remedy="Choose another directory, or go on with the configuration that began the run.",
            )  # fmt: skip
        break
    if is_first():
        with told_plainly(directory):
            write_start(directory, run.config, origin=run.origin, tokenizer=run.tokenizer, again=not steps)


def resume(
    run: Run, checkpoints: RunCheckpoints, batches: TrainBatches, say: Say
) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from, and the place that was saved with it; `batches` are set to it.

    The settings are echoed into the run directory once it is known that the run can go on with them.

    A checkpoint that cannot be read is moved aside where an earlier one can.

    Raises:
        FormatError: there are checkpoints, and none holds a state of this model and optimizer.
        UsageError: the data are not those that the run began with, or the checkpoints are out of reach.
    """
    failure: FormatError | None = None
    steps = checkpoints.steps
    for step in reversed(steps):
        try:
            place = _by_all(partial(checkpoints.place, step))
            state = _by_all(partial(checkpoints.restore, run.abstract_state(), step))
        except FormatError as error:
            failure = failure or error
            continue
        batches.set_state(place["data"])
        _move_aside(run, checkpoints, [later for later in steps if later > step], say)
        _echo(run)
        return state, place
    if failure is not None:
        raise failure
    _echo(run)
    tokens = 0
    if run.origin is not None and run.origin.progressive.training_progress is not None:
        tokens = run.origin.progressive.training_progress.tokens_seen
    return run.first_state(), {"tokens_seen": tokens, "best_loss": None}


def _by_all(read: Callable[[], T]) -> T:
    """What every process reads; a checkpoint that one of them finds damaged is damaged for all."""

    def attempt() -> T | FormatError:
        try:
            return read()
        except FormatError as error:
            return error

    found = all_or_none(attempt)
    damage = [text for text in processes().gather(str(found) if isinstance(found, FormatError) else "") if text]
    if isinstance(found, FormatError):
        raise found
    if damage:
        raise FormatError(
            "a checkpoint", expected="one that every process can read", got=f"in another process: {damage[0]}",
            remedy="See what that process says.",
        )  # fmt: skip
    return found


def _echo(run: Run) -> None:
    if is_first():
        with told_plainly(run.settings.directory):
            (run.settings.directory / SETTINGS).write_text(run.settings.to_toml(), encoding="utf-8")


def _move_aside(run: Run, checkpoints: RunCheckpoints, damaged: list[int], say: Say) -> None:
    if not damaged:
        return
    beside = None if run.settings.output.checkpoints else run.settings.directory.resolve()

    def move() -> None:
        for step in damaged if is_first() else ():
            aside = checkpoints.move_aside(step, beside)
            say(f"checkpoint {step} could not be read, and was moved to {aside}; going on from an earlier one")

    all_or_none(move)
    all_or_none(checkpoints.reload)


def place_of(run: Run, data: dict[str, Any], tokens_seen: int, best_loss: float | None) -> dict[str, Any]:
    """What is saved beside the state of a step."""
    return {
        "config": config_to_json(run.config),
        "data": data,
        "tokens_seen": tokens_seen,
        "best_loss": best_loss,
    }
