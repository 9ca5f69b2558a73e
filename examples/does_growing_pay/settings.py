"""How long and on what every variant trains; the same for all of them."""

from dataclasses import dataclass

from tritter_jax.train.config import OptimizerSection


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all variants have in common.

    Args:
        seeds: the runs of each variant; a seed is that of weights, order of the data, and growth.
        steps: steps that the large model from scratch takes; what they cost is the FLOPs of every variant.
        batch_size: rows of a batch.
        sequence_length: tokens of a row.
        learning_rate: AdamW's at its peak.
        warmup: steps from 0 to the peak.
        decay: share of the FLOPs, at the end, over which the learning rate falls to 0.
        small_share: share of the FLOPs that is spent before growing.
        points: held-out losses along the way.
    """

    seeds: tuple[int, ...] = (0,)
    steps: int = 60
    batch_size: int = 8
    sequence_length: int = 128
    learning_rate: float = 5e-3
    warmup: int = 20
    decay: float = 0.2
    small_share: float = 0.5
    points: int = 8

    @property
    def optimizer(self) -> OptimizerSection:
        """AdamW, with clipping of the global norm."""
        return OptimizerSection(learning_rate=self.learning_rate)

    def rate(self, step: int, spent: float) -> float:
        """The learning rate: up, level, and down at the end (Hu et al. 2024, "MiniCPM", section 4).

        It goes by FLOPs, so that it is level when models grow and falls for the same FLOPs in all of them.

        Args:
            step: steps taken.
            spent: share of the FLOPs spent, from 0 to 1.
        """
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, (1.0 - spent) / self.decay)


SHORT = Settings()
"""A few minutes: which way things point, at best."""

FULL = Settings(seeds=(0, 1, 2), steps=1120)
"""What the table in the README was made with."""
