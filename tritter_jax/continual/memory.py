"""What is remembered of earlier tasks: one Fisher tree and one anchor, however many tasks there were.

The penalty of several tasks, sum_k F_k (theta - theta_k)^2, is A (theta - m)^2 + C with A = sum_k F_k,
A m = sum_k F_k theta_k, and a number C: two trees hold it exactly. The weighted mean m is kept, not the sum A m:
nothing is lost to cancellation where theta is near m, and what is stored is what it is for a single task.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", keeps a penalty for each task;
Huszár 2018, "Note on the quadratic penalties in elastic weight consolidation", argues for one, around the newest
weights; Schwarz et al. 2018, "Progress & Compress", section 3, lets the old Fisher information fade by gamma.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from tprog import ParameterError, UsageError, VerificationError
from tprog.tree import mismatches

from tritter_jax.dtypes import wide_dtype


class Memory(NamedTuple):
    """What the penalty needs to know of earlier tasks; a pytree, to be passed to jitted functions as an argument.

    Args:
        fisher: sum of the Fisher information, a tree like the parameters, per token.
        anchor: where the penalty is least, a tree like the parameters.
        constant: what the penalty (without lambda / 2) is there; 0 but for `separate`.
    """

    fisher: Any
    anchor: Any
    constant: Float[Array, ""]


@dataclass(frozen=True, kw_only=True)
class TaskRule:
    """A way to remember several tasks.

    Args:
        name: its name in configurations.
        summary: one line on what it holds on to.
        join: the memory of old tasks, that of a new one, and gamma -> the memory of all.
    """

    name: str
    summary: str
    join: Callable[[Memory, Memory, float], Memory]


def remember(fisher: Any, anchor: Any) -> Memory:
    """The memory of one task.

    Args:
        fisher: diagonal of the Fisher information, per token; finite and not negative.
        anchor: the weights it was measured at, a tree of the same shapes.

    Raises:
        ParameterError: the trees do not fit each other; every mismatch is listed.
        VerificationError: the Fisher information is negative or not finite, or the anchor is not finite.

    Example:
        >>> remember({"w": jnp.ones(2)}, {"w": jnp.zeros(3)})
        Traceback (most recent call last):
        tprog.errors.ParameterError: fisher: expected a tree like the anchor, got 1 parameters that do not fit. ...
          - w has shape [2], expected [3]
    """
    check_fit(fisher, anchor, where="fisher", like="the anchor")
    least, finite = _judged(fisher, anchor)
    findings = [f"{tree} {path} has values that are not finite" for (tree, path), all_ in finite.items() if not all_]
    findings += [
        f"fisher {path} has negative values, the least {float(value):.3g}"
        for path, value in least.items()
        if value < 0
    ]
    if findings:
        raise VerificationError(
            "fisher", expected="finite values, of the Fisher information none below 0",
            got=f"{len(findings)} parameters that break this", remedy="Measure it anew:", findings=findings,
        )  # fmt: skip
    return Memory(fisher, anchor, jnp.zeros((), _wide(fisher)))


def join(old: Memory | None, new: Memory, *, rule: str = "separate", gamma: float = 1.0) -> Memory:
    """The memory of all tasks so far.

    Args:
        old: that of the earlier tasks, if any.
        new: that of the newest, from `remember`.
        rule: a key of `TASKS`.
        gamma: what `online` multiplies the old Fisher information with, from 0 to 1.

    Raises:
        UsageError: there is no such rule, or gamma is out of its range.
        ParameterError: the two are of different models.

    Example:
        >>> one, two = (remember({"w": jnp.ones(1)}, {"w": jnp.full(1, at)}) for at in (0.0, 4.0))
        >>> both = join(one, two)
        >>> both.fisher["w"].tolist(), both.anchor["w"].tolist(), float(both.constant)
        ([2.0], [2.0], 8.0)
    """
    row = UsageError.choose("tasks", rule, TASKS)
    check_gamma(gamma)
    if old is None:
        return new
    check_fit(new.fisher, old.fisher, where="fisher", like="that of the tasks before")
    return row.join(old, new, gamma)


def _separate(old: Memory, new: Memory, gamma: float) -> Memory:
    """A penalty a task, all of them in the two trees of one."""

    def leaf(f: Array, m: Array, g: Array, a: Array) -> tuple[Array, Array, Array]:
        wide = wide_dtype(f.dtype, m.dtype, g.dtype, a.dtype)
        f, at, g, other = (x.astype(wide) for x in (f, m, g, a))
        total = f + g
        share = g / jnp.where(total > 0, total, 1)
        between = jnp.where(total > 0, at + share * (other - at), other)  # where nothing weighs, the newest
        return total, between.astype(m.dtype), jnp.sum(f * share * jnp.square(other - at))

    made = jax.tree.map(leaf, old.fisher, old.anchor, new.fisher, new.anchor)
    fisher, anchor, apart = jax.tree.transpose(jax.tree.structure(old.fisher), jax.tree.structure((0, 0, 0)), made)
    constant = sum((x.astype(old.constant.dtype) for x in jax.tree.leaves(apart)), start=old.constant)
    return Memory(fisher, anchor, constant + new.constant.astype(constant.dtype))


def _online(old: Memory, new: Memory, gamma: float) -> Memory:
    fisher = jax.tree.map(
        lambda f, g: gamma * f.astype(wide_dtype(f.dtype)) + g.astype(wide_dtype(f.dtype)), old.fisher, new.fisher
    )
    return Memory(fisher, new.anchor, new.constant)


def _single(old: Memory, new: Memory, gamma: float) -> Memory:
    return new


TASKS: dict[str, TaskRule] = {
    row.name: row
    for row in (
        TaskRule(name="separate", summary="the sum of a penalty for each task, in constant memory", join=_separate),
        TaskRule(
            name="online", summary="one penalty around the newest weights, the old importance fading", join=_online
        ),
        TaskRule(name="single", summary="the last task only", join=_single),
    )
}
"""Every rule by name; the first is the default."""


def check_fit(tree: Any, other: Any, *, where: str, like: str) -> None:
    """Hold names and shapes of one tree against those of another.

    Raises:
        ParameterError: they differ; every mismatch is listed.
    """
    got, due = ({path: tuple(leaf.shape) for path, leaf in _named(each).items()} for each in (tree, other))
    findings = mismatches(due, got)
    if findings:
        raise ParameterError(
            where, expected=f"a tree like {like}", got=f"{len(findings)} parameters that do not fit",
            remedy="Use what was measured on this very model, or grow it along with the model:", findings=findings,
        )  # fmt: skip


def check_strength(strength: float) -> None:
    """Refuse a lambda that is negative or no number.

    Raises:
        UsageError: it is.
    """
    if not (math.isfinite(strength) and strength >= 0):
        raise UsageError("lambda", expected="a finite number, 0 or more", got=strength, remedy="0 switches it off.")


def check_gamma(gamma: float) -> None:
    """Refuse a gamma that would let the old importance grow, or is no number.

    Raises:
        UsageError: it is.
    """
    if not 0 <= gamma <= 1:
        raise UsageError("gamma", expected="a number from 0 to 1", got=gamma, remedy="1 forgets nothing.")


@jax.jit
def _judged(fisher: Any, anchor: Any) -> tuple[dict[str, Array], dict[tuple[str, str], Array]]:
    """The least value of each Fisher tensor, and whether each tensor is finite: of arrays on any devices."""
    trees = {"fisher": _named(fisher), "anchor": _named(anchor)}
    finite = {
        (tree, path): jnp.all(jnp.isfinite(leaf)) for tree, leaves in trees.items() for path, leaf in leaves.items()
    }
    return {path: jnp.min(leaf) for path, leaf in trees["fisher"].items()}, finite


def _named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _wide(tree: Any) -> jnp.dtype:
    return wide_dtype(*(leaf.dtype for leaf in jax.tree.leaves(tree)))
