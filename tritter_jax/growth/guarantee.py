"""What a growth promises, and how far the promise can be held in each dtype."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tprog import ModelConfig
from tprog.params import Axis

from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.depth import DepthStrategy

TOLERANCE = {"float64": 1e-12, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
"""Largest difference of the logits, over the largest logit, that a growth called exact may show.

In the two narrow dtypes nearly all of it is the rounding of every rescaled weight, of the same order as what a growth
that ignores RMSNorm costs. There the growth is held to float32's tolerance before it is rounded, as well."""


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What a plan preserves.

    Args:
        exact: the grown model computes the same function, up to rounding.
        reason: why, in one sentence.
        gradients: whether gradients, and with them optimizer moments, map exactly, and what does not.
        dtype: the dtype the result is stored in.
        tolerance: largest relative difference of the logits that is still called exact in that dtype.
    """

    exact: bool
    reason: str
    gradients: str
    dtype: str
    tolerance: float

    def as_json(self) -> dict[str, Any]:
        """The guarantee as progressive.json records it."""
        return {
            "exact": self.exact,
            "reason": self.reason,
            "gradients": self.gradients,
            "dtype": self.dtype,
            "tolerance": self.tolerance,
        }


def guarantee(
    source: ModelConfig, target: ModelConfig, depth: DepthStrategy, maps: Mapping[Axis, AxisMap]
) -> Guarantee:
    """The guarantee of a plan with these maps."""
    reasons = []
    if target.num_layers > source.num_layers:
        reasons.append(
            "new layers add zero to the residual stream" if depth.silent else "new layers change the residual stream"
        )
    if target.hidden_size > source.hidden_size:
        reasons.append("the mean square that RMSNorm sees is unchanged")
    if target.num_heads > source.num_heads or target.intermediate_size > source.intermediate_size:
        reasons.append("what the copies of a head or unit pass on sums to what the one did")
    kv = maps.get(Axis("kv_heads", "copy"))
    if kv is None or all(kv.mapped):
        gradients = "every old parameter's gradient is its mapped old gradient"
    else:
        gradients = "as mapped, but for key and value, whose copies hear from regrouped queries (mean shares used)"
    return Guarantee(
        exact=depth.silent or target.num_layers == source.num_layers,
        reason="; ".join(reasons),
        gradients=gradients,
        dtype=target.dtype,
        tolerance=TOLERANCE[target.dtype],
    )
