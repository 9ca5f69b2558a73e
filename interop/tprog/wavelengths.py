"""Wavelengths of the rotary position embedding; the stretchings follow transformers' `modeling_rope_utils`."""

import math

import numpy as np
from jaxtyping import Float

from tprog.config import ModelConfig


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
