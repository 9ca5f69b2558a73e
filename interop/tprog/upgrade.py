"""progressive.json as it was before version 1.0.0, in the names of today."""

from collections.abc import Mapping
from typing import Any

from tprog.sizes import SIZES


def upgrade(data: Mapping[str, Any]) -> dict[str, Any]:
    """The earlier minimal schema in the names of the present one; what has no place in it is kept as it is.

    Example:
        >>> upgrade({"format_version": "1.0", "training_state": {"current_step": 5}})
        {'format_version': '1.0.0', 'training_progress': {'steps': 5}}
    """
    result = dict(data)
    for old, (new, names) in _RENAMED.items():
        block = result.get(old)
        if isinstance(block, Mapping) and new not in result:
            del result[old]
            result[new] = {names.get(name, name): value for name, value in block.items()}
    analysis = result.get("recommended_expansion")
    if isinstance(analysis, dict) and "layer_importance_scores" in analysis and "expansion_config" in data:
        result.setdefault("layer_analysis", {"importance_scores": analysis.pop("layer_importance_scores")})
        if "next_size" not in analysis:
            result["expansion_config"] = result.pop("recommended_expansion")
    size = result.get("current_size")
    if isinstance(size, dict) and "architecture" in data:
        size.setdefault("model_size", _label(size))
    if any(old in data for old in _RENAMED) and str(data.get("format_version")).count(".") == 1:
        result["format_version"] = f"{data['format_version']}.0"
    return result


_RENAMED: dict[str, tuple[str, dict[str, str]]] = {
    "architecture": ("current_size", {}),
    "training_state": ("training_progress", {"total_tokens_seen": "tokens_seen", "current_step": "steps"}),
    "expansion_config": ("recommended_expansion", {"recommended_next_size": "next_size"}),
    "ewc_fisher": ("ewc_config", {"stored": "enabled", "path": "fisher_path"}),
}


def _label(size: Mapping[str, Any]) -> str:
    names = ("hidden_size", "num_layers", "num_heads", "num_kv_heads")
    dimensions = tuple(size.get(name) for name in names)
    return next((label for label, known in SIZES.items() if known[:4] == dimensions), "custom")
