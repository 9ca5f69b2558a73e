"""Optimizers and learning-rate schedules: a row in `OPTIMIZERS` or `SCHEDULES` and one small function each."""

from collections.abc import Callable
from typing import Any

import optax
from tprog import ModelConfig, ParamSpec, UsageError, param_specs
from tprog.tree import nest

from tritter_jax.continual import FORMS, Chain
from tritter_jax.train.config import EwcSection, OptimizerSection, ScheduleSection

NO_PENALTY = EwcSection()


def decayed(config: ModelConfig) -> dict[str, Any]:
    """Which parameters weight decay applies to: matrices, not gains and biases."""
    return nest({spec.path: spec.initializer == "normal" for spec in param_specs(config)})


def _adamw(section: OptimizerSection, rate: optax.Schedule, config: ModelConfig) -> optax.GradientTransformation:
    return optax.adamw(
        rate, section.beta1, section.beta2, section.eps, weight_decay=section.weight_decay, mask=decayed(config)
    )


def _lion(section: OptimizerSection, rate: optax.Schedule, config: ModelConfig) -> optax.GradientTransformation:
    return optax.lion(rate, section.beta1, section.beta2, weight_decay=section.weight_decay, mask=decayed(config))


def _muon(section: OptimizerSection, rate: optax.Schedule, config: ModelConfig) -> optax.GradientTransformation:
    """Momentum orthogonalised for the layers' matrices; AdamW for embeddings, output layer, gains and biases."""
    matrices = nest({spec.path: _matrix_axes(spec) for spec in param_specs(config)})
    return optax.contrib.muon(
        rate,
        beta=section.beta2,
        weight_decay=section.weight_decay,
        weight_decay_mask=decayed(config),
        adam_b1=section.beta1,
        adam_b2=section.beta2,
        adam_weight_decay=section.weight_decay,
        # optax maps over its own states with a placeholder in the parameters' place, which must come back as it is.
        muon_weight_dimension_numbers=lambda params: matrices if isinstance(params, dict) else params,
    )


def _matrix_axes(spec: ParamSpec) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of a layer's matrix are summed over and which are its output; None for what is no such matrix."""
    if not spec.stacked or spec.initializer != "normal":
        return None
    axes = range(1, len(spec.axes))
    # A row of the Hugging Face tensor [out, in] tells them apart: its second axis is what is summed over.
    inputs = tuple(axis for axis in axes if spec.axes[axis].name in spec.hf_axes[1])
    return optax.contrib.MuonDimensionNumbers(inputs, tuple(axis for axis in axes if axis not in inputs))


OPTIMIZERS: dict[str, Callable[[OptimizerSection, optax.Schedule, ModelConfig], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "lion": _lion,
    "muon": _muon,
}
"""Every optimizer by name."""


def _warmup_cosine(section: ScheduleSection, peak: float, steps: int) -> optax.Schedule:
    decay = max(steps, section.warmup + 1) if section.decay is None else section.warmup + max(section.decay, 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, section.warmup, decay, peak * section.final)


def _wsd(section: ScheduleSection, peak: float, steps: int) -> optax.Schedule:
    """Warm up, stay, decay over the last tenth (or `decay` steps); Hu et al. 2024, "MiniCPM", section 4."""
    decay = max(1, steps // 10) if section.decay is None else max(1, section.decay)
    stay = max(section.warmup, steps - decay)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, section.warmup) if section.warmup else optax.constant_schedule(peak),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, peak * section.final, decay),
        ],
        [section.warmup, stay],
    )


def _constant(section: ScheduleSection, peak: float, steps: int) -> optax.Schedule:
    # optax takes a warm-up of no steps for one that never ends.
    return (
        optax.warmup_constant_schedule(0.0, peak, section.warmup) if section.warmup else optax.constant_schedule(peak)
    )


SCHEDULES: dict[str, Callable[[ScheduleSection, float, int], optax.Schedule]] = {
    "warmup-cosine": _warmup_cosine,
    "wsd": _wsd,
    "constant": _constant,
}
"""Every schedule by name."""


def make_schedule(section: ScheduleSection, peak: float, steps: int) -> optax.Schedule:
    """The learning rate by step.

    Raises:
        UsageError: there is no schedule of that name.
    """
    return UsageError.choose("schedule.name", section.name, SCHEDULES)(section, peak, steps)


def make_optimizer(
    section: OptimizerSection, schedule: optax.Schedule, config: ModelConfig, ewc: EwcSection = NO_PENALTY
) -> optax.GradientTransformation:
    """The optimizer, with clipping of the global norm before it.

    Args:
        section: which one.
        schedule: learning rate by step.
        config: the model.
        ewc: the penalty for leaving what earlier tasks need; with a lambda above 0, `update` takes `memory`.

    Raises:
        UsageError: there is no optimizer or form of the penalty of that name.
    """
    made = UsageError.choose("optimizer.name", section.name, OPTIMIZERS)(section, schedule, config)
    form = UsageError.choose("ewc.form", ewc.form, FORMS)
    if not ewc.lambda_:
        return optax.chain(optax.clip_by_global_norm(section.clip), made) if section.clip else made
    clip = optax.clip_by_global_norm(section.clip) if section.clip else optax.identity()
    chain = Chain(clip=clip, optimizer=made, rate=schedule, beta2=section.beta2, eps=section.eps)
    return form.join(chain, ewc.lambda_)
