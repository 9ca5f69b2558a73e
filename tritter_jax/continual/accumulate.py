"""Fisher information summed over batches: what is carried, and the jitted step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32
from tprog import UsageError

from tritter_jax.continual.fisher import Estimator
from tritter_jax.continual.likelihood import Labelled, LogitsOf
from tritter_jax.dtypes import wide_dtype
from tritter_jax.sharding import replicated


class FisherSum(NamedTuple):
    """What was measured so far; saved and given back, the measuring goes on where it was.

    The counts are whole numbers of the host, which never overflow: 2^31 tokens are hours of measuring.

    Args:
        squares: sum over tokens, a tree like the parameters, float32 (float64 where they are).
        tokens: number of labels that counted.
        rows: number of rows with such labels.
        batches: number of batches.
    """

    squares: Any
    tokens: int
    rows: int
    batches: int


class Seen(NamedTuple):
    """What a step tells: labels and rows of its batch that counted, whether the sums are finite, and the relative
    change of their mean in L1."""

    tokens: Int[Array, ""]
    rows: Int[Array, ""]
    finite: Bool[Array, ""]
    change: Float[Array, ""]


def new_sum(params: Any) -> FisherSum:
    """Nothing measured yet."""
    return FisherSum(jax.tree.map(lambda leaf: jnp.zeros_like(leaf, wide_dtype(leaf.dtype)), params), 0, 0, 0)


def mean_fisher(total: FisherSum) -> Any:
    """The estimate: a tree like the parameters, per token.

    Raises:
        UsageError: no token was seen.
    """
    require_tokens(total)
    return jax.tree.map(lambda leaf: leaf / jnp.asarray(float(total.tokens), leaf.dtype), total.squares)


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


Program = Callable[..., Any]
"""The jitted part of a step: squares, tokens so far, batch number, rows still wanted, parameters, batch, key."""


@dataclass(frozen=True)
class Step:
    """A step of the measuring: it adds a batch to what was measured.

    Args:
        program: what is jitted; it counts within one batch only.
    """

    program: Program

    def __call__(
        self, total: FisherSum, params: Any, batch: Labelled, key: PRNGKeyArray, samples: int | None
    ) -> tuple[FisherSum, Seen]:
        """The next `FisherSum`, whose squares take the place of the old ones, and what was seen.

        Rows beyond the number wanted, `samples`, do not count; all do where it is None.
        """
        tokens, rows, batches = int(total.tokens), int(total.rows), int(total.batches)
        squares, seen = self.program(total.squares, *_numbers(tokens, batches, rows, samples), params, batch, key)
        return FisherSum(squares, tokens + int(seen.tokens), rows + int(seen.rows), batches + 1), seen


def abstract_numbers() -> tuple[Any, ...]:
    """Shapes and dtypes of the numbers that the program takes after the squares."""
    return tuple(jax.ShapeDtypeStruct((), number.dtype) for number in _numbers(0, 0, 0, None))


def _numbers(tokens: int, batches: int, rows: int, samples: int | None) -> tuple[np.generic, ...]:
    most = np.iinfo(np.int32).max  # no batch has as many rows
    wanted = most if samples is None else min(most, max(0, int(samples) - rows))
    return np.float32(tokens), np.uint32(batches % (1 << 32)), np.int32(wanted)


def compile_step(logits_of: LogitsOf, params: Any, row: Estimator, draws: int, mesh: Mesh | None) -> Step:
    """The jitted step; `params` say how the squares lie on the mesh."""
    run = partial(_step, logits_of, row, draws, mesh)
    if mesh is None:
        return Step(jax.jit(run, donate_argnums=0))
    lies = jax.tree.map(lambda leaf: leaf.sharding, params)
    return Step(jax.jit(run, donate_argnums=0, out_shardings=(lies, replicated(mesh))))


def _step(
    logits_of: LogitsOf,
    row: Estimator,
    draws: int,
    mesh: Mesh | None,
    total: Any,
    tokens: Float[Array, ""],
    number: UInt32[Array, ""],
    wanted: Int[Array, ""],
    params: Any,
    batch: Labelled,
    key: PRNGKeyArray,
) -> tuple[Any, Seen]:
    counts = jnp.any(batch.weights.reshape(len(batch.weights), -1).astype(bool), axis=1)
    counts &= jnp.cumsum(counts, dtype=jnp.int32) <= wanted
    mask = batch.weights.astype(bool) & counts.reshape(-1, *(1,) * (batch.weights.ndim - 1))
    # Gradients leave the backward pass in the dtype of what they are taken for: wide, however the model computes.
    wide = jax.tree.map(lambda leaf: leaf.astype(wide_dtype(leaf.dtype)), params)

    def narrow(tree: Any, inputs: Any) -> Any:
        return logits_of(jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), tree, params), inputs)

    squares = row.squares(narrow, wide, batch._replace(weights=mask), jax.random.fold_in(key, number), draws, mesh)
    after = jax.tree.map(jnp.add, total, squares)
    found = jnp.sum(mask, dtype=jnp.int32)
    whole = _sum(after)
    counted = (tokens, tokens + found.astype(tokens.dtype))
    seen = Seen(found, jnp.sum(counts, dtype=jnp.int32), jnp.isfinite(whole), _change(total, after, counted, whole))
    return after, seen


def _sum(tree: Any) -> Float[Array, ""]:
    leaves = jax.tree.leaves(tree)
    dtype = wide_dtype(*(leaf.dtype for leaf in leaves))
    return jnp.sum(jnp.stack([jnp.sum(leaf).astype(dtype) for leaf in leaves]))


def _change(before: Any, after: Any, tokens: tuple[Array, Array], whole: Float[Array, ""]) -> Float[Array, ""]:
    first, last = (jnp.maximum(count, 1) for count in tokens)

    def moved(old: Array, new: Array) -> Array:
        return jnp.abs(new / last.astype(new.dtype) - old / first.astype(new.dtype))

    whole = whole / last.astype(whole.dtype)
    return _sum(jax.tree.map(moved, before, after)) / jnp.where(whole == 0, 1, whole)
