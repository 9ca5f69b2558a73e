"""What is compared: the sizes, and one row a variant."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tprog import ModelConfig

from tritter_jax.growth import Plan, make_plan

LARGE = ModelConfig(
    family="llama",
    hidden_size=72,
    num_layers=6,
    num_heads=6,
    num_kv_heads=3,
    head_dim=12,
    intermediate_size=192,
    vocab_size=320,  # bytes and the special tokens
    max_position_embeddings=128,
)
"""What every variant ends as, but for those that never grow: 0.4M parameters."""

_NARROW = {"hidden_size": 48, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 128}

SMALL = {
    "depth": replace(LARGE, num_layers=4),
    "width": replace(LARGE, **_NARROW),
    "both": replace(LARGE, num_layers=4, **_NARROW),
    "depth x2": replace(LARGE, num_layers=3),
}
"""What is grown, by the axis that grows: x1.5 along each, but x2 where a whole stack is stacked on itself."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to spend the FLOPs.

    Args:
        name: its name in files and tables.
        small: a key of `SMALL`: what it begins as; None to begin large.
        grows: whether it becomes `LARGE` on its way.
        options: those of `make_plan` that are no defaults.
        moments: a key of `tritter_jax.growth.MOMENTS`.
        rewarm: share of its FLOPs over which the new entries' learning rate is warmed up again; 0 for none.
        flops: FLOPs it may spend, as a multiple of the others'.
    """

    name: str
    small: str | None
    grows: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    moments: str = "asymmetric"
    rewarm: float = 0.0
    flops: float = 1.0

    @property
    def first(self) -> ModelConfig:
        """The configuration it begins as."""
        return LARGE if self.small is None else SMALL[self.small]

    def plan(self, seed: int) -> Plan | None:
        """Its growth; None where it does not grow."""
        if self.small is None or not self.grows:
            return None
        return make_plan(self.first, LARGE, seed=seed, **self.options)


def _scratch(flops: float) -> Variant:
    name = "from scratch" if flops == 1 else f"from scratch, {flops:g} x the FLOPs"
    return Variant(name=name, small=None, flops=flops)


SCRATCH = _scratch(1.0)
DEPTH = Variant(name="depth x1.5, identity uniform", small="depth", options={"positions": "uniform"})
WIDTH = Variant(name="width x1.5, duplicate uneven, asymmetric", small="width")
BOTH = Variant(name="both x1.5, identity uniform, duplicate uneven, asymmetric", small="both")

PAYS = (
    _scratch(0.75), SCRATCH, _scratch(1.5),
    DEPTH, WIDTH, BOTH,
    Variant(name="not grown, for depth", small="depth", grows=False),
    Variant(name="not grown, for width", small="width", grows=False),
    Variant(name="not grown, for both", small="both", grows=False),
)  # fmt: skip
"""Small-then-grown against large-from-scratch, and against small for ever.

The other two lengths from scratch say how many FLOPs from scratch the loss of a grown model is worth."""


def _depth(name: str, small: str = "depth", **options: Any) -> Variant:
    return Variant(name=f"depth x{2 if small == 'depth x2' else 1.5}, {name}", small=small, options=options)


def _even(noise: float) -> Variant:
    name = f"width x1.5, duplicate even, symmetric, noise {noise:g} dB"
    return Variant(name=name, small="width", options={"split": "even", "noise": noise}, moments="transport")


STRATEGIES = (
    SCRATCH,
    DEPTH,
    _depth("identity middle", positions="middle"),
    _depth("identity top", positions="top"),
    _depth("copy uniform", depth="copy", positions="uniform"),
    _depth("solar", depth="solar"),
    _depth("identity uniform", "depth x2", positions="uniform"),
    _depth("stack", "depth x2", depth="stack"),
    WIDTH,
    replace(WIDTH, name=f"{WIDTH.name}, re-warmed", rewarm=0.05),
    replace(WIDTH, name="width x1.5, duplicate uneven, transport", moments="transport"),
    Variant(name="width x1.5, duplicate even, asymmetric", small="width", options={"split": "even"}),
    Variant(
        name="width x1.5, duplicate even, symmetric", small="width", options={"split": "even"}, moments="transport"
    ),
    _even(30), _even(10), _even(0),
    Variant(name="width x1.5, fresh", small="width", options={"width": "fresh"}),
)  # fmt: skip
"""The strategies side by side. `stack` takes whole multiples alone, so it stands beside identity at x2; what comes
nearest to it at x1.5 is `solar`. Symmetric are equal shares with moments to match, which is what noise is for."""

COMPARISONS = {"pays": PAYS, "strategies": STRATEGIES}
"""The comparisons by name."""
