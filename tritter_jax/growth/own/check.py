"""check_function: the user's own forward pass, before growth and after it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tprog import UsageError, VerificationError

from tritter_jax.growth.apply import grow
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.plan import Plan

OUTPUT_TOLERANCE = {
    "float64": 1e-12, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2, "complex128": 1e-12, "complex64": 1e-4,
}  # fmt: skip
"""Largest relative difference that an exact growth may show in outputs of each dtype. There is no check before
rounding here, as there is of our own models, so the narrow dtypes have less room than in `guarantee.TOLERANCE`."""


@dataclass(frozen=True, kw_only=True)
class FunctionCheck:
    """What running a model before and after growth showed.

    Args:
        max_relative: largest absolute difference of the outputs, over the largest absolute output before.
        tolerance: largest that an exact growth may show in the outputs' dtype.
        numbers: how many output numbers were compared.
        exact: whether the plan promises that the function is kept.
    """

    max_relative: float
    tolerance: float
    numbers: int
    exact: bool


def check_function(
    function: Callable[[Any, Any], Any],
    params: Any,
    plan: AxesPlan | Plan,
    inputs: Any,
    *,
    grown: Any = None,
    grown_function: Callable[[Any, Any], Any] | None = None,
) -> FunctionCheck:
    """Run a model's own forward pass before and after growth, and hold the difference against what the plan promises.

    It is the guarantee for a model that this library has never seen: rows that are wrong show here.

    Args:
        function: called as `function(params, inputs)`; gives an array or a tree of arrays.
        params: the parameters before growth.
        plan: from `plan_axes` or `make_plan`.
        inputs: what the forward pass takes, of any type.
        grown: the parameters after growth; grown here where None.
        grown_function: the forward pass of the grown model, where it is another one.

    Raises:
        VerificationError: the plan promises the same function and the outputs differ by more than the tolerance of
            their dtype, or are not finite.
        UsageError: the outputs of the two have another structure, or none of them is an array of numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from tritter_jax.growth import plan_axes
        >>> rows = {"up": "hidden:read mlp:copy", "down": "mlp:read hidden:write"}
        >>> plan = plan_axes(rows, before={"hidden": 2, "mlp": 2}, after={"mlp": 5})
        >>> params = {"up": jnp.ones((2, 2)), "down": jnp.ones((2, 2))}
        >>> forward = lambda params, x: jnp.tanh(x @ params["up"]) @ params["down"]
        >>> check_function(forward, params, plan, jnp.ones((1, 2))).max_relative < 1e-6
        True
    """
    result = grow(params, plan) if grown is None else grown
    before, after = (
        _numbers(run(tree, inputs)) for run, tree in ((function, params), (grown_function or function, result))
    )
    if len(before) != len(after) or not all(
        _holds(new.shape, old.shape) for old, new in zip(before, after, strict=True)
    ):
        raise UsageError(
            "function", expected="the same outputs before and after growth",
            got=f"{len(before)} and {len(after)} arrays of other shapes", remedy="Return the model's outputs alone.",
        )  # fmt: skip
    narrowest = max((OUTPUT_TOLERANCE.get(leaf.dtype.name, 0.0) for leaf in before), default=0.0)
    # Outputs that grew, such as logits of new tokens, are compared where both have them.
    pairs = [(old, new[tuple(map(slice, old.shape))]) for old, new in zip(before, after, strict=True)]
    largest = max(float(np.abs(_wide(old)).max(initial=0)) for old, _ in pairs)
    apart = max(float(np.abs(_wide(new) - _wide(old)).max(initial=0)) for old, new in pairs)
    seen = FunctionCheck(
        max_relative=0.0 if apart == 0 else apart / largest if largest else float("inf"),
        tolerance=narrowest, numbers=sum(old.size for old, _ in pairs), exact=plan_is_exact(plan),
    )  # fmt: skip
    if seen.exact and not seen.max_relative <= seen.tolerance:
        raise VerificationError(
            "the grown model", expected=f"outputs equal to those before growth within {seen.tolerance:.0e}",
            got=f"a largest relative difference of {seen.max_relative:.2e}",
            remedy="Check the roles of the axes, and that no size is fixed in the forward pass.",
        )  # fmt: skip
    return seen


def _numbers(outputs: Any) -> list[np.ndarray]:
    leaves = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in jax.tree.leaves(outputs)]
    odd = [str(leaf.dtype) for leaf in leaves if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool)]
    if odd or not leaves:
        raise UsageError(
            "function", expected="an array of numbers, or a tree of them", got=odd[0] if odd else "none",
            remedy="Return the model's outputs alone.",
        )  # fmt: skip
    return [np.asarray(leaf) for leaf in leaves]


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _holds(larger: tuple[int, ...], smaller: tuple[int, ...]) -> bool:
    return len(larger) == len(smaller) and all(a >= b for a, b in zip(larger, smaller, strict=True))


def plan_is_exact(plan: AxesPlan | Plan) -> bool:
    """Whether a plan promises that the function is kept."""
    return plan.exact if isinstance(plan, AxesPlan) else plan.guarantee.exact
