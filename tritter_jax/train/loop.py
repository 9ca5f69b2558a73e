"""The training loop: batches in, steps, held-out loss, checkpoints; stops cleanly whatever stops it."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from tprog import UsageError, VerificationError

from tritter_jax.continual import Memory
from tritter_jax.data import TrainBatches, train_batches
from tritter_jax.sharding import batch_sharding
from tritter_jax.train.checkpoint import RunCheckpoints
from tritter_jax.train.ewc import load_memory
from tritter_jax.train.held_out import held_out_loss
from tritter_jax.train.interrupt import preemption
from tritter_jax.train.metrics import MetricsLog, plot_loss, read_metrics
from tritter_jax.train.pace import Pace
from tritter_jax.train.processes import any_process, batch_part, is_first
from tritter_jax.train.publish import save_tprog
from tritter_jax.train.resume import Say, open_run, place_of, resume
from tritter_jax.train.setup import Run
from tritter_jax.train.start import open_start
from tritter_jax.train.state import TrainState
from tritter_jax.train.step import compile_all_finite, compile_train_step


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
        signal: the signal that asked for the end, or 0; it went no further, so that the caller decides what follows.
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
    signal: int = 0


@dataclass(kw_only=True)
class _Course:
    """What changes from step to step outside the jitted state."""

    first_step: int
    tokens_before: int
    tokens_a_step: int
    rows_before: int
    rows_a_step: int
    best_loss: float | None
    held_out_loss: float | None = None
    losses: list[Any] = field(default_factory=list)
    refused: UsageError | None = None
    not_finite_at: int | None = None
    stopped: str | None = None
    signal: int = 0

    def tokens_seen(self, step: int) -> int:
        """Tokens trained on in that many steps; those of a step that changed nothing do not count."""
        return self.tokens_before + (step - self.first_step) * self.tokens_a_step

    def place(self, run: Run, batches: TrainBatches, step: int) -> dict[str, Any]:
        """What is saved beside the state of a step; the next batch is the one after it, however many were served."""
        rows = self.rows_before + (step - self.first_step) * self.rows_a_step
        return place_of(run, batches.get_state(rows), self.tokens_seen(step), self.best_loss)


def train(run: Run, *, report: Callable[[Report], None] = lambda _: None, say: Say = lambda _: None) -> Finished:
    """Train, from the run directory's last whole checkpoint where there is one.

    All processes of a job call it; process 0 writes the metrics.

    SIGTERM and Ctrl-C end it after the step at hand, with everything saved. They go no further: a script looks at
    `Finished.signal`, and ends itself where it is not 0, for instance with `sys.exit(128 + done.signal)`.

    Args:
        run: from `prepare`.
        report: told every `log_interval` steps.
        say: told of a checkpoint that could not be read, and of `remarks`.

    Raises:
        UsageError: the run directory belongs to another model, or the checkpoints are out of reach. Where only
            the last could not be written, the `.tprog` is.
        VerificationError: a loss was not finite, and the last good state was saved: without what that batch and
            those behind it would have changed, and with that batch as its next. Or the weights or moments
            themselves are not; then nothing is saved.
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
        held_out = held_out_loss(run) if settings.output.eval_interval else None
        for remark in run.remarks if is_first() else ():
            say(remark)
        checkpoints = open_run(run, say)
        try:
            start = open_start(directory)
            memory = load_memory(run, start, say)
            state, place = resume(run, checkpoints, batches, say)
            course = _Course(
                first_step=int(state.step),
                tokens_before=place["tokens_seen"],
                tokens_a_step=settings.data.batch_size * settings.data.sequence_length,
                rows_before=batches.rows,
                rows_a_step=settings.data.batch_size,
                best_loss=place["best_loss"],
            )
            with (
                jax.set_mesh(run.mesh),
                MetricsLog(directory if is_first() else None, since=course.first_step) as log,
            ):
                loop = _Loop(run, course, batches, checkpoints, log, report)
                state = loop.steps(state, () if memory is None else (memory,), held_out)
                input_share = loop.pace.waited
        except BaseException:
            with suppress(UsageError):  # what went wrong first is told
                checkpoints.close()
            raise
        with _put_off(course):
            checkpoints.close()
    finally:
        batches.close()
    place = course.place(run, batches, int(state.step))
    path = save_tprog(directory, settings, start, state, place)
    if is_first():
        plot_loss({settings.model.name: read_metrics(directory)}, directory / "loss.png")
    if course.not_finite_at is not None:
        raise VerificationError(
            f"step {course.not_finite_at}",
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
        tokens_seen=place["tokens_seen"],
        checkpoint=path,
        stopped=course.stopped,
        signal=course.signal,
        input_share=input_share,
    )


@contextmanager
def _put_off(course: _Course) -> Iterator[None]:
    """Nothing but the `.tprog` is left to be written: it is, before it is told that a checkpoint could not be."""
    try:
        yield
    except UsageError as error:
        course.refused = course.refused or error


