"""The paragraph that says why a growth is advised: one sentence or two from each source of evidence."""

from collections.abc import Iterable

from tprog import ModelConfig, count_parameters, size_label
from tprog.schema import LayerAnalysis

from tritter_jax.analysis.growth_point import GrowthPoint
from tritter_jax.analysis.history import History
from tritter_jax.analysis.machine import BYTES_A_PARAMETER, Memory, training_bytes
from tritter_jax.analysis.power_law import PowerLaw
from tritter_jax.analysis.target import SAFE_FACTOR, factor_between
from tritter_jax.growth import Plan

_LATE = 20.0
"""Tokens a parameter beyond which published gains of growth are small."""
_ROOM = 0.8
"""Share of the memory that may go to parameters and moments."""


def reason(
    *,
    plan: Plan,
    analysis: LayerAnalysis | None,
    history: History | None,
    law: PowerLaw | None,
    point: GrowthPoint,
    tokens_seen: float | None,
    memory: Memory,
    tokens_a_parameter: float,
) -> str:
    """The paragraph; arguments as in `tritter_jax.analysis.recommend`."""
    sentences = [
        *_size(plan),
        *_layers(plan, analysis),
        *_loss(history, law),
        *_tokens(plan, tokens_seen, tokens_a_parameter),
        *_when(history, point, tokens_seen),
        *_machine(plan.target, memory),
    ]
    return " ".join(sentences)


def amount(number: float) -> str:
    """A count to three figures.

    Example:
        >>> amount(2_124_812_800), amount(512), amount(67_400)
        ('2.12 B', '512', '67.4 k')
    """
    for unit, suffix in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{suffix}"
    return f"{number:.3g}"


def _size(plan: Plan) -> Iterable[str]:
    before, after = plan.source, plan.target
    factor = factor_between(before, after)
    yield (
        f"{size_label(before)} ({amount(count_parameters(before))} parameters, {_shape(before)}) can grow to "
        f"{size_label(after)} ({amount(count_parameters(after))}, {_shape(after)}), {factor:.2f} times the "
        f"parameters; the function is {'exactly kept' if plan.guarantee.exact else 'not kept'}."
    )
    if factor > SAFE_FACTOR:
        yield f"That is beyond the factor of {SAFE_FACTOR:g} up to which growing at once is published as safe."
    else:
        yield f"That is within the factor of {SAFE_FACTOR:g} that is published as safe."


def _shape(config: ModelConfig) -> str:
    return f"{config.num_layers} layers, hidden {config.hidden_size:,}"


def _layers(plan: Plan, analysis: LayerAnalysis | None) -> Iterable[str]:
    if not plan.new_layers:
        return
    copied = [plan.stack.source[layer] for layer in plan.new_layers]
    if len(set(copied)) == plan.source.num_layers:
        yield "Every layer is copied, so that the order of their importance makes no difference."
        return
    listed = ", ".join(map(str, copied))
    if analysis is None:
        yield (
            f"The new layers copy layers {listed}, evenly spread as in LLaMA Pro: no layer analysis is stored "
            "(`tritter analyze`)."
        )
        return
    yield (
        f"The new layers copy layers {listed}, in each stretch of the stack the one whose absence costs most loss "
        f"(on {analysis.data or 'data not named'}, at step {analysis.steps or 0:,})."
    )
    expendable = analysis.expendable_layers or []
    if expendable and not set(expendable) & set(copied):
        yield f"None of them is among those that are missed least ({', '.join(map(str, expendable))})."


def _loss(history: History | None, law: PowerLaw | None) -> Iterable[str]:
    if history is None or law is None:
        yield "There is no loss history beside it, so that nothing is known of how its loss still falls."
        return
    low, best, high = law.gain(history.tokens_seen)
    now = law.loss(history.tokens_seen)
    state = "still falls" if best > 0.01 * now else "hardly falls any more"
    yield (
        f"The {history.kind} loss {state}: a power law through {law.points} points (exponent {law.exponent:.2f}, "
        f"90 % {_span(law.exponent_interval)}) has it fall by {best:.3f} from {now:.3f} when the tokens double (90 % "
        f"{low:.3f} to {high:.3f})."
    )
    if not history.steady:
        yield "The learning rate fell during those steps, which hastens the fall; take the exponent as too high."


def _tokens(plan: Plan, seen: float | None, optimum: float) -> Iterable[str]:
    before, after = count_parameters(plan.source), count_parameters(plan.target)
    best = f"{optimum:g} tokens a parameter are compute-optimal (Hoffmann et al. 2022)"
    if seen is None:
        yield (
            f"How many tokens it has seen is not recorded; {best}, {amount(optimum * before)} before and "
            f"{amount(optimum * after)} after growing."
        )
        return
    share = seen / before
    per = f"{share:,.0f}" if share >= 100 else f"{share:.3g}"
    yield (
        f"It has seen {amount(seen)} tokens, {per} a parameter; {best}, {amount(optimum * before)} before and "
        f"{amount(optimum * after)} after growing."
    )
    if share > _LATE:
        yield f"Published gains of growing lie mostly below {_LATE:g}."


def _when(history: History | None, point: GrowthPoint, seen: float | None) -> Iterable[str]:
    basis = "the fit and" if history is not None else "the literature's exponents and"
    interval = f"{amount(point.tokens)} tokens (90 % {amount(point.low)} to {amount(point.high)})"
    if seen is None:
        yield (
            f"By {basis} that number, growing is predicted to win over training on after {interval}, if long "
            "training follows."
        )
        return
    step = "" if history is None else f", step {history.step_at(point.tokens):,}"
    advice = "Grow now" if point.passed >= 0.5 else "Train on first"
    yield (
        f"{advice}: by {basis} that number, growing is predicted to win over training on after {interval}{step}, if "
        f"long training follows; the probability that this point is passed is {_percent(point.passed)}."
    )


def _machine(target: ModelConfig, memory: Memory) -> Iterable[str]:
    needed = training_bytes(target)
    verdict = "it fits"
    if needed > memory.nbytes:
        verdict = "it does not fit, and must be spread over more devices"
    elif needed > _ROOM * memory.nbytes:
        verdict = "it leaves little room for activations"
    yield (
        f"Training it in float32 with AdamW takes {needed / 1e9:.3g} GB ({BYTES_A_PARAMETER} bytes a parameter), "
        f"without activations, and {memory.name} has {memory.nbytes / 1e9:.3g} GB: {verdict}."
    )


def _percent(probability: float) -> str:
    if 0.005 <= probability < 0.995:
        return f"{probability:.0%}"
    return "above 99%" if probability > 0.5 else "below 1%"


def _span(interval: tuple[float, float, float]) -> str:
    return f"{interval[0]:.2f} to {interval[2]:.2f}"
