"""What a checkpoint holds beside its weights, taken along when it grows: tensor by tensor, like the weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tprog import ParameterError, ParamSpec
from tprog.finite import WIDER, cast
from tprog.hf_names import HFTensor, hf_tensors
from tprog.parts import STEP, Parts
from tprog.reader import Checkpoint
from tprog.source import LazyTensors, TensorSource
from tprog.tensorheader import TensorSpec

from tritter_jax.growth.fisher import (
    FISHER,
    count_unknown,
    fisher_growth,
    fresh_entries,
    grow_fisher_layer,
    unknown_entries,
    unknown_layer,
)
from tritter_jax.growth.leaf import LeafGrowth, leaf_growth
from tritter_jax.growth.moments import MOMENTS, Factors, moment_growth, slot_kinds, unknown_slots
from tritter_jax.growth.plan import Plan, choose
from tritter_jax.growth.stream import origins, stream

Choice = Callable[[ParamSpec, HFTensor], np.ndarray]
"""For a row of the source's table and a grown tensor a mask of one layer, in the layout of the table."""

NO_MOMENTS = "--optimizer reset leaves the moments out."
_OTHER_FISHER = "Choose the other --fisher rule, or measure it again with `tritter fisher` on the grown model."


@dataclass(frozen=True, kw_only=True)
class MeasuredFisher:
    """Fisher information that was measured on the grown model.

    Args:
        tensors: by Hugging Face name.
        data: what it was measured on.
    """

    tensors: TensorSource
    data: str


def grown_parts(
    checkpoint: Checkpoint, plan: Plan, *, optimizer: str, fisher: str, measured: MeasuredFisher | None = None
) -> Parts:
    """The optional parts of a checkpoint for the grown model; nothing is computed until it is written.

    Moments move as `optimizer` says, Fisher information as `fisher` says. The anchor of elastic weight consolidation
    grows as the weights do, without noise; what is fresh in it is what is fresh in them. Random states, schedule,
    place in the data and hooks are as they were.

    Args:
        checkpoint: the source, open.
        plan: from `make_plan`, for the source's configuration.
        optimizer: a key of `MOMENTS`; `reset` leaves the optimizer out, so that training begins with a new one.
        fisher: a key of `FISHER`.
        measured: what takes the place of the medians where old gradients tell nothing, if anything does.

    Raises:
        GrowthError: there is no such row, or what the optimizer's state holds is not known.
        ParameterError: the optimizer's state does not fit the model.
        FormatError: a part is broken; or a grown tensor of it, when it is asked for, is not finite.
    """
    factors = choose("optimizer", optimizer, MOMENTS).factors
    rule = choose("fisher", fisher, FISHER)
    had = checkpoint.to_parts()
    sets = had.tensors
    grown = {}
    if "optimizer" in sets:
        grown["optimizer"] = None if factors is None else _moments(sets["optimizer"], plan, factors)
    if "fisher" in sets:
        moved = stream(
            sets["fisher"],
            plan,
            lambda spec: fisher_growth(plan, spec, rule),
            remedy=_OTHER_FISHER,
            function=grow_fisher_layer,
        )
        unknown = partial(_is_unknown, plan)
        grown["fisher"] = (
            moved if measured is None else _chosen(measured.tensors, moved, plan, unknown, remedy=_OTHER_FISHER)
        )
    if "old_params" in sets or ("fisher" in sets and plan.noise is not None):
        grown["old_params"] = _anchor(sets.get("old_params", checkpoint), checkpoint, plan)
    return replace(had, **grown)


def _anchor(anchor: TensorSource, weights: TensorSource, plan: Plan) -> LazyTensors:
    """The anchor grown as the weights are before noise; what is fresh in it is what is fresh in them."""
    growth = partial(_quiet_growth, plan)
    grown, beside = (stream(source, plan, growth, remedy=WIDER) for source in (anchor, weights))
    return _chosen(
        beside, grown, plan, lambda old, new: fresh_entries(growth(old), new.spec.layer_shape), remedy=WIDER
    )


