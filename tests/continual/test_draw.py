"""Labels are drawn with their probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tritter_jax.continual.draw import draw_labels

DRAWS = 20_000


def drawn(row: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often each class came."""
    rows = jnp.broadcast_to(jnp.asarray(row), (DRAWS, len(row)))
    return np.bincount(np.asarray(draw_labels(jax.random.key(seed), rows)), minlength=len(row))


@pytest.mark.parametrize("classes", [2, 16, 64, 65, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_frequencies_are_the_probabilities(classes, dtype):
    row = np.random.default_rng(classes).dirichlet(np.full(classes, 0.5)).astype(dtype)
    seen, due = drawn(row), row.astype(np.float64) / row.sum(dtype=np.float64) * DRAWS
    common = due > 5
    seen, due = np.append(seen[common], seen[~common].sum()), np.append(due[common], due[~common].sum())
    kept = due > 5
    assert stats.chisquare(seen[kept], due[kept] * seen[kept].sum() / due[kept].sum()).pvalue > 1e-4
    wrong = np.roll(due[kept], 1)
    assert stats.chisquare(seen[kept], wrong * seen[kept].sum() / wrong.sum()).pvalue < 1e-6  # the control


def test_a_class_without_probability_never_comes():
    row = np.zeros(130, np.float32)
    row[[3, 64, 127]] = 0.2, 0.3, 0.5
    assert np.flatnonzero(drawn(row)).tolist() == [3, 64, 127]


def test_rows_and_tokens_are_independent():
    labels = np.asarray(draw_labels(jax.random.key(0), jnp.full((200, 100, 2), 0.5)))
    by_row, by_token = labels.mean(1), labels.mean(0)
    assert abs(labels.mean() - 0.5) < 0.02
    assert by_row.std() == pytest.approx(0.05, rel=0.3)
    assert by_token.std() == pytest.approx(0.5 / 200**0.5, rel=0.3)
