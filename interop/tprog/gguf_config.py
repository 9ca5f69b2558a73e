"""The configuration of a model that a GGUF file describes; a key that is not known is refused, not passed over."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from tprog.config import ModelConfig, RopeScaling
from tprog.errors import ConfigError, FormatError
from tprog.gguf_header import GGUFHeader
from tprog.gguf_layout import FAMILIES, ROPE_FACTORS
from tprog.gguf_vocabulary import PARTS
from tprog.wavelengths import llama3_scaling

# Our field, the key after the architecture's name; the first six are required.
_FIELDS = (
    ("hidden_size", "embedding_length", int),
    ("num_layers", "block_count", int),
    ("num_heads", "attention.head_count", int),
    ("intermediate_size", "feed_forward_length", int),
    ("max_position_embeddings", "context_length", int),
    ("norm_eps", "attention.layer_norm_rms_epsilon", float),
    ("num_kv_heads", "attention.head_count_kv", int),
    ("head_dim", "attention.key_length", int),
    ("rope_theta", "rope.freq_base", float),
)
_REQUIRED = 6
# Keys whose value must be this one, as another would change the function.
_FIXED: Mapping[str, Any] = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "use_parallel_residual": False,
    "rope.scaling.attn_factor": 1.0,
    "logit_scale": 1.0,
}
_HARMLESS = {"vocab_size", "tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned"}
_READ = {
    "attention.value_length",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
}
_READ |= {"attention.sliding_window"}


def read_gguf_config(header: GGUFHeader, factors: np.ndarray | None) -> ModelConfig:
    """The model that a GGUF file holds, its dtype aside.

    Args:
        header: of the file.
        factors: its tensor `ROPE_FACTORS`, if any.

    Raises:
        FormatError: a key is missing or of the wrong kind.
        ConfigError: the model is of another architecture, or asks for something that no family here computes.
    """
    return _Config(header).read(factors)


class _Config:
    def __init__(self, header: GGUFHeader) -> None:
        self.header = header
        arch = header.fields.get("general.architecture")
        parts = self.whole("split.count")
        if parts not in (None, 0, 1):
            self.refuse("a file in one part", f"part of {parts}", "Merge them: llama-gguf-split --merge.")
        kind = header.fields.get("general.type", "model")
        if not isinstance(kind, str) or kind != "model":
            self.refuse("a model", f"a file of type {kind!r}"[:100], "Give the model's own file.")
        if not isinstance(arch, str) or FAMILIES.get(arch) != arch:
            known = ", ".join(sorted(set(FAMILIES.values())))
            self.refuse(f"architecture {known}", repr(arch)[:100], "Only these are imported from GGUF.")
        self.arch: str = arch

    def read(self, factors: np.ndarray | None) -> ModelConfig:
        """The configuration."""
        values: dict[str, Any] = {"family": self.arch, "num_kv_heads": None, "rope_theta": 10_000.0}
        for at, (ours, key, kind) in enumerate(_FIELDS):
            if (found := self.get(key, kind)) is not None:
                values[ours] = found
            elif at < _REQUIRED:
                self.missing(f"{self.arch}.{key}")
        values["num_kv_heads"] = values["num_kv_heads"] or values["num_heads"]
        self.check_others()
        tensors = self.header.tensors
        embedding = tensors.get("token_embd.weight")
        if embedding is None:
            self.missing("the tensor token_embd.weight")
        values |= {
            "vocab_size": embedding.shape[0],
            "tie_embeddings": "output.weight" not in tensors,
            "attention_bias": self.arch != "qwen2" and "blk.0.attn_q.bias" in tensors,
            "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
            "extra": self.token_ids(embedding.shape[0]),
        }
        try:
            config = ModelConfig(**values)
            self.check_heads(config)
            return replace(config, rope_scaling=self.scaling(config, factors))
        except ConfigError as error:
            where = (
                error.where if error.where.startswith(str(self.header.path)) else f"{self.header.path}: {error.where}"
            )
            raise ConfigError(where, expected=error.expected, got=error.got, remedy=error.remedy) from None

    def check_heads(self, config: ModelConfig) -> None:
        """Heads are rotated whole, and values are as wide as keys."""
        for key in ("attention.value_length", "rope.dimension_count"):
            if self.get(key, int) not in (None, config.head_dim):
                self.unsupported(key, config.head_dim)
        window = self.get("attention.sliding_window", int)
        if window and window < config.max_position_embeddings:
            self.unsupported("attention.sliding_window", "none")

    def check_others(self) -> None:
        """Every key of the architecture is known, and asks for what is computed here."""
        known = {key for _, key, _ in _FIELDS} | _HARMLESS | _READ | _FIXED.keys()
        for name in self.header.fields:
            key = name.removeprefix(f"{self.arch}.")
            if key == name:
                continue
            if key not in known:
                self.unsupported(key, "no such key")
            if key in _FIXED:
                value = self.header.fields[name]
                if isinstance(value, list | np.ndarray) or value != _FIXED[key]:
                    self.unsupported(key, _FIXED[key])

    def scaling(self, config: ModelConfig, factors: np.ndarray | None) -> RopeScaling | None:
        """The scaling of the rotary wavelengths."""
        kind = self.get("rope.scaling.type", str) or "none"
        factor = self.get("rope.scaling.factor", float) or self.get("rope.scale_linear", float) or 1.0
        if kind not in ("none", "linear"):
            self.unsupported("rope.scaling.type", "none or linear")
        scaling = RopeScaling.of("linear", factor=factor) if kind == "linear" and factor != 1.0 else None
        if factors is not None and (factors.shape != (config.head_dim // 2,) or (factors != 1).any()):
            scaling = llama3_scaling(factors, config) if scaling is None else None
            if scaling is None:
                self.refuse(f"{ROPE_FACTORS} of Llama 3's kind", "other factors", "Only Llama 3's scaling is known.")
        return scaling

    def token_ids(self, count: int) -> dict[str, int]:
        """Ids of the special tokens, as config.json has them."""
        found = {}
        for part, theirs in PARTS.items():
            number = self.whole(f"tokenizer.ggml.{theirs}_token_id")
            if number is not None and part != "unk" and 0 <= number < count:
                found[f"{part}_token_id"] = number
        return found

    def whole(self, name: str) -> int | None:
        """A whole number, by its full key."""
        value = self.header.fields.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            self.wrong(name, "a whole number", value)
        return value

    def get(self, key: str, kind: type) -> Any:
        """A value of the architecture; numbers of 32 bits as the decimal that was meant."""
        name = f"{self.arch}.{key}"
        if kind is int:
            return self.whole(name)
        value = self.header.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, (float, int) if kind is float else kind) or isinstance(value, bool):
            self.wrong(name, "text" if kind is str else "a number", value)
        return float(str(np.float32(value))) if kind is float else value

    def missing(self, what: str) -> NoReturn:
        """Refuse a file that lacks something."""
        raise FormatError(self.header.path, expected=what, got="none", remedy="Convert the model again.")

    def wrong(self, name: str, expected: str, value: object) -> NoReturn:
        """Refuse a value of another kind."""
        raise FormatError(
            f"{self.header.path}: {name}", expected=expected, got=repr(value)[:100], remedy="Convert the model again."
        )

    def unsupported(self, key: str, expected: object) -> NoReturn:
        """Refuse a key that changes the function."""
        got = repr(self.header.fields[f"{self.arch}.{key}"])[:100]
        self.refuse(f"{self.arch}.{key} {expected}", got, "Such a model cannot be computed here yet.")

    def refuse(self, expected: str, got: str, remedy: str) -> NoReturn:
        """Refuse a model."""
        raise ConfigError(self.header.path, expected=expected, got=got, remedy=remedy)
