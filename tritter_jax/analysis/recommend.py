"""Advice on the next growth, and why."""

from dataclasses import dataclass
from typing import Any

from tprog import ModelConfig, UsageError, count_parameters, size_label
from tprog.schema import Progressive, RecommendedExpansion

from tritter_jax.analysis.growth_point import TOKENS_A_PARAMETER, GrowthPoint, growth_point
from tritter_jax.analysis.history import History
from tritter_jax.analysis.machine import Memory
from tritter_jax.analysis.power_law import PowerLaw, fit_power_law
from tritter_jax.analysis.reason import reason
from tritter_jax.analysis.target import factor_between, layers_to_copy, next_target
from tritter_jax.growth import Plan, make_plan, method_of


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What is advised.

    Args:
        plan: the growth.
        record: what progressive.json says of it; its `reason` is the paragraph.
        law: the loss history's power law, where there is a history.
        point: when growing is predicted to win.
        tokens_seen: tokens that the model has seen; None where nobody knows.
    """

    plan: Plan
    record: RecommendedExpansion
    law: PowerLaw | None
    point: GrowthPoint
    tokens_seen: float | None

    @property
    def grow_now(self) -> bool | None:
        """Whether growing is more likely than not to win already; None where the tokens seen are not known."""
        return None if self.tokens_seen is None else self.point.passed >= 0.5


def advise(
    config: ModelConfig,
    progressive: Progressive,
    memory: Memory,
    *,
    target: ModelConfig | None = None,
    history: History | None = None,
    tokens_a_parameter: float = TOKENS_A_PARAMETER,
    tokens_seen: float | None = None,
) -> Advice:
    """Advise on the next growth of a model.

    Args:
        config: the model as it is.
        progressive: what is known of it.
        memory: what a model can be trained in.
        target: the size wanted; one is chosen where None.
        history: of its loss.
        tokens_a_parameter: at which a model is compute-optimal.
        tokens_seen: tokens that the model has seen, where it is not on record or the record is wrong.

    Raises:
        GrowthError: the model cannot grow to the target, or not at all.
        UsageError: the stored layer analysis is another model's.

    Example:
        >>> import tprog
        >>> advice = advise(tprog.named_size("3B"), Progressive.of(tprog.named_size("3B")), Memory(10**12, "a TPU"))
        >>> advice.record.next_size, advice.record.layer_duplication_indices
        ('7B', [3, 7, 11, 15, 19, 23])
    """
    chosen = next_target(config, memory.nbytes) if target is None else target
    scores = _scores(progressive, config)
    layers = layers_to_copy(config.num_layers, chosen.num_layers - config.num_layers, scores)
    unique = len(set(layers)) == len(layers)
    plan = make_plan(config, chosen, layers=layers if layers and unique else None)
    law = None if history is None else fit_power_law(history.tokens, history.losses)
    progress = progressive.training_progress
    recorded = history.tokens_seen if history else progress.tokens_seen if progress and progress.tokens_seen else None
    seen = recorded if tokens_seen is None else tokens_seen
    point = growth_point(
        law,
        count_parameters(config),
        factor_between(config, chosen),
        tokens_seen=seen or 0.0,
        tokens_a_parameter=tokens_a_parameter,
    )
    paragraph = reason(
        plan=plan,
        analysis=progressive.layer_analysis if scores is not None else None,
        history=history,
        law=law,
        point=point,
        tokens_seen=seen,
        memory=memory,
        tokens_a_parameter=tokens_a_parameter,
    )
    sizes = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
    fields: dict[str, Any] = {f"target_{name}": getattr(chosen, name) for name in sizes}
    copied = [plan.stack.source[layer] for layer in plan.new_layers]
    record = RecommendedExpansion(
        next_size=size_label(chosen),
        method=method_of(plan),
        layer_duplication_indices=copied,
        reason=paragraph,
        **fields,
    )
    return Advice(plan=plan, record=record, law=law, point=point, tokens_seen=seen)


def _scores(progressive: Progressive, config: ModelConfig) -> list[float] | None:
    analysis = progressive.layer_analysis
    scores = None if analysis is None else analysis.importance_scores
    if scores is not None and len(scores) != config.num_layers:
        raise UsageError(
            "layer_analysis", expected=f"{config.num_layers} importance scores, one a layer", got=f"{len(scores)}",
            remedy="Measure them again with `tritter analyze`.",
        )  # fmt: skip
    return scores
