"""Hugging Face config.json to ModelConfig and back, with nothing that changes the function passed over."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

from tprog.config import ModelConfig, RopeScaling
from tprog.errors import ConfigError
from tprog.families import BY_MODEL_TYPE, Family
from tprog.jsonio import read_json

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
    *("transformers_version", "_name_or_path"),
}
_TERNARY_MODE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
_SCALING_EXTRAS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def load_config(path: Path) -> ModelConfig:
    """Read a config.json.

    Raises:
        FormatError: the file is not a JSON object.
        ConfigError: a field is missing or has no exact equivalent here; the message names file and field.
    """
    return config_from_json(read_json(path), where=path)


def config_from_json(data: Mapping[str, Any], *, where: object = "config.json") -> ModelConfig:
    """The ModelConfig that a config.json describes.

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
    values: dict[str, Any] = {"family": family.name}
    for _, theirs in _FIELDS[:_REQUIRED]:
        if data.get(theirs) is None:
            _refuse(where, theirs, "a whole number", "nothing")
    for ours, theirs in _FIELDS:
        if data.get(theirs) is not None:
            values[ours] = _typed(where, theirs, data[theirs], _KINDS[ours])
    if "num_key_value_heads" not in data and family.model_type not in ("llama", "qwen3"):
        _refuse(where, "num_key_value_heads", "a whole number", "nothing")
    values.setdefault("num_kv_heads", values["num_heads"])
    values.setdefault("head_dim", family.default_head_dim)
    values.setdefault("norm_eps", family.default_norm_eps)
    values.setdefault("max_position_embeddings", 2048)
    activation = data.get("hidden_act", family.activation)
    if activation not in (family.activation, {"silu": "swish"}.get(family.activation)):
        _refuse(where, "hidden_act", family.activation, repr(activation))
    values.update(_rope(data, family, where), **_attention(data, family, where))
    values["ternary"] = _ternary(data, family, where)
    values["dtype"] = str(data.get("dtype") or data.get("torch_dtype") or "float32").removeprefix("torch.")
    consumed = _CONSUMED | ({"sliding_window"} if family.sliding_window_allowed else set())
    values["extra"] = {name: value for name, value in data.items() if name not in consumed}
    try:
        return ModelConfig(**values)
    except ConfigError as error:
        raise ConfigError(
            f"{where}: {error.where}", expected=error.expected, got=error.got, remedy=error.remedy
        ) from None


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
        data["quantization_config"] = dict(_TERNARY_MODE)
    return data | dict(config.extra)


def as_family(config: ModelConfig, name: str) -> ModelConfig:
    """The same model under another family name, where both mean the same class; unchanged where they do not."""
    renamed = BY_MODEL_TYPE.get(config.family_record.model_type)
    if name == "tritter" and renamed is not None and renamed.name == "llama":
        return replace(config, family="tritter")
    return config


_KINDS: dict[str, Any] = {f.name: f.type for f in fields(ModelConfig)}
_CALLED: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _typed(where: object, field: str, value: Any, kind: Any) -> Any:
    """A value of the kind its field has; JSON writes 10000.0 as 10000 too."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        _refuse(where, field, _CALLED[kind], repr(value)[:100])
    return value


def _refuse(where: object, field: str, expected: str, got: str, remedy: str = "Mend the file.") -> NoReturn:
    raise ConfigError(f"{where}: {field}", expected=expected, got=got, remedy=remedy)


def _family(data: Mapping[str, Any], where: object) -> Family:
    model_type = data.get("model_type")
    if not isinstance(model_type, str) or model_type not in BY_MODEL_TYPE:
        _refuse(
            where,
            "model_type",
            f"one of {', '.join(BY_MODEL_TYPE)}",
            repr(model_type),
            "Only these families are supported.",
        )
    return BY_MODEL_TYPE[model_type]


def _rope(data: Mapping[str, Any], family: Family, where: object) -> dict[str, Any]:
    """transformers 4 writes rope_theta and rope_scaling; transformers 5 writes both into rope_parameters."""
    block = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if not isinstance(block, Mapping):
        _refuse(where, "rope_scaling", "an object", repr(block))
    theta = block.get("rope_theta", data.get("rope_theta", family.default_rope_theta))
    theta = _typed(where, "rope_theta", theta, float)
    part = block.get("partial_rotary_factor", data.get("partial_rotary_factor", 1.0))
    if part not in (1.0, None):
        _refuse(where, "partial_rotary_factor", "1.0", repr(part)[:60])
    kind = block.get("rope_type", block.get("type", "default"))
    if kind == "default":
        return {"rope_theta": theta}
    parameters = {
        name: value if isinstance(value, int) else _typed(where, f"rope_scaling.{name}", value, float)
        for name, value in block.items()
        if name not in _SCALING_EXTRAS
    }
    try:
        return {"rope_theta": theta, "rope_scaling": RopeScaling.of(str(kind), **parameters)}
    except ConfigError as error:
        _refuse(where, error.where, error.expected, error.got, error.remedy)


def _attention(data: Mapping[str, Any], family: Family, where: object) -> dict[str, Any]:
    if data.get("use_sliding_window"):
        _refuse(where, "use_sliding_window", "false", "true", "Windows in some layers only are not supported.")
    kinds = data.get("layer_types") or ["full_attention"]
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        _refuse(
            where,
            "layer_types",
            "full_attention in every layer",
            str(kinds)[:100],
            "Windows in some layers only are not supported.",
        )
    values: dict[str, Any] = {}
    if family.sliding_window_allowed:
        window = data.get("sliding_window", 4096)
        values["sliding_window"] = None if window is None else _typed(where, "sliding_window", window, int)
    if family.attention_bias_allowed:
        values["attention_bias"] = _typed(where, "attention_bias", data.get("attention_bias", False), bool)
    if family.mlp_bias_allowed:
        values["mlp_bias"] = _typed(where, "mlp_bias", data.get("mlp_bias", False), bool)
    return values


def _ternary(data: Mapping[str, Any], family: Family, where: object) -> bool:
    """A bitnet file without a quantisation block runs as plain linear layers, in transformers and so here."""
    block = data.get("quantization_config")
    if block is None:
        return False
    online = isinstance(block, Mapping) and all(block.get(k) == v for k, v in _TERNARY_MODE.items())
    if not family.ternary or not online or block.get("use_rms_norm"):
        _refuse(
            where,
            "quantization_config",
            "none" if not family.ternary else f"{_TERNARY_MODE}",
            str(block)[:200],
            "Quantised weights cannot be grown: start from the unquantised (master) weights.",
        )
    return True
