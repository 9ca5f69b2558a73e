"""When to grow: what `tritter recommend --when` predicts, and what is found by growing at many moments.

    python -m examples.when_to_grow [--steps N] [--moments N] [--seeds N] [--out FILE]

A small model is trained on built-in text. Its loss history, cut at several moments, gives predictions of the step
from which growing wins. Then it is grown at many moments, and both ways are given the same FLOPs from there, a share
(`--more`) of those before: growing won where the grown model's held-out loss is lower.
"""

import argparse
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tprog import ModelConfig, TritterError, count_parameters

from tritter_jax.analysis import fit_power_law, growth_point, loss_history
from tritter_jax.data import TokenFile, byte_tokenizer, eval_batches, open_corpus, tokenize, train_batches
from tritter_jax.growth import grow, grow_optimizer, make_plan
from tritter_jax.model import init_params
from tritter_jax.train.config import OptimizerSection
from tritter_jax.train.optimizer import make_optimizer
from tritter_jax.train.state import TrainState, new_state
from tritter_jax.train.step import token_nll, train_step

SMALL = ModelConfig(
    family="llama",
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
    vocab_size=320,  # bytes and the special tokens
    max_position_embeddings=128,
)
LARGE = replace(SMALL, hidden_size=48, num_layers=4, num_heads=6, num_kv_heads=3, head_dim=8, intermediate_size=128)
BATCH, LENGTH, RATE, WARMUP = 8, 128, 4e-3, 20
Curve = list[dict[str, Any]]


@dataclass(frozen=True)
class Moment:
    """One growth: the step, and the held-out losses after equal FLOPs."""

    step: int
    grown: float
    going_on: float


