"""A plan: what comes from where when one configuration grows into another. Plain Python, no arrays.

plan = make_plan(source, target, width="duplicate", split="uneven")
grown = grow(params, plan)
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from tprog import GrowthError, ModelConfig, ParamSpec, count_parameters, param_specs
from tprog.config import SIZE_FIELDS
from tprog.params import Axis
from tprog.sizes import count_bytes

from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.depth import DEPTH, POSITIONS, Layout, depth_maps, fitting, layout
from tritter_jax.growth.guarantee import Guarantee, guarantee
from tritter_jax.growth.split import SPLITS
from tritter_jax.growth.width import WIDTH, Maps, width_maps

_SIZES = tuple(name for name in SIZE_FIELDS if name != "head_dim")
_MAY_DIFFER = {*_SIZES, "family", "dtype", "extra", "initializer_range", "max_position_embeddings"}
_Row = TypeVar("_Row")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One growth, validated and ready to apply.

    Args:
        source: configuration of the model that grows.
        target: configuration of the result.
        depth: name of the depth strategy.
        positions: the rule that placed the new layers, or `explicit`.
        stack: the grown stack of layers.
        width: name of the width strategy.
        split: name of the split.
        seed: seed of whatever is drawn.
        convert: whether every parameter is stored in `target.dtype`, or each in its own.
        maps: the map of every (logical axis, role) that changes.
    """

    source: ModelConfig
    target: ModelConfig
    depth: str
    positions: str
    stack: Layout
    width: str
    split: str
    seed: int
    convert: bool
    maps: tuple[tuple[Axis, AxisMap], ...]

    def axis_maps(self, spec: ParamSpec) -> tuple[AxisMap | None, ...]:
        """The map along each axis of a parameter; None where the axis stays as it is."""
        table = dict(self.maps)
        return tuple(table.get(axis) for axis in spec.axes)

    @property
    def new_layers(self) -> tuple[int, ...]:
        """Indices of the new layers in the grown stack."""
        return tuple(i for i, new in enumerate(self.stack.new) if new)

    @property
    def guarantee(self) -> Guarantee:
        """What this growth preserves, why, and to what tolerance."""
        return guarantee(self.source, self.target, DEPTH[self.depth], dict(self.maps))

    def unrounded(self) -> "Plan":
        """The same growth stored in float32 (or float64, where it was): before a narrow dtype rounds it."""
        dtype = "float64" if "float64" in (self.source.dtype, self.target.dtype) else "float32"
        return replace(self, target=replace(self.target, dtype=dtype), convert=True)

    def target_specs(self) -> Iterator[tuple[ParamSpec, ParamSpec]]:
        """Every parameter's row before and after, in the table's order."""
        return zip(param_specs(self.source), param_specs(self.target), strict=True)


def make_plan(
    source: ModelConfig,
    target: ModelConfig,
    *,
    depth: str = "identity",
    positions: str = "auto",
    layers: Sequence[int] | None = None,
    width: str = "duplicate",
    split: str = "uneven",
    seed: int = 0,
    convert: bool | None = None,
) -> Plan:
    """Plan the growth of `source` to the size of `target`; width and depth are planned in one.

    Args:
        source: configuration of the model that grows.
        target: a configuration of the size wanted; all but its sizes and its dtype must agree with `source`.
        depth: a key of `DEPTH`.
        positions: a key of `POSITIONS`, the rule that places new layers; `auto` is `uniform` where that gives as
            many layers as wanted, and `spread` where it does not.
        layers: the old layers to copy, instead of a rule.
        width: a key of `WIDTH`.
        split: a key of `SPLITS`.
        seed: seed of whatever is drawn, from 0 to 2**32 - 1.
        convert: whether to store every parameter in `target.dtype`; when None, where that is not the source's.

    Raises:
        GrowthError: the target is smaller, or another model, or the growth has no exact plan; the message says why.

    Example:
        >>> import tprog
        >>> plan = make_plan(tprog.named_size("3B"), tprog.named_size("7B"))
        >>> plan.new_layers, plan.guarantee.exact
        ((4, 9, 14, 19, 24, 29), True)
    """
    _compare(source, target)
    check_seed(seed)
    if positions == "auto":
        positions = fitting(source.num_layers, target.num_layers)
    _choose("positions", positions, POSITIONS)
    stack = layout(source.num_layers, target.num_layers, positions if layers is None else layers)
    return build_plan(
        source,
        target,
        depth=depth,
        positions=positions if layers is None else "explicit",
        stack=stack,
        width=width,
        split=split,
        seed=seed,
        convert=target.dtype != source.dtype if convert is None else convert,
    )


