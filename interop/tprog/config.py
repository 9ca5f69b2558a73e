"""ModelConfig: the one description of a model's shape and arithmetic."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from tprog.errors import ConfigError
from tprog.families import FAMILIES, Family

SIZE_FIELDS = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
"""The fields of `ModelConfig` that growth changes."""

MAX_LAYERS, MAX_LENGTH = 10_000, 1 << 26
"""Largest number of layers, and largest length of any other axis, that a configuration may ask for."""

DTYPES = ("float64", "float32", "bfloat16", "float16")
"""Names of the dtypes weights may be stored in."""

ROPE_SCALINGS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Known stretchings of the rotary wavelengths, and the parameters each needs."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """A stretching of the rotary embedding's wavelengths, as `rope_scaling` of config.json names it.

    Args:
        kind: a key of `ROPE_SCALINGS`.
        parameters: its numbers, by the names config.json gives them, sorted.

    Raises:
        ConfigError: the kind is unknown, or a parameter is missing, unknown or not a number above 0.

    Example:
        >>> RopeScaling.of("linear", factor=4.0).parameters
        (('factor', 4.0),)
    """

    kind: str
    parameters: tuple[tuple[str, float | int], ...]

    def __post_init__(self) -> None:
        if self.kind not in ROPE_SCALINGS:
            raise ConfigError(
                "rope_scaling.rope_type",
                expected=f"one of default, {', '.join(ROPE_SCALINGS)}",
                got=repr(self.kind),
                remedy="Models with another scaling cannot be computed here yet.",
            )
        names = ROPE_SCALINGS[self.kind]
        values = dict(self.parameters)
        if set(values) != set(names) or not all(_is_positive(value) for value in values.values()):
            raise ConfigError(
                f"rope_scaling ({self.kind})",
                expected=f"numbers above 0 for {', '.join(names)}",
                got=values,
                remedy="Mend config.json.",
            )

    @classmethod
    def of(cls, kind: str, **parameters: float | int) -> "RopeScaling":
        """Build from keyword parameters."""
        return cls(kind=kind, parameters=tuple(sorted(parameters.items())))

    def __getitem__(self, name: str) -> float | int:
        return dict(self.parameters)[name]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and arithmetic of one decoder-only model; frozen, hashable, free of arrays.

    Args:
        family: a key of `tprog.families.FAMILIES`.
        hidden_size: width D of the residual stream.
        num_layers: number L of decoder layers.
        num_heads: number H of query heads.
        num_kv_heads: number of key and value heads; divides `num_heads`.
        head_dim: width K of one head; `hidden_size / num_heads` when left out.
        intermediate_size: width F of the feed-forward layer.
        vocab_size: number V of token ids.
        max_position_embeddings: longest sequence the model was made for.
        rope_theta: base of the rotary embedding's wavelengths.
        rope_scaling: stretching of those wavelengths, or None.
        norm_eps: the epsilon inside every RMSNorm.
        tie_embeddings: whether the output layer is the embedding itself.
        attention_bias: bias on query, key, value and output projections (llama, qwen3, bitnet).
        mlp_bias: bias on the three feed-forward projections (llama).
        sliding_window: number of positions a query looks back, itself included; None for all (mistral).
        ternary: whether linear layers run on ternary weights and 8-bit activations; the family's own when None.
        initializer_range: standard deviation of freshly initialised weights.
        dtype: name of the dtype the weights are stored in.
        extra: the other fields of the config.json this was read from (token ids and the like), kept as JSON.

    Raises:
        ConfigError: a field breaks its rule; the message names field, value and rule.

    Example:
        >>> config = ModelConfig(hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96)
        >>> config.head_dim, config.group_size
        (16, 2)
    """

    family: str = "tritter"
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int = 0
    intermediate_size: int
    vocab_size: int = 65536
    max_position_embeddings: int = 4096
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    ternary: bool | None = None
    initializer_range: float = 0.02
    dtype: str = "float32"
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or self.family not in FAMILIES:
            raise ConfigError.unknown("family", self.family, FAMILIES)
        for name in (
            "hidden_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "intermediate_size",
            "vocab_size",
        ):
            limit = MAX_LAYERS if name == "num_layers" else MAX_LENGTH
            self._check(name, f"a whole number from 1 to {limit}", _is_count(getattr(self, name), limit))
        if not self.head_dim:
            self._check(
                "hidden_size",
                f"a multiple of num_heads ({self.num_heads}) where head_dim is not given",
                self.hidden_size % self.num_heads == 0,
            )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        self._check("head_dim", "an even number above 0 (rotary embedding turns pairs)",
                    _is_count(self.head_dim, MAX_LENGTH) and self.head_dim % 2 == 0)  # fmt: skip
        self._check("num_heads", f"a multiple of num_kv_heads ({self.num_kv_heads})",
                    self.num_heads % self.num_kv_heads == 0)  # fmt: skip
        self._check("max_position_embeddings", "a whole number above 0", _is_count(self.max_position_embeddings))
        self._check("sliding_window", "a whole number above 0, or none",
                    self.sliding_window is None or _is_count(self.sliding_window))  # fmt: skip
        for name in ("rope_theta", "norm_eps", "initializer_range"):
            self._check(name, "a finite number above 0", _is_positive(getattr(self, name)))
        self._check("dtype", f"one of {', '.join(DTYPES)}", self.dtype in DTYPES)
        record = self.family_record
        self._check("attention_bias", f"false for family {self.family}",
                    record.attention_bias_allowed or not self.attention_bias)  # fmt: skip
        self._check("mlp_bias", f"false for family {self.family}", record.mlp_bias_allowed or not self.mlp_bias)
        self._check("sliding_window", f"none for family {self.family}",
                    record.sliding_window_allowed or self.sliding_window is None)  # fmt: skip
        if self.ternary is None:
            object.__setattr__(self, "ternary", record.ternary)
        self._check("ternary", f"false for family {self.family}", record.ternary or not self.ternary)
        if record.sub_norms:
            self._check("hidden_size", f"num_heads x head_dim ({self.num_heads * self.head_dim}) for this family",
                        self.hidden_size == self.num_heads * self.head_dim)  # fmt: skip
        object.__setattr__(self, "extra", MappingProxyType(dict(self.extra)))

    def _check(self, name: str, rule: str, holds: bool) -> None:
        if not holds:
            raise ConfigError(
                name, expected=rule, got=repr(getattr(self, name))[:60], remedy="Mend the configuration."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"extra": dict(self.extra)}
        return (_rebuild, (values,))

    @property
    def family_record(self) -> Family:
        """The fixed traits of this configuration's family."""
        return FAMILIES[self.family]

    @property
    def group_size(self) -> int:
        """Number of query heads that share one key and value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def axis_sizes(self) -> Mapping[str, int]:
        """Length of every logical axis the parameter table speaks of."""
        return {
            "layers": self.num_layers,
            "hidden": self.hidden_size,
            "heads": self.num_heads,
            "kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "mlp": self.intermediate_size,
            "vocab": self.vocab_size,
        }

    def resized(self, other: "ModelConfig") -> "ModelConfig":
        """This model at another's size: its hidden, layers, heads, kv heads, head_dim and mlp, all else kept."""
        return replace(self, **{name: getattr(other, name) for name in SIZE_FIELDS})


def _rebuild(values: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**values)


def _is_count(value: object, limit: int = 1 << 31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= limit


def _is_positive(value: object) -> bool:
    # Compared rather than converted: a whole number of JSON may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