def _is_unknown(plan: Plan, old: ParamSpec, new: HFTensor) -> np.ndarray:
    growth, shape = leaf_growth(plan, old, "gradient"), new.spec.layer_shape
    return np.broadcast_to(True, shape) if unknown_layer(growth, new.layer) else unknown_entries(growth, shape)


def unknown_fisher(plan: Plan) -> int:
    """Number of entries of the grown model whose Fisher information can only be guessed, or measured anew."""
    return sum(
        count_unknown(leaf_growth(plan, old, "gradient"), new.spec.layer_shape, new.layer)
        for new, old, _ in origins(plan)
    )


def _chosen(one: TensorSource, other: LazyTensors, plan: Plan, choice: Choice, *, remedy: str) -> LazyTensors:
    """One source's values where the choice falls on them, the other's elsewhere, with its dtypes."""
    rows = {new.name: (old, new) for new, old, _ in origins(plan)}

    def pieces(name: str) -> Iterator[np.ndarray]:
        old, new = rows[name]
        chosen = choice(old, new)
        if chosen.any():
            own = cast(name, np.asarray(one.tensor(name)), other.specs[name].dtype, remedy=remedy)
            yield np.where(new.spec.to_hf(chosen), own, other.tensor(name))
        else:
            yield from other.pieces(name)

    return LazyTensors(other.specs, pieces=pieces)


def _quiet_growth(plan: Plan, spec: ParamSpec) -> LeafGrowth:
    def quiet(growth: LeafGrowth) -> LeafGrowth:
        return replace(growth, noise=None, steps=tuple(map(quiet, growth.steps)))

    return quiet(leaf_growth(plan, spec, "weight"))


def _moments(stored: TensorSource, plan: Plan, factors: Factors) -> LazyTensors:
    """A stored optimizer state (`exp_avg.<name>` and so on, `step`) as it is for the grown model."""
    shapes = {tensor.name: tensor.shape for tensor in hf_tensors(plan.source)}
    slots: dict[str, list[str]] = {}
    for name in stored.specs:
        slot, _, tensor = name.partition(".")
        slots.setdefault(slot if tensor in shapes else "", []).append(name)
    others, steps = slots.pop("", []), slots.pop(STEP, [])
    _check_slots(stored, slots, shapes)
    specs: dict[str, TensorSpec] = {}
    makers: dict[str, Callable[[str], Iterator[np.ndarray]]] = {}
    for slot in slots:
        growth = partial(moment_growth, plan, kind=slot_kinds()[slot], factors=factors)
        grown = stream(stored, plan, growth, remedy=NO_MOMENTS, prefix=f"{slot}.")
        specs |= grown.specs
        makers |= dict.fromkeys(grown.specs, grown.pieces)
    renamed = {name: name for name in others}
    renamed |= {f"{STEP}.{new.name}": f"{STEP}.{old}" for new, _, old in origins(plan) if f"{STEP}.{old}" in steps}
    for name, old in renamed.items():
        specs[name] = stored.specs[old]
        makers[name] = lambda _, old=old: iter((np.asarray(stored.tensor(old)),))
    return LazyTensors(specs, pieces=lambda name: makers[name](name))


def _check_slots(stored: TensorSource, slots: dict[str, list[str]], shapes: dict[str, tuple[int, ...]]) -> None:
    unknown = sorted(slots.keys() - slot_kinds().keys())
    if unknown:
        raise unknown_slots(unknown)
    findings = [
        f"{name} has shape {list(stored.specs[name].shape)}, expected {list(shapes[name.partition('.')[2]])}"
        for names in slots.values()
        for name in names
        if stored.specs[name].shape != shapes[name.partition(".")[2]]
    ]
    if findings:
        raise ParameterError(
            "optimizer state",
            expected="moments shaped like the parameters",
            got=f"{len(findings)} that are not",
            remedy="Begin anew with --optimizer reset, or fetch that file anew:",
            findings=findings,
        )
