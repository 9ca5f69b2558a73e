"""Fields of config.json that change the function beside the sizes: RoPE, windows, biases, ternary weights.

`tests/tprog/test_config_fields.py` holds every field that transformers reads against what is done with it here.
"""

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from tprog.config import ROPE_SCALINGS, RopeScaling
from tprog.errors import ConfigError
from tprog.families import Family

TERNARY_MODE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
"""The quantization_config of a model that rounds its weights in the forward pass."""

_CALLED: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_FULL, _SLIDING = "full_attention", "sliding_attention"
# Fields that transformers acts on in every family, the values under which they change nothing, and the reason.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "is_causal": ((True,), "Attention in both directions is not supported."),
    "per_layer_config": ((None, {}), "Every layer must have the same sizes."),
    "kv_sharing_modes": ((None,), "Layers that share keys and values are not supported."),
    "transformers_weights": ((None,), "Name the weights model.safetensors and remove the field."),
    **dict.fromkeys(
        ("text_config", "text_encoder", "decoder", "generator"),
        ((None,), "Models of several networks are not supported: give the text model's own config.json."),
    ),
}


def refuse(where: object, field: str, expected: str, got: object, remedy: str = "Correct the file.") -> NoReturn:
    """Raise for one field of a config.json.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"{where}: {field}", expected=expected, got=got, remedy=remedy)


def typed(where: object, field: str, value: Any, kind: Any) -> Any:
    """A value of the kind its field has; JSON writes 10000.0 as 10000 too.

    Raises:
        ConfigError: it is of another kind.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > sys.float_info.max:
            refuse(where, field, _CALLED[kind], "one that no float holds")
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        refuse(where, field, _CALLED[kind], repr(value)[:100])
    return value


def check_refused(data: Mapping[str, Any], where: object) -> None:
    """Refuse fields that make transformers compute something that no family here computes.

    Raises:
        ConfigError: there is one.
    """
    for name, (neutral, reason) in _REFUSED.items():
        if name in data and not any(data[name] is value or data[name] == value == {} for value in neutral):
            expected = "true" if True in neutral else "nothing"
            refuse(where, name, expected, repr(data[name])[:100], reason)


def rope(data: Mapping[str, Any], family: Family, max_positions: int, where: object) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of a ModelConfig.

    transformers 4 writes rope_theta and rope_scaling; transformers 5 writes both into rope_parameters. Parameters
    that a kind of scaling does not have are passed over, as transformers does.

    Raises:
        ConfigError: the scaling is unknown, lacks a parameter, or differs between layers.
    """
    block = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if not isinstance(block, Mapping):
        refuse(where, "rope_scaling", "an object", repr(block)[:100])
    block = {name: value for name, value in block.items() if value is not None}
    for name, value in block.items():
        if isinstance(value, Mapping):
            refuse(where, f"rope_scaling.{name}", "one set of parameters for all layers", "an object",
                   "RoPE that differs between layers is not supported.")  # fmt: skip
    theta = block.get("rope_theta", data.get("rope_theta"))
    theta = typed(where, "rope_theta", family.default_rope_theta if theta is None else theta, float)
    part = block.get("partial_rotary_factor", data.get("partial_rotary_factor"))
    if part not in (1.0, None):
        refuse(where, "partial_rotary_factor", "1.0", repr(part)[:60], "Partial RoPE is not supported.")
    kind = block.get("rope_type", block.get("type", "default"))
    if kind == "default":
        return {"rope_theta": theta}
    known = ROPE_SCALINGS.get(kind, ()) if isinstance(kind, str) else ()
    if (original := "original_max_position_embeddings") in known:
        # transformers prefers the field beside the block, and without either takes the model's own length.
        block[original] = data.get(original) or block.get(original, max_positions)
    parameters = {
        name: value if isinstance(value, int) else typed(where, f"rope_scaling.{name}", value, float)
        for name, value in block.items()
        if name in known
    }
    try:
        return {"rope_theta": theta, "rope_scaling": RopeScaling.of(str(kind), **parameters)}
    except ConfigError as error:
        refuse(where, error.where, error.expected, error.got, error.remedy)


def attention(
    data: Mapping[str, Any], family: Family, layers: int, max_positions: int, where: object
) -> dict[str, Any]:
    """`sliding_window`, `attention_bias` and `mlp_bias` of a ModelConfig.

    Raises:
        ConfigError: layers look back differently far, or not as far as this family lets them.
    """
    has_window = _has_window(data, family, layers, where)
    values: dict[str, Any] = {}
    if family.sliding_window_allowed:
        window = data.get("sliding_window", 4096)
        values["sliding_window"] = None if window is None else typed(where, "sliding_window", window, int)
    elif has_window:
        refuse(where, "layer_types", f"{_FULL} in every layer", _SLIDING,
               "Windows in some layers only are not supported.")  # fmt: skip
    elif "layer_types" not in data and not family.window_switch:
        # These classes attend to everything in one pass, and to the window alone when they generate from a cache.
        _check_unbounded(data, "sliding_window", max_positions, where)
    _check_unbounded(data, "attention_chunk_size", max_positions, where)
    for name, allowed in (("attention_bias", family.attention_bias_allowed), ("mlp_bias", family.mlp_bias_allowed)):
        if allowed:
            values[name] = typed(where, name, False if data.get(name) is None else data[name], bool)
    return values


def ternary(data: Mapping[str, Any], family: Family, where: object) -> bool:
    """Whether linear layers run on ternary weights.

    A bitnet file without a quantisation block runs as plain linear layers, in transformers and so here.

    Raises:
        ConfigError: weights are quantised in another way.
    """
    block = data.get("quantization_config")
    if block is None:
        return False
    online = isinstance(block, Mapping) and all(block.get(k) == v for k, v in TERNARY_MODE.items())
    every_layer = online and block.get("modules_to_not_convert") in (None, ["lm_head"])
    if not family.ternary or not every_layer or block.get("use_rms_norm"):
        refuse(
            where,
            "quantization_config",
            "none" if not family.ternary else f"{TERNARY_MODE}",
            str(block)[:200],
            "Quantised weights cannot be grown: start from the unquantised (master) weights.",
        )
    return True


def _has_window(data: Mapping[str, Any], family: Family, layers: int, where: object) -> bool:
    """Whether a layer looks back a window only, by `layer_types` or by the fields from which qwen derives it."""
    kinds = data.get("layer_types")
    if kinds is not None:
        known = isinstance(kinds, list) and all(kind in (_FULL, _SLIDING) for kind in kinds)
        if not known or len(kinds) != layers:
            refuse(where, "layer_types", f"{_FULL} for each of {layers} layers", str(kinds)[:100],
                   "Layers of other kinds are not supported.")  # fmt: skip
        return _SLIDING in kinds
    if not family.window_switch or not data.get("use_sliding_window") or data.get("sliding_window", 4096) is None:
        return False
    first = data.get("max_window_layers")
    return layers > typed(where, "max_window_layers", 28 if first is None else first, int)


def _check_unbounded(data: Mapping[str, Any], name: str, max_positions: int, where: object) -> None:
    window = data.get(name)
    if window is not None and typed(where, name, window, int) < max_positions:
        refuse(where, name, f"none, or at least max_position_embeddings ({max_positions})", window,
               "This family is not computed with a window here.")  # fmt: skip
