"""Fisher information summed over batches: what is carried, and the jitted step."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from tprog import UsageError

from tritter_jax.continual.fisher import Estimator
from tritter_jax.continual.likelihood import Labelled, LogitsOf
from tritter_jax.dtypes import wide_dtype
from tritter_jax.sharding import replicated


class FisherSum(NamedTuple):
    """What was measured so far; saved and given back, the measuring goes on where it was.

    Args:
        squares: sum over tokens, a tree like the parameters, float32 (float64 where they are).
        tokens: number of labels that counted, int32.
        rows: number of rows with such labels, int32.
        batches: number of batches, int32.
    """

    squares: Any
    tokens: Int[Array, ""]
    rows: Int[Array, ""]
    batches: Int[Array, ""]


class Seen(NamedTuple):
    """What a step tells: rows so far, whether the batch was finite, and the relative change of the mean in L1."""

    rows: Int[Array, ""]
    finite: Bool[Array, ""]
    change: Float[Array, ""]


def new_sum(params: Any) -> FisherSum:
    """Nothing measured yet."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, wide_dtype(leaf.dtype)), params)
    return FisherSum(zeros, jnp.int32(0), jnp.int32(0), jnp.int32(0))


def mean_fisher(total: FisherSum) -> Any:
    """The estimate: a tree like the parameters, per token.

    Raises:
        UsageError: no token was seen.
    """
    require_tokens(total)
    return jax.tree.map(lambda leaf: leaf / total.tokens.astype(leaf.dtype), total.squares)


def require_tokens(total: FisherSum) -> FisherSum:
    """The same, where anything was measured.

    Raises:
        UsageError: no token was seen.
    """
    if not int(total.tokens):
        raise UsageError(
            "fisher", expected="at least one token that counts", got="none", remedy="Give data that are not empty.",
        )  # fmt: skip
    return total


Step = Callable[[FisherSum, Any, Labelled, PRNGKeyArray, Int[Array, ""]], tuple[FisherSum, Seen]]


def compile_step(logits_of: LogitsOf, params: Any, row: Estimator, draws: int, mesh: Mesh | None) -> Step:
    """The step: `FisherSum`, parameters, batch, key, rows wanted -> the next `FisherSum` and what was seen.

    The sum is donated. Rows beyond those wanted do not count.
    """
    run = partial(_step, logits_of, row, draws, mesh)
    if mesh is None:
        return jax.jit(run, donate_argnums=0)
    whole = replicated(mesh)
    lies: Any = (jax.tree.map(lambda leaf: leaf.sharding, params), whole, whole, whole)
    return jax.jit(run, donate_argnums=0, out_shardings=(FisherSum(*lies), whole))


def _step(
    logits_of: LogitsOf,
    row: Estimator,
    draws: int,
    mesh: Mesh | None,
    total: FisherSum,
    params: Any,
    batch: Labelled,
    key: PRNGKeyArray,
    samples: Int[Array, ""],
) -> tuple[FisherSum, Seen]:
    counts = jnp.any(batch.weights.reshape(len(batch.weights), -1).astype(bool), axis=1)
    counts &= total.rows + jnp.cumsum(counts, dtype=jnp.int32) <= samples
    mask = batch.weights.astype(bool) & counts.reshape(-1, *(1,) * (batch.weights.ndim - 1))
    # Gradients leave the backward pass in the dtype of what they are taken for: wide, however the model computes.
    wide = jax.tree.map(lambda leaf: leaf.astype(wide_dtype(leaf.dtype)), params)

    def narrow(tree: Any, inputs: Any) -> Any:
        return logits_of(jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), tree, params), inputs)

    squares = row.squares(
        narrow, wide, batch._replace(weights=mask), jax.random.fold_in(key, total.batches), draws, mesh
    )
    after = FisherSum(
        jax.tree.map(jnp.add, total.squares, squares),
        total.tokens + jnp.sum(mask, dtype=jnp.int32),
        total.rows + jnp.sum(counts, dtype=jnp.int32),
        total.batches + 1,
    )
    whole = _sum(after.squares)
    return after, Seen(after.rows, jnp.isfinite(whole), _change(total, after, whole))


def _sum(tree: Any) -> Float[Array, ""]:
    leaves = jax.tree.leaves(tree)
    dtype = wide_dtype(*(leaf.dtype for leaf in leaves))
    return jnp.sum(jnp.stack([jnp.sum(leaf).astype(dtype) for leaf in leaves]))


def _change(before: FisherSum, after: FisherSum, whole: Float[Array, ""]) -> Float[Array, ""]:
    def moved(old: Array, new: Array) -> Array:
        tokens = [jnp.maximum(count, 1).astype(new.dtype) for count in (before.tokens, after.tokens)]
        return jnp.abs(new / tokens[1] - old / tokens[0])

    whole = whole / jnp.maximum(after.tokens, 1).astype(whole.dtype)
    return _sum(jax.tree.map(moved, before.squares, after.squares)) / jnp.where(whole == 0, 1, whole)