@dataclass
class _Loop:
    """The steps of a run, and what is written and told between them."""

    run: Run
    course: _Course
    batches: TrainBatches
    checkpoints: RunCheckpoints
    log: MetricsLog
    report: Callable[[Report], None]
    pace: Pace = field(init=False)
    all_finite: Callable[[Any], Any] = field(init=False)
    saved: int | None = field(init=False)

    def steps(
        self, state: TrainState, memory: tuple[Memory, ...], held_out: Callable[[Any], float] | None
    ) -> TrainState:
        """Take steps until the last, or until something that the course then tells stops them."""
        run, course, output = self.run, self.course, self.run.settings.output
        take_step = compile_train_step(
            run.abstract_state(),
            run.mesh,
            run.config,
            run.optimizer,
            rules=run.rules,
            strength=run.settings.ewc.lambda_,
            accumulate=run.settings.training.accumulate,
            dtype=run.dtype,
            remat=run.settings.training.remat,
        )
        any_asked, rows = any_process(run.mesh), batch_sharding(run.mesh)
        intervals = (output.checkpoint_interval, output.eval_interval, output.log_interval)
        step, last = course.first_step, run.settings.training.steps
        self.saved = step if step in self.checkpoints.steps else None
        finite: Any = True
        self.pace = Pace(course.tokens_a_step, step)
        self.all_finite = compile_all_finite(run.mesh)
        with preemption() as preempted:
            while step < last:
                state, metrics = take_step(state, self._windows(rows), step, *memory)
                due = _is_due(step + 1, output.checkpoint_interval, last)
                # The step before is asked about, so that this one runs meanwhile, but where this one is waited for.
                waited_for = any(_is_due(step + 1, interval, last) for interval in intervals)
                if not finite or (waited_for and not metrics["finite"]):
                    return self._last_good(state)
                finite = metrics["finite"]
                step += 1
                course.losses.append(metrics["loss"])
                loss = None
                if held_out is not None and _is_due(step, output.eval_interval, last):
                    loss = self._held_out(step, held_out(state.params))
                if _is_due(step, output.log_interval, last):
                    self._tell(step, metrics)
                stop = any_asked(bool(preempted()))
                if stop and not finite:
                    return self._last_good(state)
                if stop or due:
                    with _put_off(course) if stop or step == last else nullcontext():
                        self._save(state, loss)
                if stop and step != last:
                    course.stopped, course.signal = "asked to stop", preempted()
                    break
        return state

    def _windows(self, rows: NamedSharding) -> jax.Array:
        data = self.run.settings.data
        with self.pace.waiting():
            batch = next(self.batches)
        whole = (data.batch_size, data.sequence_length + 1)
        return jax.make_array_from_process_local_data(rows, batch.tokens, whole)

    def _save(self, state: TrainState, loss: float | None = None) -> None:
        step = int(state.step)
        if not self.all_finite((state.params, state.opt_state)):
            kept = self.checkpoints.latest
            raise VerificationError(
                f"step {step}",
                expected="finite weights and moments",
                got="NaN or infinity",
                remedy="Nothing of it was saved"
                + ("" if kept is None else f"; the run's last checkpoint is of step {kept}")
                + ". Lower the learning rate, or look at the data.",
            )
        self.checkpoints.save(step, state, self.course.place(self.run, self.batches, step), loss)
        self.saved = step

    def _last_good(self, state: TrainState) -> TrainState:
        """Save what a step that was not finite, and those asked for after it, left as it was."""
        step = int(state.step)
        self.course.not_finite_at = step + 1
        with _put_off(self.course):
            if step != self.saved:  # it would be removed first
                self._save(state)
        return state

    def _held_out(self, step: int, loss: float) -> float | None:
        """Write a held-out loss down; one that is not finite is never the best."""
        if not math.isfinite(loss):
            return None
        best = self.course.best_loss
        self.course.held_out_loss = loss
        self.course.best_loss = loss if best is None else min(loss, best)
        self.log.write(step, {"held_out_loss": loss})
        return loss

    def _tell(self, step: int, metrics: Mapping[str, Any]) -> None:
        course, last = self.course, self.run.settings.training.steps
        loss = float(np.mean([float(value) for value in course.losses]))  # waits for the step
        speed, waited = self.pace.lap(step)
        self.log.write(
            step,
            {
                "loss": loss,
                **{name: float(metrics[name]) for name in ("grad_norm", "penalty") if name in metrics},
                "learning_rate": float(np.asarray(self.run.schedule(step - 1))),
                "tokens_seen": course.tokens_seen(step),
                "tokens_per_second": speed,
                "input_share": waited,
            },
        )
        self.report(
            Report(step=step, steps=last, loss=loss, tokens_per_second=speed, held_out_loss=course.held_out_loss)
        )
        if step != last:
            course.losses.clear()


def _is_due(step: int, interval: int, last: int) -> bool:
    return step == last or (interval > 0 and step % interval == 0)
