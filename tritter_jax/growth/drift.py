"""How far the function of a grown model has moved: both models on the same tokens."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tprog import ModelConfig, VerificationError

from tritter_jax.growth.guarantee import Guarantee


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The difference two models were seen to have.

    Args:
        max_relative: largest absolute difference of the logits, over the largest absolute logit of the source.
        tokens: number of positions compared.
        compute_dtype: dtype the logits were computed in, from weights as they are stored.
    """

    max_relative: float
    tokens: int
    compute_dtype: str

    def as_json(self) -> dict[str, Any]:
        """The drift as progressive.json records it."""
        return {"max_relative": self.max_relative, "tokens": self.tokens, "compute_dtype": self.compute_dtype}

    def check(self, guarantee: Guarantee, where: object) -> None:
        """Hold the drift against what a plan promised.

        Raises:
            VerificationError: the plan is exact and the drift is beyond its tolerance, or is no number.
        """
        if guarantee.exact and not self.max_relative <= guarantee.tolerance:
            raise VerificationError(
                where,
                expected=f"logits equal to the source's within {guarantee.tolerance:.0e} ({guarantee.dtype})",
                got=f"a largest relative difference of {self.max_relative:.2e}",
                remedy="Nothing was written. Check the source for extreme or non-finite weights (`tritter info`); "
                "--no-verify writes the result all the same.",
            )


def sample_tokens(config: ModelConfig, *, batch: int = 2, length: int = 32, seed: int = 0) -> Int[np.ndarray, "b s"]:
    """Token ids drawn evenly from the vocabulary: every embedding is as likely to be compared."""
    length = min(length, config.max_position_embeddings)
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length), dtype=np.int32)


def precision(dtype: str) -> AbstractContextManager[Any]:
    """A context in which arrays of `dtype` keep their bits: jax narrows float64 unless told not to."""
    return jax.enable_x64(jnp.dtype(dtype) == jnp.float64 or jax.config.read("jax_enable_x64"))


def measure_drift(before: Float[Array | np.ndarray, "b s v"], after: Float[Array | np.ndarray, "b s v"]) -> Drift:
    """Compare the logits of a source and of what it grew into.

    Example:
        >>> import jax.numpy as jnp
        >>> measure_drift(jnp.ones((1, 2, 4)), jnp.full((1, 2, 4), 1.5)).max_relative
        0.5
    """
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return Drift(
        max_relative=float(np.max(np.abs(new - old)) / np.max(np.abs(old))),
        tokens=old.shape[0] * old.shape[1],
        compute_dtype=before.dtype.name,
    )
