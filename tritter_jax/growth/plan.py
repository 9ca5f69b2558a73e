"""A plan: what comes from where when one configuration grows into another. Plain Python, no arrays.

plan = make_plan(source, target, width="duplicate", split="uneven")
grown = grow(params, plan)
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from tprog import GrowthError, ModelConfig, ParamSpec, count_parameters, param_specs
from tprog.params import Axis
from tprog.sizes import count_bytes

from tritter_jax.growth.axis_map import AxisMap, Maps
from tritter_jax.growth.compare import SIZES, check_source
from tritter_jax.growth.compose import compose_maps, compose_stacks
from tritter_jax.growth.depth import DEPTH, Layout
from tritter_jax.growth.guarantee import Guarantee, guarantee, of_steps
from tritter_jax.growth.noise import Noise
from tritter_jax.growth.spread import Lengths
from tritter_jax.growth.ternary import obstacle

_Row = TypeVar("_Row")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One growth, validated and ready to apply.

    Args:
        source: configuration of the model that grows.
        target: configuration of the result.
        depth: name of the depth strategy.
        positions: the rule that placed the new layers, `explicit`, or the strategy that arranged the stack.
        stack: the grown stack of layers.
        width: name of the width strategy.
        split: name of the split.
        seed: seed of whatever is drawn.
        convert: whether every parameter is stored in `target.dtype`, or each in its own.
        maps: the map of every (logical axis, role) that changes.
        noise: the noise on what is copied; None for none.
        steps: the growths that a composed plan does one after the other; `maps` and `stack` are their product.
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
    noise: Noise | None = None
    steps: tuple["Plan", ...] = ()

    def axis_maps(self, spec: Lengths) -> tuple[AxisMap | None, ...]:
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
        if self.steps:
            return of_steps([step.guarantee for step in self.steps])
        return guarantee(self.source, self.target, DEPTH[self.depth], dict(self.maps), self.noise)

    @property
    def stored_dtype(self) -> str | None:
        """The dtype of every grown parameter; None where each keeps its own."""
        return self.target.dtype if self.convert else None

    @property
    def keeps_codes(self) -> bool:
        """Whether the matrices it widens are ternary, and keep their codes and scales."""
        maps: Maps = {(axis.name, axis.role): along for axis, along in self.maps}
        wider = any(role == "write" for _, role in maps)
        return bool(self.source.ternary) and wider and obstacle(self.source, self.target, maps) is None

    def unrounded(self, dtype: str | None = None) -> "Plan":
        """The same growth before a narrow dtype rounds it: in float32, or float64 where that is needed.

        It is where the source or the target has it, and to compare ternary models, whose activations round to 8 bits:
        in float32 one in a few hundred thousand lies close enough to the middle of two levels to fall to the other.
        """
        double = self.keeps_codes or "float64" in (self.source.dtype, self.target.dtype)
        dtype = dtype or ("float64" if double else "float32")
        steps = tuple(step.unrounded(dtype) for step in self.steps)
        return replace(self, target=replace(self.target, dtype=dtype), convert=True, steps=steps)

    def without_noise(self) -> "Plan":
        """The same growth of what noise must not touch, such as an anchor."""
        return replace(self, noise=None, steps=tuple(step.without_noise() for step in self.steps))

    def then(self, other: "Plan") -> "Plan":
        """The growth that does this one and then another, in one pass; the same as growing twice.

        Args:
            other: a plan whose source is this one's target.

        Raises:
            GrowthError: it was made for another model.

        Example:
            >>> import tprog
            >>> from tritter_jax.growth import make_plan
            >>> small, large = tprog.named_size("3B"), tprog.named_size("7B")
            >>> deeper = make_plan(small, replace(small, num_layers=32))
            >>> deeper.then(make_plan(deeper.target, large)).target == large
            True
        """
        check_source(other.source, self.target)
        if other.source.dtype != self.target.dtype:
            raise GrowthError(
                "plan", expected=f"one for {self.target.dtype} weights", got=f"one for {other.source.dtype}",
                remedy="Plan the second growth for the first one's target.",
            )  # fmt: skip
        steps = (self.steps or (self,)) + (other.steps or (other,))

        def names(field: str) -> str:
            return " then ".join(dict.fromkeys(getattr(step, field) for step in steps))

        return Plan(
            source=self.source,
            target=replace(
                self.source.resized(other.target), dtype=other.target.dtype, vocab_size=other.target.vocab_size
            ),
            depth=names("depth"),
            positions=names("positions"),
            stack=compose_stacks(self.stack, other.stack),
            width=names("width"),
            split=names("split"),
            seed=self.seed,
            convert=self.convert or other.convert,
            maps=tuple(compose_maps(dict(self.maps), dict(other.maps)).items()),
            steps=steps,
        )

    def target_specs(self) -> Iterator[tuple[ParamSpec, ParamSpec]]:
        """Every parameter's row before and after, in the table's order."""
        return zip(param_specs(self.source), param_specs(self.target), strict=True)


def choose(option: str, name: str, rows: Mapping[str, _Row]) -> _Row:
    """The row of that name, or a refusal that names the nearest.

    Raises:
        GrowthError: there is no such row.
    """
    return GrowthError.choose(option, name, rows, remedy=f"Choose one with --{option}.")


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as JSON: sizes before and after, and what comes from where."""
    sizes = {
        name: [getattr(plan.source, name), getattr(plan.target, name)]
        for name in SIZES
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
        "noise": None if plan.noise is None else asdict(plan.noise),
        "steps": [describe(step) for step in plan.steps],
        "guarantee": plan.guarantee.as_json(),
    }
