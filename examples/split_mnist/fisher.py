"""The rows of the table: two estimators of the library, and two that are written here for comparison."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from split_mnist.network import task_logits
from tritter_jax.continual import ESTIMATORS, Estimator, Labelled, mean_fisher, new_sum
from tritter_jax.continual.accumulate import Step, compile_step
from tritter_jax.continual.likelihood import LogitsOf, log_likelihood

BATCH = 128
"""Images a batch: of no consequence but for `batched`, and for the noise of `sampled`."""


def exact(
    logits_of: LogitsOf, params: Any, batch: Labelled, key: jax.Array, draws: int, mesh: Mesh | None = None
) -> Any:
    """Sum over images of sum_y p(y) (d log p(y) / d theta)^2: every label, as likely as the model holds it to be."""

    def add(total: Any, image: Labelled) -> tuple[Any, None]:
        logits, pull = jax.vjp(lambda tree: logits_of(tree, image.inputs), params)
        for label in range(logits.shape[-1]):
            chosen = jnp.full_like(image.labels, label)
            (score,) = pull(jax.grad(log_likelihood)(logits, chosen, image.weights))
            p = jax.nn.softmax(logits[0])[label]
            total = jax.tree.map(lambda sum_, leaf, p=p: sum_ + p * jnp.square(leaf), total, score)
        return total, None

    images = jax.tree.map(lambda leaf: leaf[:, None], batch)
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), images)[0]


def batched(
    logits_of: LogitsOf, params: Any, batch: Labelled, key: jax.Array, draws: int, mesh: Mesh | None = None
) -> Any:
    """The square of the batch's mean gradient, which many codes take for the Fisher information, and which is not."""
    count = jnp.maximum(jnp.sum(batch.weights, dtype=jnp.float32), 1)

    def mean(tree: Any) -> jax.Array:
        return log_likelihood(logits_of(tree, batch.inputs), batch.labels, batch.weights) / count

    # `mean_fisher` divides by the number of images.
    return jax.tree.map(lambda leaf: count * jnp.square(leaf), jax.grad(mean)(params))


ROWS: dict[str, Estimator | None] = {
    "none": None,
    "sampled": ESTIMATORS["sampled"],
    "empirical": ESTIMATORS["empirical"],
    "exact": Estimator(name="exact", summary="every label, weighed", squares=exact, whole_batch=False),
    "batched": Estimator(name="batched", summary="wrong", squares=batched, whole_batch=True),
}


def measure(row: str, task: int, params: Any, images: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    """Fisher information of `params` per image, a tree like them.

    Args:
        row: a key of `ROWS` other than "none".
        task: whose outputs are looked at.
        params: the network's parameters.
        images: the task's training images [N, P], bytes.
        labels: 0 or 1 [N].
        seed: of what `sampled` draws.
    """
    step, total = _compiled(row, task, jax.tree.structure(params)), new_sum(params)
    key = jax.random.fold_in(jax.random.key(seed), task)
    for begin in range(0, len(images), BATCH):
        count = min(BATCH, len(images) - begin)
        fill = ((0, BATCH - count),)
        here = slice(begin, begin + count)
        batch = Labelled(
            np.pad(images[here], (*fill, (0, 0))),
            np.pad(labels[here], fill),
            np.pad(np.ones(count, np.float32), fill),
        )
        total, _ = step(total, params, jax.tree.map(jnp.asarray, batch), key, len(images))
    return mean_fisher(total)


@lru_cache
def _compiled(row: str, task: int, structure: Any) -> Step:
    estimator = ROWS[row]
    assert estimator is not None
    return compile_step(lambda params, images: task_logits(params, images, task), None, estimator, 1, None)
