"""Making a plan: a growth chosen from the registries, checked against both configurations."""

from collections.abc import Sequence
from dataclasses import replace

from tprog import GrowthError, ModelConfig
from tprog.params import Axis

from tritter_jax.growth.axis_map import Maps
from tritter_jax.growth.compare import compare
from tritter_jax.growth.depth import DEPTH, DepthStrategy, Layout, depth_maps, layout
from tritter_jax.growth.noise import Noise, check_noise
from tritter_jax.growth.plan import Plan, choose
from tritter_jax.growth.positions import POSITIONS, Scores, fitting
from tritter_jax.growth.split import SPLITS
from tritter_jax.growth.ternary import obstacle
from tritter_jax.growth.vocabulary import vocabulary_maps
from tritter_jax.growth.width import WIDTH, width_maps


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
            many layers as wanted, and `spread` where it does not; where new layers change the function and `scores`
            are given, it is `expendable`.
        layers: the old layers to copy, instead of a rule.
        scores: importance of each old layer, for positions `importance` and `expendable`.
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
    positions = _rule(source, target, strategy, positions, layers, scores)
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
    scores: Scores,
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
        added = target.num_layers - source.num_layers
        # A copy that acts at once disturbs least where its source does least.
        known = not strategy.silent and scores is not None and 0 < added <= source.num_layers
        positions = "expendable" if known else fitting(source.num_layers, added)
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
