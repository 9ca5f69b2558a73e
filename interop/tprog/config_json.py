"""Hugging Face config.json to ModelConfig and back, with nothing that changes the function passed over."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tprog.config import ModelConfig
from tprog.config_function import TERNARY_MODE, attention, check_refused, refuse, rope, ternary, typed
from tprog.errors import ConfigError
from tprog.families import BY_MODEL_TYPE, Family
from tprog.jsonio import read_json
from tprog.remote_code import CODE_FIELDS

# Our field, its name in config.json. Every one is written; the first five are required when reading.
_FIELDS: tuple[tuple[str, str], ...] = (
    ("hidden_size", "hidden_size"),
    ("num_layers", "num_hidden_layers"),
    ("num_heads", "num_attention_heads"),
    ("intermediate_size", "intermediate_size"),
    ("vocab_size", "vocab_size"),
    ("num_kv_heads", "num_key_value_heads"),
    ("head_dim", "head_dim"),
    ("max_position_embeddings", "max_position_embeddings"),
    ("norm_eps", "rms_norm_eps"),
    ("tie_embeddings", "tie_word_embeddings"),
    ("initializer_range", "initializer_range"),
)
_REQUIRED = 5
# Read by name below, or derived from the rest when written.
_CONSUMED = {name for _, name in _FIELDS} | {
    *("model_type", "architectures", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters"),
    *("attention_bias", "mlp_bias", "layer_types", "torch_dtype", "dtype", "quantization_config"),
    *("transformers_version", "_name_or_path", *CODE_FIELDS),
}


def load_config(path: Path) -> ModelConfig:
    """Read a config.json.

    Raises:
        FormatError: the file is not a JSON object.
        ConfigError: a field is missing or has no exact equivalent here; the message names file and field.
    """
    return config_from_json(read_json(path), where=path)


def config_from_json(data: Mapping[str, Any], *, where: object = "config.json") -> ModelConfig:
    """The ModelConfig that a config.json describes. A null is a field left out: the default of the class.

    Raises:
        ConfigError: a field is missing, malformed, or asks for something no family here computes.

    Example:
        >>> config = config_from_json({
        ...     "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        ...     "intermediate_size": 96, "vocab_size": 100})
        >>> config.family, config.num_kv_heads
        ('llama', 4)
    """
    family = _family(data, where)
    check_refused(data, where)
    values: dict[str, Any] = {"family": family.name}
    for _, theirs in _FIELDS[:_REQUIRED]:
        if data.get(theirs) is None:
            refuse(where, theirs, "a whole number", "nothing")
    for ours, theirs in _FIELDS:
        if data.get(theirs) is not None:
            values[ours] = typed(where, theirs, data[theirs], _KINDS[ours])
    # Left out it is the class's own number; null is as many as there are query heads.
    own = family.default_kv_heads if "num_key_value_heads" not in data else 0
    values.setdefault("num_kv_heads", own or values["num_heads"])
    values.setdefault("head_dim", family.default_head_dim)
    values.setdefault("norm_eps", family.default_norm_eps)
    longest = values.setdefault("max_position_embeddings", family.default_max_positions)
    activation = data.get("hidden_act") or family.activation
    if activation not in (family.activation, {"silu": "swish"}.get(family.activation)):
        refuse(where, "hidden_act", family.activation, repr(activation)[:60])
    values |= rope(data, family, longest, where)
    values |= attention(data, family, values["num_layers"], longest, where)
    values["ternary"] = ternary(data, family, where)
    values["dtype"] = _dtype(data)
    try:
        config = ModelConfig(**values)
    except ConfigError as error:
        raise ConfigError(
            f"{where}: {error.where}", expected=error.expected, got=error.got, remedy=error.remedy
        ) from None
    consumed = _consumed(data, config)
    return replace(config, extra={name: value for name, value in data.items() if name not in consumed})


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, in the names that transformers 4 and 5 both read.

    Example:
        >>> from tprog.sizes import named_size
        >>> data = config_to_json(named_size("3B"))
        >>> data["architectures"], data["num_hidden_layers"]
        (['LlamaForCausalLM'], 26)
    """
    family = config.family_record
    data: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.model_type}
    data |= {theirs: getattr(config, ours) for ours, theirs in _FIELDS}
    data |= {"hidden_act": family.activation, "rope_theta": config.rope_theta, "torch_dtype": config.dtype}
    if config.rope_scaling is not None:
        data["rope_scaling"] = {"rope_type": config.rope_scaling.kind, **dict(config.rope_scaling.parameters)}
    if family.attention_bias_allowed:
        data["attention_bias"] = config.attention_bias
    if family.mlp_bias_allowed:
        data["mlp_bias"] = config.mlp_bias
    if family.sliding_window_allowed:
        data["sliding_window"] = config.sliding_window
    if config.ternary:
        data["quantization_config"] = dict(TERNARY_MODE)
    return data | dict(config.extra)


def as_family(config: ModelConfig, name: str) -> ModelConfig:
    """The same model under another family name, where both mean the same class; unchanged where they do not."""
    renamed = BY_MODEL_TYPE.get(config.family_record.model_type)
    if name == "tritter" and renamed is not None and renamed.name == "llama":
        return replace(config, family="tritter")
    return config


_KINDS: dict[str, Any] = {f.name: f.type for f in fields(ModelConfig)}


def _family(data: Mapping[str, Any], where: object) -> Family:
    model_type = data.get("model_type")
    if not isinstance(model_type, str) or model_type not in BY_MODEL_TYPE:
        refuse(
            where,
            "model_type",
            f"one of {', '.join(BY_MODEL_TYPE)}",
            repr(model_type),
            "Only these families are supported.",
        )
    return BY_MODEL_TYPE[model_type]


def _consumed(data: Mapping[str, Any], config: ModelConfig) -> set[str]:
    """Fields not kept beside the model: those read, and those that hold for the source's number of layers alone."""
    family = config.family_record
    names = set(_CONSUMED)
    if not family.window_switch:
        names.add("sliding_window")
    elif data.get("use_sliding_window"):
        names |= {"use_sliding_window", "max_window_layers", "sliding_window"}
    if config.rope_scaling is not None and "original_max_position_embeddings" in dict(config.rope_scaling.parameters):
        names.add("original_max_position_embeddings")
    return names


def _dtype(data: Mapping[str, Any]) -> str:
    name = str(data.get("dtype") or data.get("torch_dtype") or "auto").removeprefix("torch.")
    return "float32" if name == "auto" else name
