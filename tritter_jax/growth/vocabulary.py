"""Vocabulary: rows for new tokens, drawn around the mean of the old ones.

A new token's logit is then an average one: at the mean, the probabilities of the old tokens change by a factor of at
most 1 + new/old (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"). Their logits do not
change at all.
"""

import numpy as np

from tritter_jax.growth.axis_map import FRESH, Maps, axis_map
from tritter_jax.growth.preserves import Preserves

PRESERVES = Preserves(function=True, gradient="no", moments="no", ternary="yes")
PUBLISHED = "Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models"


def vocabulary_maps(old: int, new: int) -> Maps:
    """The map along the vocabulary from one number of token ids to another; none where it stays.

    Example:
        >>> vocabulary_maps(2, 4)["vocab", "none"].source
        (0, 1, -1, -1)
    """
    if new == old:
        return {}
    ones, known = np.ones(new), np.arange(new) < old
    source = [*range(old)] + [FRESH] * (new - old)
    return {("vocab", "none"): axis_map(source, ones, ones, mapped=known, fill="near_mean")}
