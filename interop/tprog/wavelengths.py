"""Wavelengths of the rotary position embedding; the stretchings follow transformers' `modeling_rope_utils`."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from tprog.config import ModelConfig, RopeScaling


def inverse_wavelengths(config: ModelConfig) -> Float[np.ndarray, " half"]:
    """Angle per position of each rotated pair, in radians, float64, stretched as `rope_scaling` says."""
    exponent = np.arange(0, config.head_dim, 2) / config.head_dim
    frequency = config.rope_theta**-exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling["factor"]
    # llama3: long wavelengths are stretched by the whole factor, short ones not at all, between them a blend.
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (keep + (1 - keep) / scaling["factor"])


_LLAMA3_LOW, _LLAMA3_HIGH = 1.0, 4.0


def llama3_scaling(factors: np.ndarray, config: ModelConfig) -> RopeScaling | None:
    """Llama 3's stretching that divides the frequency of each pair by these factors; None where there is none.

    Args:
        factors: one for each pair, in float32; GGUF stores nothing else of the stretching.
        config: the model, not yet stretched.

    Example:
        >>> from dataclasses import replace
        >>> from tprog.sizes import named_size
        >>> numbers = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        >>> stretched = replace(named_size("3B"), rope_scaling=RopeScaling.of("llama3", factor=8.0, **numbers))
        >>> factors = inverse_wavelengths(named_size("3B")) / inverse_wavelengths(stretched)
        >>> llama3_scaling(factors.astype(np.float32), named_size("3B")) == stretched.rope_scaling
        True
    """
    plain = inverse_wavelengths(config)
    if factors.shape != plain.shape or not np.isfinite(factors).all() or not (factors >= 1).all():
        return None
    factor = float(factors.max())
    turned, whole = factors == 1, factors == factors.max()
    between = ~turned & ~whole
    if between.any():
        keep = (1 / factors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
        lengths = 2 * math.pi * (_LLAMA3_LOW + keep * (_LLAMA3_HIGH - _LLAMA3_LOW)) / plain[between]
        original = round(float(np.median(lengths)))
    else:
        unstretched = plain[turned].min() if turned.any() else math.inf
        original = math.ceil(2 * math.pi * _LLAMA3_HIGH / unstretched)
    numbers = {"low_freq_factor": _LLAMA3_LOW, "high_freq_factor": _LLAMA3_HIGH}
    scaling = RopeScaling.of("llama3", factor=factor, original_max_position_embeddings=max(original, 1), **numbers)
    again = plain / inverse_wavelengths(replace(config, rope_scaling=scaling))
    return scaling if np.allclose(again, factors, rtol=1e-5, atol=0) else None
