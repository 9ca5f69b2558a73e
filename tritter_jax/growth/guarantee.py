"""What a growth promises, and how far the promise can be held in each dtype."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tprog import ModelConfig
from tprog.params import Axis

from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.depth import DepthStrategy
from tritter_jax.growth.noise import Noise
from tritter_jax.growth.ternary import obstacle

TOLERANCE = {"float64": 1e-12, "float32": 1e-4, "float16": 5e-2, "bfloat16": 2e-1}
"""Largest difference of the logits, over the largest logit, that a growth called exact may show.

In the two narrow dtypes nearly all of it is the rounding of every rescaled weight, of the same order as what a growth
that ignores RMSNorm costs: SmolLM2-135M in bfloat16 shows 3e-2. There the growth is held to float32's tolerance
before it is rounded, which finds a wrong one; of the stored result `KL` and `AGREEMENT` say what rounding costs."""

KL = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest mean divergence of the predictions, in nats a token. SmolLM2-135M grown in bfloat16 shows 1e-3 at most."""

AGREEMENT = {"float64": 0.9, "float32": 0.9, "float16": 0.75, "bfloat16": 0.75}
"""Least share of positions at which the most likely token is the same. What rounding changes are near ties, which a
model with nearly flat predictions has everywhere."""

TERNARY_TOLERANCE = {"float64": 1e-12, "float32": 5e-2, "float16": 1e-1, "bfloat16": 2e-1}
"""The same where a ternary model is widened. Its activations round to 256 levels, and one that lies in the middle of
two may fall to the other: in float32 one in a few hundred thousand does. Such a growth is held to float32's tolerance
in float64, where none does."""

TERNARY_KL = KL | {"float32": 1e-2}
TERNARY_AGREEMENT = AGREEMENT | {"float32": 0.75}


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What a plan preserves.

    Args:
        exact: the grown model computes the same function, up to rounding.
        reason: why, in one sentence.
        gradients: whether gradients, and with them optimizer moments, map exactly, and what does not.
        gradients_exact: whether `map_gradients` gives them wherever `AxisMap.mapped` says so.
        dtype: the dtype the result is stored in.
        tolerance: largest relative difference of the logits that is still called exact in that dtype.
        kl: largest mean KL divergence of the predictions, nats a token, likewise.
        agreement: least share of positions with the same most likely token, likewise.
    """

    exact: bool
    reason: str
    gradients: str
    gradients_exact: bool
    dtype: str
    tolerance: float
    kl: float
    agreement: float

    def as_json(self) -> dict[str, Any]:
        """The guarantee as progressive.json records it."""
        return asdict(self)


def guarantee(
    source: ModelConfig,
    target: ModelConfig,
    depth: DepthStrategy,
    maps: Mapping[Axis, AxisMap],
    noise: Noise | None = None,
) -> Guarantee:
    """The guarantee of a plan with these maps."""
    deeper = target.num_layers > source.num_layers
    silent = depth.preserves.function
    stands_against = obstacle(source, target, {(axis.name, axis.role): along for axis, along in maps.items()})
    exact = (silent or not deeper) and not (noise and noise.everywhere) and stands_against is None
    reasons: list[str] = []
    tolerance, kl, agreement = TOLERANCE, KL, AGREEMENT
    if deeper:
        reasons.append(f"new layers {'add zero to' if silent else 'change'} the residual stream")
    if target.hidden_size > source.hidden_size:
        reasons.append("the mean square that RMSNorm sees is unchanged")
    if target.num_heads > source.num_heads or target.intermediate_size > source.intermediate_size:
        reasons.append("what the copies of a head or unit pass on sums to what the one did")
    if target.vocab_size > source.vocab_size:
        reasons.append("the logits of the old tokens are unchanged")
    if stands_against is not None:
        reasons = [f"{stands_against.where} has {stands_against.got}"]
    elif source.ternary and any(axis.role == "write" for axis in maps):
        reasons.append("ternary codes are kept, and their scales are what the norms need")
        tolerance, kl, agreement = TERNARY_TOLERANCE, TERNARY_KL, TERNARY_AGREEMENT
    if noise:
        place = "on every new entry" if noise.everywhere else "where it changes nothing"
        reasons.append(f"noise of {noise.decibels:g} dB lies {place}")
    told = _gradient_obstacle(exact, maps, noise)
    return Guarantee(
        exact=exact,
        reason="; ".join(reasons),
        gradients=told or _gradients(maps),
        gradients_exact=told is None,
        dtype=target.dtype,
        tolerance=tolerance[target.dtype],
        kl=kl[target.dtype],
        agreement=agreement[target.dtype],
    )


def _gradient_obstacle(exact: bool, maps: Mapping[Axis, AxisMap], noise: Noise | None) -> str | None:
    """What keeps every gradient from being a mapped old one; None where nothing does."""
    if not exact:
        return "none is the old one: another function has other gradients"
    if Axis("vocab") in maps:
        return "none is quite the old one: the new tokens take part in the softmax"
    if noise and any(axis.name != "layers" for axis in maps):
        return "none is quite the old one: the copies hear differently through the noise"
    return None


def _gradients(maps: Mapping[Axis, AxisMap]) -> str:
    kv = maps.get(Axis("kv_heads", "copy"))
    if kv is None or all(kv.mapped):
        return "every old parameter's gradient is its mapped old gradient"
    return "as mapped, but for key and value, whose copies hear from regrouped queries (mean shares used)"


def of_steps(steps: Sequence[Guarantee]) -> Guarantee:
    """The guarantee of growths done one after the other: what all of them keep, to the widest tolerance."""
    told = [step.gradients for step in steps]
    worst = next((text for step, text in zip(steps, told, strict=True) if not step.gradients_exact), None)
    return Guarantee(
        exact=all(step.exact for step in steps),
        reason="; then ".join(step.reason for step in steps),
        gradients=worst or next((text for text in told if not text.startswith("every")), told[-1]),
        gradients_exact=all(step.gradients_exact for step in steps),
        dtype=steps[-1].dtype,
        tolerance=max(step.tolerance for step in steps),
        kl=max(step.kl for step in steps),
        agreement=min(step.agreement for step in steps),
    )
