"""Model families: the traits that tell one Hugging Face decoder class from another."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is fixed for every model of one family; sizes and switches live in `ModelConfig`.

    Args:
        name: the key in `FAMILIES`.
        model_type: `model_type` of the Hugging Face config.json.
        architecture: class name in transformers.
        activation: the gate's activation; `relu2` is the square of ReLU.
        qkv_bias: bias on query, key and value always.
        qk_norm: RMSNorm over each query and key head.
        sub_norms: RMSNorm before the attention output and before the down projection.
        ternary: linear layers run on ternary weights and 8-bit activations (BitNet b1.58).
        default_head_dim: head_dim of a config.json that names none; 0 for hidden_size / num_heads.
        attention_bias_allowed: whether config.json may ask for bias on all four projections.
        mlp_bias_allowed: whether config.json may ask for bias in the feed-forward layer.
        sliding_window_allowed: whether every layer may look back a bounded window.
        window_switch: whether `use_sliding_window` and `max_window_layers` say which layers look back a window.
        default_kv_heads: num_key_value_heads of a config.json that does not name it; 0 for num_attention_heads.
        default_max_positions: max_position_embeddings of a config.json that names none.
        default_rope_theta: rope_theta of a config.json that names none.
        default_norm_eps: rms_norm_eps of a config.json that names none.

    Example:
        >>> FAMILIES["qwen3"].qk_norm
        True
    """

    name: str
    model_type: str
    architecture: str
    activation: Literal["silu", "relu2"] = "silu"
    qkv_bias: bool = False
    qk_norm: bool = False
    sub_norms: bool = False
    ternary: bool = False
    default_head_dim: int = 0
    attention_bias_allowed: bool = False
    mlp_bias_allowed: bool = False
    sliding_window_allowed: bool = False
    window_switch: bool = False
    default_kv_heads: int = 0
    default_max_positions: int = 2048
    default_rope_theta: float = 10000.0
    default_norm_eps: float = 1e-6


_LLAMA = Family(
    name="llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    attention_bias_allowed=True,
    mlp_bias_allowed=True,
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        replace(_LLAMA, name="tritter"),
        _LLAMA,
        Family(
            name="qwen2",
            model_type="qwen2",
            architecture="Qwen2ForCausalLM",
            qkv_bias=True,
            window_switch=True,
            default_kv_heads=32,
            default_max_positions=32768,
        ),
        Family(
            name="qwen3",
            model_type="qwen3",
            architecture="Qwen3ForCausalLM",
            qk_norm=True,
            default_head_dim=128,
            attention_bias_allowed=True,
            window_switch=True,
            default_kv_heads=32,
            default_max_positions=32768,
        ),
        Family(
            name="mistral",
            model_type="mistral",
            architecture="MistralForCausalLM",
            sliding_window_allowed=True,
            default_kv_heads=8,
            default_max_positions=131072,
        ),
        Family(
            name="bitnet",
            model_type="bitnet",
            architecture="BitNetForCausalLM",
            activation="relu2",
            sub_norms=True,
            ternary=True,
            attention_bias_allowed=True,
            default_kv_heads=5,
            default_rope_theta=500000.0,
            default_norm_eps=1e-5,
        ),
    )
}
"""Every family by name. `tritter` is a llama-shaped model at one of the named sizes."""

BY_MODEL_TYPE: dict[str, Family] = {
    family.model_type: family for family in FAMILIES.values() if family.name == family.model_type
}
"""Family of a Hugging Face `model_type`."""
