"""How far the function of a grown model has moved: both models on the same tokens."""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tprog import ModelConfig, VerificationError

from tritter_jax.growth.guarantee import TOLERANCE, Guarantee


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The difference two models were seen to have.

    Args:
        max_relative: largest absolute difference of the logits, over the largest absolute logit of the source.
        before_rounding: the same for the grown weights before they were rounded to a narrow dtype; None where they
            were not.
        tokens: number of positions compared.
        compute_dtype: dtype the logits were computed in, from weights as they are stored.
    """

    max_relative: float
    tokens: int
    compute_dtype: str
    before_rounding: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The drift as progressive.json records it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def check(self, guarantee: Guarantee, where: object) -> None:
        """Hold the drift against what a plan promised.

        Raises:
            VerificationError: the plan is exact and the drift is beyond its tolerance, or is no number.
        """
        measured = [(self.max_relative, guarantee.tolerance, f"as stored in {guarantee.dtype}")]
        if self.before_rounding is not None:
            measured.insert(0, (self.before_rounding, TOLERANCE["float32"], "before rounding"))
        for difference, tolerance, which in measured:
            if guarantee.exact and not difference <= tolerance:
                raise VerificationError(
                    where,
                    expected=f"logits equal to the source's within {tolerance:.0e}, {which}",
                    got=f"a largest relative difference of {difference:.2e}",
                    remedy="Nothing was written. --no-verify writes the result all the same.",
                )


NARROW = ("bfloat16", "float16")
"""Dtypes whose rounding would hide a wrong growth: it is checked before rounding as well."""


def require_finite(logits: Float[np.ndarray, "b s v"], where: object) -> None:
    """Refuse a source whose own logits are no numbers.

    Raises:
        VerificationError: there is nothing to compare with.
    """
    if not np.isfinite(logits).all():
        raise VerificationError(
            where,
            expected="finite logits of the source",
            got="NaN or infinity",
            remedy="`tritter verify` names weights that are not finite; if there are none, pass --no-verify.",
        )


def sample_tokens(config: ModelConfig, *, batch: int = 2, length: int = 8, seed: int = 0) -> Int[np.ndarray, "b s"]:
    """Token ids drawn evenly from the vocabulary: every embedding is as likely to be compared."""
    length = min(length, config.max_position_embeddings)
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length), dtype=np.int32)


def precision(dtype: str) -> AbstractContextManager[Any]:
    """A context in which arrays of `dtype` keep their bits: jax narrows float64 unless told not to."""
    return jax.enable_x64(jnp.dtype(dtype) == jnp.float64 or jax.config.read("jax_enable_x64"))


def measure_drift(before: Float[Array | np.ndarray, "b s v"], after: Float[Array | np.ndarray, "b s w"]) -> Drift:
    """Compare the logits of a source and of what it grew into; those of new tokens are left out.

    Example:
        >>> import jax.numpy as jnp
        >>> measure_drift(jnp.ones((1, 2, 4)), jnp.full((1, 2, 4), 1.5)).max_relative
        0.5
    """
    old, new = np.asarray(before, np.float64), np.asarray(after[..., : before.shape[-1]], np.float64)
    difference, largest = float(np.max(np.abs(new - old))), float(np.max(np.abs(old)))
    return Drift(
        max_relative=0.0 if difference == 0 else difference / largest if largest else np.inf,
        tokens=old.shape[0] * old.shape[1],
        compute_dtype=before.dtype.name,
    )
