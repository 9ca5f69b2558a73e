"""What the numbers of an optimizer's state are moments of, and how each kind moves when its parameter grows.

At the grown point a copy's gradient is the old one times b, the `gradient` factor of the axis maps. So whatever is
linear in the gradients moves with b and whatever is quadratic in them with b^2. (Shen et al. 2022, "Staged Training
for Transformer Language Models", halve the first moments and quarter the second: the case b = 1/2.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from tprog import GrowthError, ParamSpec
from tprog.flax_state import SLOTS

from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.leaf import LeafGrowth, leaf_growth
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.own.rows import PlacedRow
from tritter_jax.growth.plan import Plan

Kind = Literal["gradient", "square", "weight"]
"""Linear in the gradients, quadratic in them, or a copy of the weights."""

STATES: dict[str, dict[str, Kind]] = {
    "ScaleByAdamState": {"mu": "gradient", "nu": "square"},
    "ScaleByAmsgradState": {"mu": "gradient", "nu": "square", "nu_max": "square"},
    "ScaleByBeliefState": {"mu": "gradient", "nu": "square"},
    "ScaleByAdanState": {"m": "gradient", "v": "gradient", "n": "square", "g": "gradient"},
    "ScaleByAdemamixState": {"m1": "gradient", "m2": "gradient", "nu": "square"},
    "ScaleBySimplifiedAdEMAMixState": {"m": "gradient", "n": "square"},
    "ScaleByRmsState": {"nu": "square"},
    "ScaleByRmsWithCountState": {"nu": "square"},
    "ScaleByRStdDevState": {"mu": "gradient", "nu": "square"},
    "SophiaState": {"mu": "gradient", "nu": "square"},
    "ScaleByLionState": {"mu": "gradient"},
    "MuonState": {"mu": "gradient"},
    "TraceState": {"trace": "gradient"},
    "EmaState": {"ema": "gradient"},
    "MultiStepsState": {"acc_grads": "gradient"},
    "ApplyEvery": {"grad_acc": "gradient"},
    "ScheduleFreeState": {"z": "weight"},
}
"""For each state of optax its fields that are shaped like the parameters, and what they hold.

A new optimizer is a new row. Adamax keeps its largest gradients in the fields of Adam, and they move as Adam's."""

NORMALISING = {name for name, row in STATES.items() if "square" in row.values()} | {"ScaleByLionState", "MuonState"}
"""States of transforms whose updates are not linear in the gradients: no moment behind them moves with b."""

_POWER = {"gradient": 1, "square": 2}

Factors = Callable[[AxisMap, int], Float[np.ndarray, " new"]]
"""For an axis map and a power of the gradient the factor of every new entry."""


@dataclass(frozen=True, kw_only=True)
class MomentStrategy:
    """A way to begin the grown model's optimizer.

    Args:
        name: its name on the command line.
        summary: one line on what it does.
        factors: the factors of the moments along an axis; None where the optimizer begins anew.
    """

    name: str
    summary: str
    factors: Factors | None


def transport(along: AxisMap, power: int) -> Float[np.ndarray, " new"]:
    """The gradient's factor to that power: what the grown model would have accumulated from the same gradients.

    Example:
        >>> halves = AxisMap(source=(0, 1, 0), weight=(1, 1, 1), gradient=(0.5, 1, 0.5), mapped=(True,) * 3)
        >>> transport(halves, 2).tolist()
        [0.25, 1.0, 0.25]
    """
    return along.factors("gradient") ** power


def asymmetric(along: AxisMap, power: int) -> Float[np.ndarray, " new"]:
    """As `transport` for the first copy of every entry, and 0 for the others: equal copies separate.

    "SPARKLING" (arXiv 2602.02472) resets the new half of a doubled width.

    Example:
        >>> halves = AxisMap(source=(0, 1, 0), weight=(1, 1, 1), gradient=(0.5, 1, 0.5), mapped=(True,) * 3)
        >>> asymmetric(halves, 2).tolist()
        [0.25, 1.0, 0.0]
    """
    return np.where(along.new, 0.0, transport(along, power))


MOMENTS: dict[str, MomentStrategy] = {
    strategy.name: strategy
    for strategy in (
        MomentStrategy(
            name="asymmetric",
            summary="the first copies' moments move along, new entries get 0",
            factors=asymmetric,
        ),
        MomentStrategy(name="transport", summary="all moments as the grown model would have them", factors=transport),
        MomentStrategy(name="reset", summary="the optimizer begins anew", factors=None),
    )
}
"""Every way to move an optimizer's state by name; the first is the default."""


def moment_growth(plan: Plan | AxesPlan, spec: ParamSpec | PlacedRow, kind: Kind, factors: Factors) -> LeafGrowth:
    """How one moment of one parameter grows.

    Args:
        plan: from `make_plan`.
        spec: the parameter's row in the source's table.
        kind: what the moment holds.
        factors: the strategy's.
    """
    if kind == "weight":
        return leaf_growth(plan, spec, "weight")
    growth = leaf_growth(plan, spec, "gradient")
    scaled = tuple(
        None if along is None else replace(along, gradient=tuple(factors(along, _POWER[kind]).tolist()))
        for along in growth.maps
    )
    return replace(growth, maps=scaled)


def slot_kinds() -> dict[str, Kind]:
    """What each slot of a stored state holds; a slot that two optimizers fill differently is not known.

    Example:
        >>> slot_kinds()["exp_avg_sq"]
        'square'
    """
    kinds: dict[str, set[Kind]] = {}
    for row in STATES.values():
        for field, kind in row.items():
            kinds.setdefault(SLOTS.get(field, field), set()).add(kind)
    return {slot: next(iter(found)) for slot, found in kinds.items() if len(found) == 1}


def unknown_slots(slots: Sequence[str]) -> GrowthError:
    """The error of stored moments of which `slot_kinds` does not tell what they hold."""
    return GrowthError(
        f"optimizer state {slots[0]}.<name>",
        expected=f"one of {', '.join(sorted(slot_kinds()))}",
        got="moments of which it is not known how they move",
        remedy="Begin anew with --optimizer reset, or add a row to tritter_jax.growth.moments.STATES.",
        findings=slots[1:],
    )
