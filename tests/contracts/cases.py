"""The registry of cases: every model x every growth that the library's own registries name.

A new row in `tprog.FAMILIES` or in WIDTH, SPLITS, DEPTH or POSITIONS of `tritter_jax.growth` is a new case here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest
from tprog import FAMILIES, GrowthError, ModelConfig

from tests.support import random_params
from tritter_jax.growth import DEPTH, POSITIONS, SPLITS, WIDTH, Plan, make_plan

SMALL = {"num_layers": 3, "hidden_size": 160, "num_heads": 20, "num_kv_heads": 4, "intermediate_size": 192}
WIDE = {"hidden_size": 256, "num_heads": 32, "num_kv_heads": 8, "intermediate_size": 336}
DEEP = {"num_layers": 5}
PROBE = ModelConfig(**SMALL, head_dim=8, vocab_size=104, max_position_embeddings=64)


@dataclass(frozen=True)
class Model:
    """A model to grow, by the name it has in test ids."""

    name: str
    config: ModelConfig

    @property
    def widens(self) -> bool:
        """Whether it has exact plans in width: not yet with norms over heads and feed-forward units."""
        return not self.config.family_record.sub_norms


@dataclass(frozen=True)
class Growth:
    """What is done to a model, by the names of the registries."""

    wider: bool
    deeper: bool
    width: str = "duplicate"
    split: str = "uneven"
    depth: str = "identity"
    positions: str = "spread"

    @property
    def name(self) -> str:
        wider = [self.width, self.split] if self.wider else []
        deeper = [self.depth, self.positions] if self.deeper else []
        return "-".join(wider + deeper)

    def plan(self, config: ModelConfig) -> Plan:
        """The plan for a model of the sizes of `SMALL`, to `WIDE`, to `DEEP` or to both."""
        target = replace(config, **(WIDE if self.wider else {}))
        names = {"width": self.width, "split": self.split, "depth": self.depth, "positions": self.positions}
        if not self.deeper:
            return make_plan(config, target, **names)
        return make_plan(config, replace(target, num_layers=_depth_for(self.positions)), **names)


@lru_cache
def _depth_for(positions: str) -> int:
    """The number of layers to grow to: 5, or another where the rule cannot place two new ones."""
    for layers in (DEEP["num_layers"], 6, 4):
        try:
            make_plan(PROBE, replace(PROBE, num_layers=layers), positions=positions)
        except GrowthError:
            continue
        return layers
    raise AssertionError(f"positions {positions} takes 3 layers to none of 5, 6, 4")


def _models() -> Iterator[Model]:
    alike: set[object] = set()
    for family in FAMILIES.values():
        traits = replace(family, name="")
        if traits in alike:  # the same class under another name
            continue
        alike.add(traits)
        biased = {"attention_bias": family.attention_bias_allowed, "mlp_bias": family.mlp_bias_allowed}
        window = {"sliding_window": 5 if family.sliding_window_allowed else None}
        basis = replace(PROBE, family=family.name, ternary=None)
        yield Model(family.name, replace(basis, **biased, **window))
        yield Model(f"{family.name}-tied", replace(basis, tie_embeddings=True))
        if family.ternary:
            yield Model(f"{family.name}-unquantised", replace(basis, ternary=False))


def _growths() -> Iterator[Growth]:
    named = [Growth(wider=True, deeper=True, width=width, split=split) for width in WIDTH for split in SPLITS]
    named += [Growth(wider=True, deeper=False, width=width) for width in WIDTH]
    named += [Growth(wider=False, deeper=True, depth=depth, positions=rule) for depth in DEPTH for rule in POSITIONS]
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

PAIRS = [(model, growth) for model in MODELS for growth in GROWTHS if model.widens or not growth.wider]
"""Every model with every growth that has a plan."""

REFUSED = [(model, growth) for model in MODELS for growth in GROWTHS if growth.wider and not model.widens]
"""The rest: they must be refused."""

EACH_MODEL = [(model, BOTH if model.widens else DEEPER) for model in MODELS]
"""Every model once, with the largest growth it has: for contracts that cost much to check."""


def cases(pairs: list[tuple[Model, Growth]]) -> pytest.MarkDecorator:
    """Parametrise a test over pairs of `model` and `growth`."""
    ids = [f"{model.name}-{growth.name}" for model, growth in pairs]
    return pytest.mark.parametrize(("model", "growth"), pairs, ids=ids)


def in_dtype(config: ModelConfig, dtype: str) -> ModelConfig:
    """The same model with its weights stored in another dtype."""
    return replace(config, dtype=dtype)


@lru_cache(maxsize=64)
def params_for(config: ModelConfig) -> dict:
    """The random parameters of a configuration, drawn once. Read only: many tests share them."""
    return random_params(config)
