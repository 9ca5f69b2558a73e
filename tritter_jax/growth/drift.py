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
        kl: mean KL divergence of the result's predictions from the source's, in nats a token.
        agreement: share of positions at which both have the same most likely token.
        before_rounding: `max_relative` of the grown weights before they were rounded to a narrow dtype; None where
            they were not.
        tokens: number of positions compared.
        compute_dtype: dtype the logits were computed in, from weights as they are stored.
    """

    max_relative: float
    kl: float
    agreement: float
    tokens: int
    compute_dtype: str
    before_rounding: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The drift as progressive.json records it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def check(self, guarantee: Guarantee, where: object) -> None:
        """Hold the drift against what a plan promised.

        Raises:
            VerificationError: the plan is exact and what was measured is beyond what it promised, or is no number.
        """
        if not guarantee.exact:
            return
        exact, stored = TOLERANCE["float32"], f"as stored in {guarantee.dtype}"
        rounded, before = self.max_relative, self.before_rounding
        measured = [
            # First, as it is the growth itself that it judges.
            (before is None or before <= exact, f"{_equal(exact)}, before rounding", _apart(before)),
            (rounded <= guarantee.tolerance, f"{_equal(guarantee.tolerance)}, {stored}", _apart(rounded)),
            (
                self.kl <= guarantee.kl,
                f"a KL divergence of the predictions of at most {guarantee.kl:.0e} nats a token, {stored}",
                f"{self.kl:.2e}",
            ),
            (
                self.agreement >= guarantee.agreement,
                f"the source's most likely token at {guarantee.agreement:.0%} of positions or more, {stored}",
                f"{self.agreement:.0%}",
            ),
        ]
        for held, expected, got in measured:
            if not held:
                raise VerificationError(
                    where,
                    expected=expected,
                    got=got,
                    remedy="Nothing was written. --no-verify writes the result all the same.",
                )


def _equal(tolerance: float) -> str:
    return f"logits equal to the source's within {tolerance:.0e}"


def _apart(difference: float | None) -> str:
    return f"a largest relative difference of {difference or 0:.2e}"


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
        >>> drift = measure_drift(jnp.ones((1, 2, 4)), jnp.full((1, 2, 4), 1.5))
        >>> drift.max_relative, abs(drift.kl) < 1e-12, drift.agreement
        (0.5, True, 1.0)
    """
    old, new = np.asarray(before, np.float64), np.asarray(after[..., : before.shape[-1]], np.float64)
    difference, largest = float(np.max(np.abs(new - old))), float(np.max(np.abs(old)))
    return Drift(
        max_relative=0.0 if difference == 0 else difference / largest if largest else np.inf,
        kl=_divergence(old, new),
        agreement=float(np.mean(old.argmax(-1) == new.argmax(-1))),
        tokens=old.shape[0] * old.shape[1],
        compute_dtype=before.dtype.name,
    )


def _divergence(old: Float[np.ndarray, "b s v"], new: Float[np.ndarray, "b s v"]) -> float:
    p, q = (_log_softmax(logits) for logits in (old, new))
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


def _log_softmax(x: Float[np.ndarray, "b s v"]) -> Float[np.ndarray, "b s v"]:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
