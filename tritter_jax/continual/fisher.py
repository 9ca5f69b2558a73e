"""The diagonal of the Fisher information of a model's parameters: a row in `ESTIMATORS` for each way to estimate it.

The Fisher information of a token is the variance of its score, the gradient of log p(label | what lies before it)
under labels that the model itself draws (Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting"; Kunstner et
al. 2019, "Limitations of the empirical Fisher approximation", for what true labels change; van de Ven 2025, "On the
computation of the Fisher information in continual learning", for how the choice shows in results). Scores of drawn
labels are independent and have mean zero, so the square of their sum over a batch has the expectation of the sum of
their squares: one ordinary backward pass a batch gives an unbiased estimate. True labels have neither property, which
is why their scores must be squared sequence by sequence.

Everything here is a sum over tokens of squared gradients; `mean_fisher` divides it once. The unit is per token: with
F so measured, the penalty lambda/2 sum F (theta - theta*)^2 is lambda times the KL divergence per token, to second
order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray
from tprog import UsageError

from tritter_jax.continual.draw import draw_labels
from tritter_jax.continual.likelihood import Labelled, LogitsOf, log_likelihood
from tritter_jax.dtypes import wide_dtype
from tritter_jax.sharding import BATCH_AXES

UNIT = "per token"
"""Of every Fisher information here: a sum over tokens is divided by their number."""

Squares = Callable[[LogitsOf, Any, Labelled, PRNGKeyArray, int, Mesh | None], Any]
"""Sum of the squared gradients of a batch, a tree like the parameters, which are float32 or float64."""


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """A way to estimate the diagonal of the Fisher information.

    Args:
        name: its name on the command line and in progressive.json.
        summary: one line on what it measures.
        squares: what it makes of a batch.
        whole_batch: whether it takes the gradient of a whole batch at once, as a training step does.
        draws: whether it draws labels, and more draws are less noise.
    """

    name: str
    summary: str
    squares: Squares
    whole_batch: bool
    draws: bool = False


def sampled(
    logits_of: LogitsOf, params: Any, batch: Labelled, key: PRNGKeyArray, draws: int, mesh: Mesh | None = None
) -> Any:
    """The squared gradient of the batch's summed log-likelihood under drawn labels, averaged over draws.

    One forward pass, and one backward pass a draw; on a mesh the gradient is summed over the devices before it is
    squared, as it must be here.

    Args:
        logits_of: the model.
        params: its parameters, float32 or float64.
        batch: inputs, and which labels count; the labels themselves are not looked at.
        key: of the draws.
        draws: number of times that all labels are drawn.
        mesh: not needed.

    Returns:
        A tree like `params`: an unbiased estimate of the sum over tokens of their Fisher information.

    Example:
        >>> params, batch = {"w": jnp.zeros((1, 2))}, Labelled(jnp.ones((5, 1)), jnp.zeros(5, int), jnp.ones(5))
        >>> found = sampled(lambda p, x: x @ p["w"], params, batch, jax.random.key(0), 4000)
        >>> (abs(found["w"] - 5 * 0.25) < 0.1).all().item()  # p (1 - p) of each of 5 fair coins
        True
    """
    logits, pull = jax.vjp(lambda tree: logits_of(tree, batch.inputs), params)
    predicted = jax.nn.softmax(logits.astype(wide_dtype(logits.dtype)))
    counts = batch.weights.astype(bool)[..., None]

    def add(total: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        drawn = jax.nn.one_hot(draw_labels(key, predicted), predicted.shape[-1], dtype=predicted.dtype)
        # The gradient of log p(drawn) for the logits.
        (score,) = pull(jnp.where(counts, drawn - predicted, 0).astype(logits.dtype))
        return jax.tree.map(lambda sum_, leaf: sum_ + jnp.square(leaf), total, score), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), jax.random.split(key, draws))
    return jax.tree.map(lambda leaf: leaf / draws, total)


def empirical(
    logits_of: LogitsOf, params: Any, batch: Labelled, key: PRNGKeyArray, draws: int, mesh: Mesh | None = None
) -> Any:
    """The sum over rows of the squared gradient of each row's summed log-likelihood under its true labels.

    A scan over single rows; on a mesh each batch shard takes its own rows, and the squares, never the gradients, are
    summed over the devices.

    Args:
        logits_of: the model.
        params: its parameters, float32 or float64.
        batch: inputs, labels, and which of them count.
        key: not needed.
        draws: not needed.
        mesh: the mesh that the batch is split over, or None.

    Returns:
        A tree like `params`.

    Example:
        >>> params, batch = {"w": jnp.zeros((1, 2))}, Labelled(jnp.ones((5, 1)), jnp.zeros(5, int), jnp.ones(5))
        >>> empirical(lambda p, x: x @ p["w"], params, batch, jax.random.key(0), 1)["w"].tolist()
        [[1.25, 1.25]]
    """
    shards = batch_shards(mesh)
    # Row r lies on shard r // steps, and stays there: [B] -> [steps, shards, 1].
    rows = jax.tree.map(lambda leaf: leaf.reshape(shards, -1, 1, *leaf.shape[1:]).swapaxes(0, 1), batch)

    def square(row: Labelled) -> Any:
        score = jax.grad(lambda tree: log_likelihood(logits_of(tree, row.inputs), row.labels, row.weights))(params)
        return jax.tree.map(jnp.square, score)

    def squares(row: Labelled) -> Any:
        if shards == 1:  # a batch axis of one would cost a tenth more
            return square(jax.tree.map(lambda leaf: leaf[0], row))
        each = _one_a_shard(jax.vmap(square)(_one_a_shard(row, mesh)), mesh)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, 0), each)

    def add(total: Any, row: Labelled) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, squares(row)), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), rows)[0]


def batch_shards(mesh: Mesh | None) -> int:
    """Number of parts that a batch is split into."""
    return 1 if mesh is None else mesh.shape[BATCH_AXES[0]] * mesh.shape[BATCH_AXES[1]]


def _one_a_shard(tree: Any, mesh: Mesh | None) -> Any:
    if mesh is None:
        return tree

    def constrain(leaf: Array) -> Array:
        rest = (PartitionSpec.UNCONSTRAINED,) * (leaf.ndim - 1)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(BATCH_AXES, *rest)))

    return jax.tree.map(constrain, tree)


ESTIMATORS: dict[str, Estimator] = {
    row.name: row
    for row in (
        Estimator(
            name="sampled",
            summary="labels drawn from the model, the batch's summed gradient squared: unbiased for the true Fisher",
            squares=sampled,
            whole_batch=True,
            draws=True,
        ),
        Estimator(
            name="empirical",
            summary="true labels, each sequence's gradient squared by itself",
            squares=empirical,
            whole_batch=False,
        ),
    )
}
"""Every estimator by name; the first is the default."""


def require_draws(estimator: Estimator, draws: int) -> None:
    """Refuse a number of draws that an estimator would pass over.

    Raises:
        UsageError: it draws no labels.
    """
    if draws > 1 and not estimator.draws:
        drawing = " or ".join(row.name for row in ESTIMATORS.values() if row.draws)
        raise UsageError(
            "draws", expected=f"1 with the estimator {estimator.name}, which draws no labels", got=draws,
            remedy=f"Leave it out, or choose the estimator {drawing}.",
        )  # fmt: skip
