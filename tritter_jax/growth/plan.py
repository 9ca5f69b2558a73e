"""A plan: what comes from where when one configuration grows into another. Plain Python, no arrays.

plan = make_plan(source, target, width="duplicate", split="uneven")
grown = grow(params, plan)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from tprog import GrowthError, ModelConfig, ParamSpec, count_parameters, param_specs
from tprog.params import Axis
from tprog.sizes import count_bytes

from tritter_jax.growth.axis_map import AxisMap, Maps
from tritter_jax.growth.compare import SIZES, check_source, compare
from tritter_jax.growth.compose import compose_maps, compose_stacks
from tritter_jax.growth.depth import DEPTH, DepthStrategy, Layout, depth_maps, layout
from tritter_jax.growth.guarantee import Guarantee, guarantee, of_steps
from tritter_jax.growth.noise import Noise, check_noise
from tritter_jax.growth.positions import POSITIONS, Scores, fitting
from tritter_jax.growth.split import SPLITS
from tritter_jax.growth.ternary import obstacle
from tritter_jax.growth.vocabulary import vocabulary_maps
from tritter_jax.growth.width import WIDTH, width_maps

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
        if self.steps:
            return of_steps([step.guarantee for step in self.steps])
        return guarantee(self.source, self.target, DEPTH[self.depth], dict(self.maps), self.noise)

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


def make_plan(
    source: ModelConfig,
    target: ModelConfig,
    *,
    depth: str = "identity",
    positions: str = "auto",
    layers: Sequence[int] | None = None,
    scores: Scores = None,
    width: str = "duplicate",
    split: str = "uneven",
    noise: float | None = None,
    noise_everywhere: bool = False,
    allow_inexact: bool = False,
    seed: int | None = None,
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
        scores: importance of each old layer, for positions `importance`.
        width: a key of `WIDTH`.
        split: a key of `SPLITS`.
        noise: signal-to-noise ratio in dB of noise on what is copied, where it does not change the function.
        noise_everywhere: on all new entries instead, which does change it.
        allow_inexact: grow also where norms inside the layers or ternary rounding let no growth be exact.
        seed: seed of whatever is drawn, from 0 to 2**32 - 1; 0 when None, but noise must be given one.
        convert: whether to store every parameter in `target.dtype`; when None, where that is not the source's.

    Raises:
        GrowthError: the target is smaller, or another model, or the growth has no exact plan; the message says why.

    Example:
        >>> import tprog
        >>> plan = make_plan(tprog.named_size("3B"), tprog.named_size("7B"))
        >>> plan.new_layers, plan.guarantee.exact
        ((4, 9, 14, 19, 24, 29), True)
    """
    compare(source, target)
    check_seed(seed, noise)
    if noise_everywhere and noise is None:
        raise GrowthError(
            "noise_everywhere", expected="a signal-to-noise ratio beside it", got="none", remedy="Add --noise 20."
        )
    strategy = choose("depth", depth, DEPTH)
    positions = _rule(source, target, strategy, positions, layers)
    stack = layout(
        source.num_layers,
        target.num_layers,
        positions if layers is None else layers,
        strategy=strategy,
        scores=scores,
    )
    return build_plan(
        source,
        target,
        depth=depth,
        positions=positions,
        stack=stack,
        width=width,
        split=split,
        noise=None if noise is None else Noise(decibels=float(noise), everywhere=noise_everywhere),
        allow_inexact=allow_inexact,
        seed=seed or 0,
        convert=target.dtype != source.dtype if convert is None else convert,
    )


def _rule(
    source: ModelConfig,
    target: ModelConfig,
    strategy: DepthStrategy,
    positions: str,
    layers: Sequence[int] | None,
) -> str:
    """The name of what places the new layers.

    Raises:
        GrowthError: there is no such rule, or the strategy arranges the whole stack itself.
    """
    if strategy.arrange is not None:
        if layers is not None or positions != "auto":
            raise GrowthError(
                "positions" if layers is None else "layers",
                expected=f"none with --depth {strategy.name}, which arranges the whole stack",
                got=positions if layers is None else f"{len(layers)} layers",
                remedy="Leave it out, or choose --depth identity or copy.",
            )
        return strategy.name
    if positions == "auto":
        positions = fitting(source.num_layers, target.num_layers - source.num_layers)
    choose("positions", positions, POSITIONS)
    return positions if layers is None else "explicit"


def build_plan(
    source: ModelConfig,
    target: ModelConfig,
    *,
    depth: str,
    positions: str,
    stack: Layout,
    width: str,
    split: str,
    noise: Noise | None,
    allow_inexact: bool,
    seed: int,
    convert: bool,
) -> Plan:
    """The plan for a grown stack that is already laid out; `make_plan` and `plan_from_record` end here."""
    depth_row = choose("depth", depth, DEPTH)
    width_row = choose("width", width, WIDTH)
    split_row = choose("split", split, SPLITS)
    by_name: Maps = depth_maps(stack, depth_row) | width_maps(source, target, width_row, split_row)
    by_name |= vocabulary_maps(source.vocab_size, target.vocab_size)
    maps = {Axis(*key): axis_map for key, axis_map in by_name.items()}
    refusal = obstacle(source, target, by_name)
    if refusal is not None and not allow_inexact:
        raise refusal
    if noise is not None:
        check_noise(noise, maps, ternary=bool(source.ternary))
    return Plan(
        source=source,
        target=replace(source.resized(target), dtype=target.dtype, vocab_size=target.vocab_size),
        depth=depth,
        positions=positions,
        stack=stack,
        width=width,
        split=split,
        seed=seed,
        convert=convert,
        maps=tuple(maps.items()),
        noise=noise,
    )


def check_seed(seed: int | None, noise: float | None = None) -> None:
    """Refuse a seed that jax would cut to 32 bits, and noise without one.

    Raises:
        GrowthError: it is not from 0 to 2**32 - 1, or is missing.
    """
    if seed is None:
        if noise is not None:
            raise GrowthError(
                "seed", expected="one for the noise, so that it can be drawn again", got="none",
                remedy="Add --seed, such as --seed 0.",
            )  # fmt: skip
        return
    if not 0 <= seed < 1 << 32:
        raise GrowthError("seed", expected="a number from 0 to 4294967295", got=seed, remedy="Choose another seed.")


def choose(option: str, name: str, rows: Mapping[str, _Row]) -> _Row:
    """The row of that name, or a refusal that names the nearest.

    Raises:
        GrowthError: there is no such row.
    """
    if name not in rows:
        raise GrowthError.unknown(option, name, rows, remedy=f"Choose one with --{option}.")
    return rows[name]


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