def build_plan(
    source: ModelConfig,
    target: ModelConfig,
    *,
    depth: str,
    positions: str,
    stack: Layout,
    width: str,
    split: str,
    seed: int,
    convert: bool,
) -> Plan:
    """The plan for a grown stack that is already laid out; `make_plan` and `plan_from_record` end here."""
    depth_row = _choose("depth", depth, DEPTH)
    width_row = _choose("width", width, WIDTH)
    split_row = _choose("split", split, SPLITS)
    maps: Maps = depth_maps(stack, depth_row) | width_maps(source, target, width_row, split_row)
    _refuse_ternary(source, maps)
    return Plan(
        source=source,
        target=replace(source.resized(target), dtype=target.dtype),
        depth=depth,
        positions=positions,
        stack=stack,
        width=width,
        split=split,
        seed=seed,
        convert=convert,
        maps=tuple((Axis(*key), axis_map) for key, axis_map in maps.items()),
    )


def check_seed(seed: int) -> None:
    """Refuse a seed that jax would cut to 32 bits.

    Raises:
        GrowthError: it is not from 0 to 2**32 - 1.
    """
    if not 0 <= seed < 1 << 32:
        raise GrowthError("seed", expected="a number from 0 to 4294967295", got=seed, remedy="Choose another seed.")


def _choose(option: str, name: str, rows: Mapping[str, _Row]) -> _Row:
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Choose one with --{option}."
        raise GrowthError(option, expected=f"one of {', '.join(rows)}", got=repr(name), remedy=hint)
    return rows[name]


def _compare(source: ModelConfig, target: ModelConfig) -> None:
    if source.family_record.model_type != target.family_record.model_type:
        raise GrowthError(
            "family",
            expected=f"{source.family}, as in the source",
            got=target.family,
            remedy="A model grows within its family; convert it first, or choose a target of the same family.",
        )
    if target.head_dim != source.head_dim:
        raise GrowthError(
            "head_dim",
            expected=f"{source.head_dim}, as in the source",
            got=target.head_dim,
            remedy="Rotary embedding and the attention scale depend on it: grow the number of heads instead.",
        )
    smaller = [
        f"{name} shrinks from {getattr(source, name)} to {getattr(target, name)}"
        for name in _SIZES
        if getattr(target, name) < getattr(source, name)
    ]
    if smaller:
        raise GrowthError(
            "target", expected="no size below the source's", got=smaller[0], remedy="Choose a larger target.",
            findings=smaller[1:],
        )  # fmt: skip
    names = [f.name for f in fields(ModelConfig) if f.name not in _MAY_DIFFER]
    other = [name for name in names if getattr(source, name) != getattr(target, name)]
    if other:
        raise GrowthError(
            f"target's {other[0]}",
            expected=f"{getattr(source, other[0])}, as in the source",
            got=getattr(target, other[0]),
            remedy="Growth changes sizes only; make the other fields of the target equal to the source's.",
            findings=[f"{name}: {getattr(source, name)} -> {getattr(target, name)}" for name in other[1:]],
        )
    if all(getattr(source, name) == getattr(target, name) for name in _SIZES):
        raise GrowthError(
            "target", expected="a larger size", got="the source's own", remedy="There is nothing to grow."
        )


def _refuse_ternary(source: ModelConfig, maps: Maps) -> None:
    widened = sorted({axis for axis, _ in maps if axis != "layers"})
    if source.family_record.sub_norms and widened:
        ternary = "Every loader recomputes the ternary scale, and new zeros would move it"
        plain = "Its norms inside attention and feed-forward would see another mean square"
        raise GrowthError(
            f"{source.family} model",
            expected="growth in depth only",
            got=f"growth of {', '.join(widened)}",
            remedy=f"{ternary if source.ternary else plain}: add layers instead.",
        )


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as JSON: sizes before and after, and what comes from where."""
    sizes = {
        name: [getattr(plan.source, name), getattr(plan.target, name)]
        for name in _SIZES
        if getattr(plan.source, name) != getattr(plan.target, name)
    }
    return {
        "sizes": sizes,
        "parameters": [count_parameters(plan.source), count_parameters(plan.target)],
        "bytes": [count_bytes(plan.source), count_bytes(plan.target)],
        "depth": plan.depth,
        "positions": plan.positions,
        "new_layers": list(plan.new_layers),
        "copied_layers": [plan.stack.source[i] for i in plan.new_layers],
        "width": plan.width,
        "split": plan.split,
        "seed": plan.seed,
        "guarantee": plan.guarantee.as_json(),
    }
