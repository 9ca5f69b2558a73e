"""The training loop: batches in, steps, held-out loss, checkpoints; stops cleanly whatever stops it."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tprog import UsageError, VerificationError

from tritter_jax.continual import Memory
from tritter_jax.data import TrainBatches, eval_batches, train_batches
from tritter_jax.sharding import batch_sharding
from tritter_jax.train.checkpoint import RunCheckpoints
from tritter_jax.train.ewc import load_memory
from tritter_jax.train.interrupt import preemption
from tritter_jax.train.metrics import MetricsLog, plot_loss, read_metrics
from tritter_jax.train.processes import any_process, batch_part, is_first
from tritter_jax.train.publish import save_tprog
from tritter_jax.train.resume import Say, open_run, place_of, resume
from tritter_jax.train.setup import Run
from tritter_jax.train.start import open_start
from tritter_jax.train.state import TrainState
from tritter_jax.train.step import compile_eval_step, compile_train_step

NOT_FINITE = "not finite"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the loop tells as it goes, every `log_interval` steps."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    held_out_loss: float | None


@dataclass(kw_only=True)
class Finished:
    """How a run ended.

    Args:
        step: number of steps taken.
        loss: mean training loss of the last logged steps, nats a token; None where no step was left to take.
        held_out_loss: the last held-out loss, or None.
        best_loss: the lowest held-out loss, or None.
        tokens_seen: number of tokens trained on.
        checkpoint: the `.tprog` that was written.
        stopped: why it ended before its last step, or None.
        input_share: part of the time that was spent waiting for data.
    """

    step: int
    loss: float | None
    held_out_loss: float | None
    best_loss: float | None
    tokens_seen: int
    checkpoint: Path
    stopped: str | None
    input_share: float


@dataclass
class _Course:
    """What changes from step to step outside the jitted state."""

    tokens_seen: int = 0
    best_loss: float | None = None
    held_out_loss: float | None = None
    losses: list[Any] = field(default_factory=list)
    waited: float = 0.0
    refused: UsageError | None = None


def train(run: Run, *, report: Callable[[Report], None] = lambda _: None, say: Say = lambda _: None) -> Finished:
    """Train, from the run directory's last whole checkpoint where there is one.

    All processes of a job call it; process 0 writes the metrics.

    Args:
        run: from `prepare`.
        report: told every `log_interval` steps.
        say: told of a checkpoint that could not be read.

    Raises:
        UsageError: the run directory belongs to another model, or the checkpoints are out of reach. Where only
            the last could not be written, the `.tprog` is.
        VerificationError: a loss was not finite; the last good state was saved.
    """
    settings = run.settings
    directory = settings.directory
    part, parts = batch_part(run.mesh)
    batches = train_batches(
        run.tokens,
        batch_size=settings.data.batch_size,
        sequence_length=settings.data.sequence_length,
        seed=settings.data.seed,
        process_index=part,
        process_count=parts,
        vocab_size=run.config.vocab_size,
    )
    try:
        evaluate = _evaluator(run) if settings.output.eval_interval else None
        checkpoints = open_run(run, say)
        try:
            start = open_start(directory)
            memory = load_memory(run, start, say)
            state, place = resume(run, checkpoints, batches, say)
            course = _Course(tokens_seen=place["tokens_seen"], best_loss=place["best_loss"])
            with (
                jax.set_mesh(run.mesh),
                MetricsLog(directory if is_first() else None, since=int(state.step)) as log,
            ):
                state, stopped = _steps(run, state, memory, course, batches, checkpoints, evaluate, log, report)
        except BaseException:
            with suppress(UsageError):  # what went wrong first is told
                checkpoints.close()
            raise
        with _put_off(course):
            checkpoints.close()
    finally:
        batches.close()
    place = place_of(run, batches, course.tokens_seen, course.best_loss)
    path = save_tprog(directory, settings, start, state, place)
    if is_first():
        plot_loss({settings.model.name: read_metrics(directory)}, directory / "loss.png")
    if stopped == NOT_FINITE:
        raise VerificationError(
            f"step {int(state.step) + 1}",
            expected="a finite loss and gradient",
            got="NaN or infinity",
            remedy=f"The last good state is in {path}: lower the learning rate, or look at the data.",
        )
    if course.refused is not None:
        raise course.refused
    return Finished(
        step=int(state.step),
        loss=float(np.mean([float(loss) for loss in course.losses])) if course.losses else None,
        held_out_loss=course.held_out_loss,
        best_loss=course.best_loss,
        tokens_seen=course.tokens_seen,
        checkpoint=path,
        stopped=stopped,
        input_share=course.waited,
    )


@contextmanager
def _put_off(course: _Course) -> Iterator[None]:
    """Nothing but the `.tprog` is left to be written: it is, before it is told that a checkpoint could not be."""
    try:
        yield
    except UsageError as error:
        course.refused = course.refused or error


def _steps(
    run: Run,
    state: TrainState,
    memory: Memory | None,
    course: _Course,
    batches: TrainBatches,
    checkpoints: RunCheckpoints,
    evaluate: Callable[[Any], float] | None,
    log: MetricsLog,
    report: Callable[[Report], None],
) -> tuple[TrainState, str | None]:
    settings = run.settings
    step_function = compile_train_step(
        run.abstract_state(),
        run.mesh,
        run.config,
        run.optimizer,
        rules=run.rules,
        strength=settings.ewc.lambda_,
        accumulate=settings.training.accumulate,
        dtype=run.dtype,
        remat=settings.training.remat,
    )
    rows = batch_sharding(run.mesh)
    whole = (settings.data.batch_size, settings.data.sequence_length + 1)
    tokens_a_step = settings.data.batch_size * settings.data.sequence_length
    step, last = int(state.step), settings.training.steps
    began, waited, since = time.perf_counter(), 0.0, step
    total_waited, total_began = 0.0, began

    def save(loss: float | None = None) -> None:
        checkpoints.save(step, state, place_of(run, batches, course.tokens_seen, course.best_loss), loss)

    held = () if memory is None else (memory,)
    finite: Any = True
    any_asked = any_process(run.mesh)
    with preemption() as preempted:
        while step < last:
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            windows = jax.make_array_from_process_local_data(rows, batch.tokens, whole)
            state, metrics = step_function(state, windows, *held)
            step += 1
            course.tokens_seen += tokens_a_step
            log_now = step % settings.output.log_interval == 0 or step == last
            eval_now = evaluate is not None and (step % settings.output.eval_interval == 0 or step == last)
            # The step before is asked about, so that this one runs meanwhile; a bad one changed nothing.
            if not finite or (step == last and not metrics["finite"]):
                step = int(state.step)
                course.tokens_seen -= tokens_a_step
                with _put_off(course):
                    save()
                return state, NOT_FINITE
            finite = metrics["finite"]
            course.losses.append(metrics["loss"])
            if eval_now and evaluate is not None:
                course.held_out_loss = evaluate(state.params)
                course.best_loss = min(
                    course.held_out_loss, math.inf if course.best_loss is None else course.best_loss
                )
                log.write(step, {"held_out_loss": course.held_out_loss})
            if log_now:
                loss = float(np.mean([float(value) for value in course.losses]))
                elapsed = time.perf_counter() - began
                speed = (step - since) * tokens_a_step / elapsed
                log.write(
                    step,
                    {
                        "loss": loss,
                        **{name: float(metrics[name]) for name in ("grad_norm", "penalty") if name in metrics},
                        "learning_rate": float(np.asarray(run.schedule(step - 1))),
                        "tokens_seen": course.tokens_seen,
                        "tokens_per_second": speed,
                        "input_share": waited / elapsed,
                    },
                )
                report(
                    Report(
                        step=step, steps=last, loss=loss, tokens_per_second=speed, held_out_loss=course.held_out_loss
                    )
                )
                total_waited += waited
                began, waited, since = time.perf_counter(), 0.0, step
                if step != last:
                    course.losses.clear()
            every = settings.output.checkpoint_interval
            stop = any_asked(bool(preempted()))
            if stop or step == last or (every and step % every == 0):
                with _put_off(course) if stop or step == last else nullcontext():
                    save(course.held_out_loss if eval_now else None)
            if stop and step != last:
                return state, "asked to stop"
    course.waited = total_waited / max(time.perf_counter() - total_began, 1e-9)
    return state, None


def _evaluator(run: Run) -> Callable[[Any], float]:
    """Mean held-out loss over at most `eval_batches` batches, nats a token."""
    settings = run.settings
    part, parts = batch_part(run.mesh)
    batches = eval_batches(
        run.tokens,
        batch_size=settings.data.batch_size,
        sequence_length=settings.data.sequence_length,
        process_index=part,
        process_count=parts,
        vocab_size=run.config.vocab_size,
    )
    step = compile_eval_step(run.mesh, run.config, rules=run.rules, dtype=run.dtype)
    rows = batch_sharding(run.mesh)
    whole, length = settings.data.batch_size, settings.data.sequence_length

    def evaluate(params: Any) -> float:
        nll = tokens = 0.0
        for number, batch in enumerate(batches):
            if number == settings.output.eval_batches:
                break
            windows = jax.make_array_from_process_local_data(rows, batch.tokens, (whole, length + 1))
            weights = jax.make_array_from_process_local_data(rows, batch.weights, (whole, length))
            sums = step(params, windows, weights)
            nll, tokens = nll + float(sums.nll), tokens + float(sums.tokens)
        return nll / tokens

    return evaluate
