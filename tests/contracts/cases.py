"""The registry of cases: every model x every growth that the library's own registries name.

A new row in `tprog.FAMILIES` or in WIDTH, SPLITS, DEPTH or POSITIONS of `tritter_jax.growth` is a new case here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest
from tprog import FAMILIES, GrowthError, ModelConfig

from tests.support import random_params
from tritter_jax.growth import DEPTH, POSITIONS, SPLITS, WIDTH, Plan, Preserves, make_plan

SMALL = {"num_layers": 3, "hidden_size": 160, "num_heads": 20, "num_kv_heads": 4, "intermediate_size": 192}
WIDE = {"hidden_size": 256, "num_heads": 32, "num_kv_heads": 8, "intermediate_size": 336}
DEEP = {"num_layers": 5}
PARTIAL: dict[str, dict[str, int]] = {
    "hidden": {"hidden_size": 216},
    "heads": {"num_heads": 32},
    "kv_heads": {"num_kv_heads": 20},
    "mlp": {"intermediate_size": 250},
    "vocabulary": {"vocab_size": 121},
}
"""Growth of one axis alone."""
SCORES = (0.5, 0.1, 0.9)
PROBE = ModelConfig(**SMALL, head_dim=8, vocab_size=104, max_position_embeddings=64)


@dataclass(frozen=True)
class Model:
    """A model to grow, by the name it has in test ids."""

    name: str
    config: ModelConfig

    @property
    def widens(self) -> bool:
        """Whether it has exact plans in width whatever the strategy."""
        return not self.config.ternary

    def takes(self, growth: "Growth") -> bool:
        """Whether the rows say that it can grow so: ternary codes must be kept."""
        if not self.config.ternary or not growth.wider:
            return True
        codes = growth.preserves.ternary
        return codes == "yes" or (codes == "multiples" and growth.sizes == "doubled")


@dataclass(frozen=True)
class Growth:
    """What is done to a model, by the names of the registries."""

    wider: bool
    deeper: bool
    sizes: str = "wide"
    width: str = "duplicate"
    split: str = "uneven"
    depth: str = "identity"
    positions: str = "spread"

    @property
    def preserves(self) -> Preserves:
        """What its width strategy, or else its split, says it keeps."""
        return WIDTH[self.width].preserves or SPLITS[self.split].preserves

    @property
    def function(self) -> bool:
        """Whether its rows say that the function is kept."""
        deeper = not self.deeper or DEPTH[self.depth].preserves.function
        return deeper and (not self.wider or self.preserves.function)

    @property
    def name(self) -> str:
        wider = [self.width, self.split] + [self.sizes] * (self.sizes != "wide") if self.wider else []
        deeper = [self.depth] + [self.positions] * (self.positions != "auto") if self.deeper else []
        return "-".join(wider + deeper)

    def plan(self, config: ModelConfig) -> Plan:
        """The plan from a model of the sizes of `SMALL` to those that it names."""
        sizes = {"wide": WIDE, "doubled": {name: 2 * getattr(config, name) for name in WIDE}} | PARTIAL
        target = replace(config, **(sizes[self.sizes] if self.wider else {}))
        names = {"width": self.width, "split": self.split, "depth": self.depth, "positions": self.positions}
        if not self.deeper:
            return make_plan(config, target, **names)
        depth = _depth_for(self.depth, self.positions)
        return make_plan(config, replace(target, num_layers=depth), scores=SCORES, **names)


@lru_cache
def _depth_for(depth: str, positions: str) -> int:
    """The number of layers to grow to: 5, or another where two new ones cannot be placed."""
    for layers in (DEEP["num_layers"], 4, 6):
        try:
            make_plan(PROBE, replace(PROBE, num_layers=layers), depth=depth, positions=positions, scores=SCORES)
        except GrowthError:
            continue
        return layers
    raise AssertionError(f"{depth}, {positions} takes 3 layers to none of 5, 4, 6")


def _models() -> Iterator[Model]:
    alike: set[object] = set()
    for family in FAMILIES.values():
        traits = replace(family, name="")
        if traits in alike:  # the same class under another name
            continue
        alike.add(traits)
        biased = {"attention_bias": family.attention_bias_allowed, "mlp_bias": family.mlp_bias_allowed}
        window = {"sliding_window": 5 if family.sliding_window_allowed else None}
        # Norms over the heads want whole groups: 20/5 -> 32/8.
        groups = {"num_kv_heads": 5} if family.sub_norms else {}
        basis = replace(PROBE, family=family.name, ternary=None, **groups)
        yield Model(family.name, replace(basis, **biased, **window))
        yield Model(f"{family.name}-tied", replace(basis, tie_embeddings=True))
        if family.ternary:
            yield Model(f"{family.name}-unquantised", replace(basis, ternary=False))


def _growths() -> Iterator[Growth]:
    named = [Growth(wider=True, deeper=True, width=width, split=split) for width in WIDTH for split in SPLITS]
    named += [Growth(wider=True, deeper=False, width=width) for width in WIDTH]
    named += [Growth(wider=True, deeper=True, split="even", sizes="doubled")]
    named += [Growth(wider=False, deeper=True, positions=rule) for rule in POSITIONS]
    named += [
        Growth(wider=False, deeper=True, depth=name, positions="auto" if row.arrange else "spread")
        for name, row in DEPTH.items()
    ]
    alike: set[object] = set()
    for growth in named:
        maps = growth.plan(PROBE).maps
        if maps not in alike:  # where nothing is copied, every split is the same growth
            alike.add(maps)
            yield growth


MODELS = tuple(_models())
GROWTHS = tuple(_growths())
BOTH = Growth(wider=True, deeper=True)
DEEPER = Growth(wider=False, deeper=True)

PAIRS = [(model, growth) for model in MODELS for growth in GROWTHS if model.takes(growth)]
PAIRS += [
    (model, Growth(wider=True, deeper=False, width=width, sizes=sizes))
    for model in MODELS[:2]
    for sizes in PARTIAL
    for width in WIDTH
]
"""Every model with every growth that has a plan, and growth of one axis alone."""

EXACT = [(model, growth) for model, growth in PAIRS if growth.function]
"""Those of which the rows say that the function is kept."""

REFUSED = [(model, growth) for model in MODELS for growth in GROWTHS if not model.takes(growth)]
"""The rest: they must be refused."""

FRESH = replace(BOTH, width="fresh")

EACH_MODEL = [(model, BOTH if model.takes(BOTH) else FRESH) for model in MODELS]
"""Every model once, with the largest growth it has: for contracts that cost much to check."""

_FIRST = {model.widens: model for model in reversed(MODELS)}.values()
FIRST = [(model, growth) for model, growth in PAIRS if model in _FIRST]
"""Every growth of the first model of each kind."""


def cases(
    pairs: list[tuple[Model, Growth]], default: list[tuple[Model, Growth]] | None = None
) -> pytest.MarkDecorator:
    """Parametrise a test over pairs of `model` and `growth`.

    Args:
        pairs: all of them.
        default: those that are run by default, the rest being slow; every growth of the first model of each kind, and
            every other model once, when None.
    """
    slow = set(PAIRS) - set(FIRST + EACH_MODEL if default is None else default)
    return pytest.mark.parametrize(
        ("model", "growth"),
        [
            pytest.param(
                model, growth, id=f"{model.name}-{growth.name}",
                marks=pytest.mark.slow if (model, growth) in slow else (),
            )
            for model, growth in pairs
        ],
    )  # fmt: skip


def in_dtype(config: ModelConfig, dtype: str) -> ModelConfig:
    """The same model with its weights stored in another dtype."""
    return replace(config, dtype=dtype)


@lru_cache(maxsize=64)
def params_for(config: ModelConfig) -> dict:
    """The random parameters of a configuration, drawn once. Read only: many tests share them."""
    return random_params(config)
