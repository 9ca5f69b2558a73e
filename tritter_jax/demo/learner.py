"""One text learned in several ways by the same compiled step, and both texts scored as it goes."""

from typing import Any, NamedTuple

import jax
from tprog import UsageError

from tritter_jax.data import Batch, TokenFile, TrainBatches, eval_batches, train_batches
from tritter_jax.demo.ways import Known, Way
from tritter_jax.sharding import batch_sharding
from tritter_jax.train.setup import Run
from tritter_jax.train.step import compile_eval_step, compile_train_step


class Point(NamedTuple):
    """Held-out losses of both texts after a number of steps, nats a token."""

    step: int
    old: float
    new: float


class Learner:
    """Learns the text of a run, from its first state on: every way begins at the same place with the same batches.

    Args:
        run: prepared, with `ewc.lambda` 1 and the form `proximal`: a way brings its own lambda.
        known: what is known of the old text.
        old: the old text.
        batches: largest number of batches of either text that are scored.

    Raises:
        UsageError: the run is not prepared so.
    """

    def __init__(self, run: Run, known: Known, old: TokenFile, *, batches: int = 16) -> None:
        ewc = run.settings.ewc
        if (ewc.lambda_, ewc.form) != (1, "proximal"):
            raise UsageError(
                "[ewc]", expected="lambda = 1, form = proximal", got=f"lambda = {ewc.lambda_:g}, form = {ewc.form}",
                remedy="A way brings its own lambda.",
            )  # fmt: skip
        self._run, self._known, self._old = run, known, old
        self._step = compile_train_step(
            run.abstract_state(), run.mesh, run.config, run.optimizer, rules=run.rules, dtype=run.dtype, strength=1.0
        )
        self._score = compile_eval_step(run.mesh, run.config, rules=run.rules, dtype=run.dtype)
        self._held_out = [self._spaced(text, batches) for text in (old, run.tokens)]

    def learn(self, way: Way, *, steps: int, every: int) -> list[Point]:
        """Learn the new text.

        Args:
            way: how.
            steps: number of steps.
            every: number of steps between two scorings.

        Returns:
            The losses before the first step, every so many steps, and after the last.
        """
        memory = way.hold(self._known)
        new, old = self._rows(self._run.tokens), self._rows(self._old)
        place, due = batch_sharding(self._run.mesh), 0.0
        try:
            with jax.set_mesh(self._run.mesh):
                state = self._run.first_state()
                first = int(state.step)
                points = [self._point(0, state.params)]
                for step in range(1, steps + 1):
                    tokens = next(new).tokens
                    due += way.rehearsal * len(tokens)
                    if rehearsed := int(due):
                        tokens = tokens.copy()
                        tokens[:rehearsed] = next(old).tokens[:rehearsed]
                        due -= rehearsed
                    state, _ = self._step(state, jax.device_put(tokens, place), first + step - 1, memory)
                    if step % every == 0 or step == steps:
                        points.append(self._point(step, state.params))
        finally:
            new.close()
            old.close()
        return points

    def _point(self, step: int, params: Any) -> Point:
        return Point(step, *(self._loss(params, batches) for batches in self._held_out))

    def _loss(self, params: Any, batches: list[Batch]) -> float:
        sums = [self._score(params, *batch) for batch in batches]
        return sum(float(each.nll) for each in sums) / sum(float(each.tokens) for each in sums)

    def _rows(self, text: TokenFile) -> TrainBatches:
        data = self._run.settings.data
        return train_batches(
            text, batch_size=data.batch_size, sequence_length=data.sequence_length, seed=data.seed,
            vocab_size=self._run.config.vocab_size,
        )  # fmt: skip

    def _spaced(self, text: TokenFile, most: int) -> list[Batch]:
        """Batches that lie evenly in the held-out documents."""
        data = self._run.settings.data
        batches = eval_batches(
            text, batch_size=data.batch_size, sequence_length=data.sequence_length,
            vocab_size=self._run.config.vocab_size,
        )  # fmt: skip
        every = max(1, len(batches) // most)
        return [batch for number, batch in enumerate(batches) if number % every == 0][:most]
