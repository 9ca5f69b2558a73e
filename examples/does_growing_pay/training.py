"""Training a variant: small, grown in memory with its optimizer's state, and on, until its FLOPs are spent."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
import optax
from tprog import ModelConfig, count_parameters

from examples.does_growing_pay.flops import flops_a_token
from examples.does_growing_pay.settings import Settings
from examples.does_growing_pay.variants import LARGE, Variant
from tritter_jax.data import TokenFile, TrainBatches, eval_batches, train_batches
from tritter_jax.growth import grow, grow_optimizer, rewarm
from tritter_jax.model import init_params
from tritter_jax.train.optimizer import make_optimizer
from tritter_jax.train.state import TrainState, new_state
from tritter_jax.train.step import token_nll, train_step

Result = dict[str, Any]
"""What is kept of a run, as JSON."""
Tail = Callable[[], optax.GradientTransformation]


@dataclass(frozen=True)
class Course:
    """A run at one moment; nothing in it changes, so that several runs can go on from it.

    Args:
        config: the model as it is now.
        state: parameters and optimizer.
        spent: FLOPs.
        steps: steps taken.
        curve: held-out losses by FLOPs.
    """

    config: ModelConfig
    state: TrainState
    spent: int = 0
    steps: int = 0
    curve: tuple[tuple[int, float], ...] = ()


class Trainer:
    """Trains variants on one corpus; what variants of one seed have in common is trained once.

    Args:
        settings: what all variants have in common.
        tokens: the corpus.
    """

    def __init__(self, settings: Settings, tokens: TokenFile) -> None:
        self.settings, self.tokens = settings, tokens
        self.flops = settings.steps * self.cost(LARGE)
        """What every variant may spend."""
        self._trunks: dict[tuple[ModelConfig, int], list[Course]] = {}
        held_out = eval_batches(tokens, batch_size=32, sequence_length=settings.sequence_length)
        self._held_out = [(batch.tokens, batch.weights) for batch in held_out]

    def cost(self, config: ModelConfig) -> int:
        """FLOPs of a step."""
        settings = self.settings
        tokens = settings.batch_size * settings.sequence_length
        return tokens * flops_a_token(config, settings.sequence_length)

    def run(self, variant: Variant, seed: int) -> Result:
        """One run of one variant."""
        settings, flops = self.settings, variant.flops * self.flops
        plan, growth, tail = variant.plan(seed), None, None
        if plan is None:
            course = self._trunk(variant.first, seed, (1 - settings.decay) * flops)
        else:
            small = self._trunk(variant.first, seed, settings.small_share * flops)
            before = self._loss(small)
            course = replace(small, config=plan.target, state=self.grown(small.state, variant, seed))
            growth = {"steps": small.steps, "flops": small.spent, "before": before, "after": self._loss(course)}
            course = replace(course, curve=(*small.curve, (small.spent, before), (small.spent, growth["after"])))
            if variant.rewarm:
                tail = self._rewarm(variant, seed)
                opt_state = (course.state.opt_state, tail().init(course.state.params))
                course = replace(course, state=course.state._replace(opt_state=opt_state))
        course = self._advance(course, seed, flops, flops, tail)
        loss = self._loss(course, whole=True)
        return {
            "variant": variant.name,
            "seed": seed,
            "loss": loss,
            "flops": course.spent,
            "steps": course.steps,
            "tokens": course.steps * settings.batch_size * settings.sequence_length,
            "parameters": [count_parameters(variant.first), count_parameters(course.config)],
            "growth": growth,
            "curve": [*course.curve, (course.spent, self._loss(course))],
            "settings": fingerprint(settings),
        }

    def grown(self, state: TrainState, variant: Variant, seed: int) -> TrainState:
        """The training state of a variant right after its growth."""
        plan = variant.plan(seed)
        assert plan is not None
        optimizer = _optimizer(self.settings, plan.source, 0.0)
        opt_state = grow_optimizer(state.opt_state, plan, optimizer, strategy=variant.moments)
        return state._replace(params=grow(state.params, plan), opt_state=opt_state)

    def afterwards(self, variant: Variant, seed: int, *, steps: int, every: int) -> list[tuple[int, float]]:
        """Held-out losses right after growing, by tokens since; before it, and at 0 tokens, too.

        The learning rate does not fall. A variant that does not grow goes on as it is.
        """
        course = self._trunk(variant.first, seed, self.settings.small_share * self.flops)
        losses = [(0, self._loss(course))]
        if plan := variant.plan(seed):
            course = replace(course, config=plan.target, state=self.grown(course.state, variant, seed))
        begun, cost = course.steps, self.cost(course.config)
        while True:
            tokens = (course.steps - begun) * self.settings.batch_size * self.settings.sequence_length
            losses.append((tokens, self._loss(course)))
            if course.steps - begun >= steps:
                return losses
            course = self._advance(course, seed, course.spent + every * cost)

    def forget(self) -> None:
        """Drop what was kept for other variants of a seed."""
        self._trunks.clear()

    def _rewarm(self, variant: Variant, seed: int) -> Tail:
        plan, section = variant.plan(seed), self.settings.optimizer
        assert plan is not None
        steps = max(1, round(variant.rewarm * self.settings.steps))
        return partial(rewarm, plan, steps=steps, betas=(section.beta1, section.beta2))

    def _trunk(self, config: ModelConfig, seed: int, until: float) -> Course:
        """A run from its beginning with a learning rate that does not fall yet, from the latest that was kept."""
        kept = self._trunks.setdefault((config, seed), [])
        if not kept:
            optimizer = _optimizer(self.settings, config, 0.0)
            kept.append(Course(config, new_state(init_params(config, seed=seed), optimizer, seed)))
        nearest = max((course for course in kept if course.spent <= until), key=lambda course: course.spent)
        course = self._advance(nearest, seed, until)
        kept.append(course)
        return course

    def _advance(
        self, course: Course, seed: int, until: float, flops: float | None = None, tail: Tail | None = None
    ) -> Course:
        """Train on until that many FLOPs are spent; the learning rate falls towards `flops` where those are given."""
        settings, cost = self.settings, self.cost(course.config)
        first, last = course.steps, course.steps + max(0, round((until - course.spent) / cost))
        program = _program(settings, course.config, tail)
        every = self.flops / settings.points
        batches = self._batches(seed, first)
        for step in range(first, last):
            rate = settings.rate(step, course.spent / flops if flops else 0.0)
            state, metrics = program(course.state, next(batches).tokens, np.float32(rate))
            if not metrics["finite"]:
                raise FloatingPointError(f"the loss is not finite at step {step}")
            spent = course.spent + cost
            turn = spent // every > course.spent // every
            course = replace(course, state=state, spent=spent, steps=step + 1)
            if turn and step + 1 < last:
                course = replace(course, curve=(*course.curve, (spent, self._loss(course))))
        batches.close()
        return course

    def _batches(self, seed: int, steps: int) -> TrainBatches:
        settings = self.settings
        batches = train_batches(
            self.tokens, batch_size=settings.batch_size, sequence_length=settings.sequence_length, seed=seed
        )
        batches.set_state(batches.get_state() | {"rows": steps * settings.batch_size})
        return batches

    def _loss(self, course: Course, *, whole: bool = False) -> float:
        """Held-out nats a token; of every third batch, unless all are wanted."""
        nll = tokens = 0.0
        for windows, weights in self._held_out[:: 1 if whole else 3]:
            sums = _evaluation(course.config)(course.state.params, windows, weights)
            nll, tokens = nll + float(sums.nll), tokens + float(sums.tokens)
        return nll / tokens


def fingerprint(settings: Settings) -> dict[str, Any]:
    """What a result depends on; results of other seeds go together with it."""
    return {name: value for name, value in asdict(settings).items() if name != "seeds"}


def _optimizer(settings: Settings, config: ModelConfig, rate: Any) -> optax.GradientTransformation:
    return make_optimizer(settings.optimizer, lambda count: rate, config)


@lru_cache(maxsize=32)
def _compiled(settings: Settings, config: ModelConfig) -> Any:
    return jax.jit(partial(_step, settings=settings, config=config, tail=None))


def _program(settings: Settings, config: ModelConfig, tail: Tail | None) -> Any:
    """The training step, compiled once a configuration: the learning rate is an argument."""
    if tail is None:
        return _compiled(replace(settings, seeds=()), config)
    return jax.jit(partial(_step, settings=settings, config=config, tail=tail))


def _step(state: TrainState, windows: Any, rate: Any, *, settings: Settings, config: ModelConfig, tail: Any) -> Any:
    optimizer = _optimizer(settings, config, rate)
    if tail is not None:
        optimizer = optax.chain(optimizer, tail())
    return train_step(state, windows, config=config, optimizer=optimizer)


@lru_cache(maxsize=32)
def _evaluation(config: ModelConfig) -> Any:
    return jax.jit(lambda params, windows, weights: token_nll(params, windows, config, weights=weights))