class Comparison:
    """One seed: a run of the small model, and branches that grow.

    Args:
        tokens: the corpus.
        seed: of weights and the order of the data.
        more: FLOPs that both ways are given after the growth, as a share of those before.
    """

    def __init__(self, tokens: TokenFile, seed: int, more: float) -> None:
        self.tokens, self.seed, self.more = tokens, seed, more
        held_out = eval_batches(tokens, batch_size=32, sequence_length=LENGTH)
        every = max(1, len(held_out) // 12)
        self._held_out = [batch for number, batch in enumerate(held_out) if number % every == 0]

    def run(self, steps: int, moments: int) -> tuple[Curve, list[Moment]]:
        """Train the small model; grow it at moments that are evenly spread over the logarithm of the steps."""
        factor = count_parameters(LARGE) / count_parameters(SMALL)
        at = sorted({int(step) for step in np.geomspace(steps / 30, steps / (1 + self.more), moments)})
        after = {step: step + round(step * self.more) for step in at}
        state = new_state(init_params(SMALL, seed=self.seed), _optimizer(SMALL), self.seed)
        curve, kept, losses = [], {}, {}
        done = 0
        for stop in sorted({*at, *after.values(), *range(steps // 60, steps + 1, steps // 60)}):
            state, loss = self._advance(SMALL, state, done, stop)
            done, held_out = stop, self._loss(SMALL, state)
            losses[stop] = held_out
            curve.append({"step": stop, "loss": loss, "tokens_seen": stop * BATCH * LENGTH, "learning_rate": RATE})
            curve.append({"step": stop, "held_out_loss": held_out})
            if stop in after:
                kept[stop] = state
        found = []
        plan = make_plan(SMALL, LARGE, seed=self.seed)
        for step, before in kept.items():
            opt_state = grow_optimizer(before.opt_state, plan, _optimizer(SMALL))
            larger = before._replace(params=grow(before.params, plan), opt_state=opt_state)
            larger, _ = self._advance(LARGE, larger, step, step + round(step * self.more / factor))
            found.append(Moment(step, self._loss(LARGE, larger), losses[after[step]]))
        return curve, found

    def _advance(self, config: ModelConfig, state: TrainState, first: int, last: int) -> tuple[TrainState, float]:
        batches = train_batches(self.tokens, batch_size=BATCH, sequence_length=LENGTH, seed=self.seed)
        batches.set_state(batches.get_state() | {"rows": first * BATCH})
        losses = []
        for _ in range(first, last):
            state, metrics = _step(config)(state, next(batches).tokens)
            losses.append(metrics["loss"])
        batches.close()
        return state, float(np.mean([float(loss) for loss in losses]))

    def _loss(self, config: ModelConfig, state: TrainState) -> float:
        nll = tokens = 0.0
        for batch in self._held_out:
            sums = _evaluation(config)(state.params, batch.tokens, batch.weights)
            nll, tokens = nll + float(sums.nll), tokens + float(sums.tokens)
        return nll / tokens


def _optimizer(config: ModelConfig) -> Any:
    return make_optimizer(
        OptimizerSection(), lambda count: RATE * jax.numpy.minimum(1.0, (count + 1) / WARMUP), config
    )


@lru_cache
def _step(config: ModelConfig) -> Any:
    return jax.jit(lambda state, windows: train_step(state, windows, config=config, optimizer=_optimizer(config)))


@lru_cache
def _evaluation(config: ModelConfig) -> Any:
    return jax.jit(lambda params, windows, weights: token_nll(params, windows, config, weights=weights))


def crossing(moments: list[Moment]) -> float | None:
    """The step from which growing wins to the end; None where it does not win at the last moment.

    Between two moments it is interpolated in the logarithm of the step.
    """
    ahead = [moment.going_on - moment.grown for moment in moments]
    if ahead[-1] <= 0:
        return None
    last = max((i for i, value in enumerate(ahead) if value <= 0), default=-1)
    if last < 0:
        return float(moments[0].step)
    share = ahead[last] / (ahead[last] - ahead[last + 1])
    ends = np.log([moments[last].step, moments[last + 1].step])
    return float(np.exp(ends[0] + share * (ends[1] - ends[0])))


def predictions(curve: Curve, steps: int) -> list[dict[str, Any]]:
    """What the history says when it is cut after a fourth, a half, and all of the run."""
    factor = count_parameters(LARGE) / count_parameters(SMALL)
    found = []
    for share in (0.25, 0.5, 1.0):
        history = loss_history([line for line in curve if line["step"] <= share * steps])
        law = fit_power_law(history.tokens, history.losses)
        point = growth_point(law, count_parameters(SMALL), factor, tokens_seen=history.tokens_seen)
        low, best, high = (history.step_at(tokens) for tokens in (point.low, point.tokens, point.high))
        found.append({"known": history.step, "exponent": law.exponent, "low": low, "best": best, "high": high})
    return found


def main(arguments: list[str] | None = None) -> None:
    """Train, predict, grow, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1800, help="steps of the small model")
    parser.add_argument("--moments", type=int, default=8, help="growths to try")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--more", type=float, default=0.5, help="FLOPs after growing, as a share of those before")
    parser.add_argument("--data", default="builtin:code")
    parser.add_argument("--out", type=Path, help="write the findings as JSON")
    options = parser.parse_args(arguments)
    factor = count_parameters(LARGE) / count_parameters(SMALL)
    print(f"{count_parameters(SMALL):,} parameters, grown {factor:.2f} times; {BATCH * LENGTH:,} tokens a step")
    try:
        tokens = tokenize(open_corpus(options.data), byte_tokenizer())
    except TritterError as error:
        raise SystemExit(str(error)) from None
    findings = []
    for seed in range(options.seeds):
        curve, moments = Comparison(tokens, seed, options.more).run(options.steps, options.moments)
        print(f"\nseed {seed}\n  grown at step   held-out loss, grown   going on   growing is ahead by")
        for moment in moments:
            ahead = moment.going_on - moment.grown
            print(f"  {moment.step:13,}   {moment.grown:20.4f}   {moment.going_on:8.4f}   {ahead:+.4f}")
        found = crossing(moments)
        print("  found: growing wins from step", "beyond the run" if found is None else f"{found:,.0f}", "on")
        said = predictions(curve, options.steps)
        for line in said:
            print(
                f"  predicted at step {line['known']:,}: {line['best']:,} (90 %: {line['low']:,} to {line['high']:,})"
            )
        findings.append({"seed": seed, "moments": [vars(m) for m in moments], "found": found, "predicted": said})
    if options.out is not None:
        options.out.write_text(json.dumps(findings, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
