"""The configurations on which every family is held equal to transformers."""

from tprog import FAMILIES, ModelConfig, RopeScaling

from tests.support import odd_config

LLAMA3_ROPE = RopeScaling.of(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
_FOR_ALL: dict[str, dict] = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "one kv head": {"num_kv_heads": 1},
    "all kv heads": {"num_kv_heads": 6},
}
_FOR_SOME: dict[str, tuple[dict, tuple[str, ...]]] = {
    "attention bias": ({"attention_bias": True}, ("llama", "qwen3", "bitnet")),
    "mlp bias": ({"mlp_bias": True}, ("llama",)),
    "sliding window": ({"sliding_window": 5}, ("mistral",)),
    "linear rope": ({"rope_scaling": RopeScaling.of("linear", factor=4.0)}, ("llama", "qwen2")),
    "llama3 rope": ({"rope_scaling": LLAMA3_ROPE}, ("llama",)),
}


def _unquantised(family: str, change: dict) -> ModelConfig:
    """Without the rounding of ternary families, which turns the last bit of a sum into a whole level."""
    return odd_config(family, **change, **({"ternary": False} if FAMILIES[family].ternary else {}))


def _all() -> dict[str, ModelConfig]:
    found = {
        f"{family}-{name}": _unquantised(family, change) for family in FAMILIES for name, change in _FOR_ALL.items()
    }
    for name, (change, families) in _FOR_SOME.items():
        found |= {f"{family}-{name}": _unquantised(family, change) for family in families}
    return found


VARIANTS = _all()
"""Every configuration by name."""

FULL = {
    family: _unquantised(
        family,
        {
            "attention_bias": record.attention_bias_allowed,
            "mlp_bias": record.mlp_bias_allowed,
            "sliding_window": 5 if record.sliding_window_allowed else None,
        },
    )
    for family, record in FAMILIES.items()
}
"""Each family once, with every parameter it can have."""
