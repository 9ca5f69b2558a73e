"""Where a run goes on: at its last whole checkpoint, or at the beginning."""

from collections.abc import Callable
from typing import Any

from tprog import FormatError, UsageError, config_to_json
from tprog.disk import told_plainly

from tritter_jax.data import TrainBatches
from tritter_jax.train.checkpoint import RunCheckpoints
from tritter_jax.train.places import checkpoints_of
from tritter_jax.train.processes import all_or_none, is_first
from tritter_jax.train.setup import Run
from tritter_jax.train.start import write_start
from tritter_jax.train.state import TrainState

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
        output = run.settings.output
        place = checkpoints_of(run.settings)
        checkpoints = RunCheckpoints(place, keep_last=output.keep_last, keep_best=output.keep_best)
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
        UsageError: the data are not those that the run began with.
    """
    failure: FormatError | None = None
    steps = checkpoints.steps
    for step in reversed(steps):
        try:
            place = checkpoints.place(step)
            state = checkpoints.restore(run.abstract_state(), step)
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


def _echo(run: Run) -> None:
    if is_first():
        with told_plainly(run.settings.directory):
            (run.settings.directory / SETTINGS).write_text(run.settings.to_toml(), encoding="utf-8")


def _move_aside(run: Run, checkpoints: RunCheckpoints, damaged: list[int], say: Say) -> None:
    if not damaged:
        return
    output, directory = run.settings.output, run.settings.directory
    for step in damaged if is_first() else ():
        aside = checkpoints.move_aside(
            step, None if output.checkpoints else directory.resolve() / f"damaged-checkpoint-{step}"
        )
        say(f"checkpoint {step} could not be read, and was moved to {aside}; going on from an earlier one")
    all_or_none(checkpoints.reload)


def place_of(run: Run, batches: TrainBatches, tokens_seen: int, best_loss: float | None) -> dict[str, Any]:
    """What is saved beside the state of a step."""
    return {
        "config": config_to_json(run.config),
        "data": batches.get_state(),
        "tokens_seen": tokens_seen,
        "best_loss": best_loss,
    }
