"""GGUF's layout of a model: which families it holds, the names of their tensors, and the order of their rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tprog.config import ModelConfig
from tprog.errors import UsageError
from tprog.hf_names import HFTensor, hf_tensors
from tprog.params import ParamSpec

FAMILIES = {"tritter": "llama", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Families that GGUF can hold, with its name for them; llama.cpp's llama has no sliding window."""
ROPE_FACTORS = "rope_freqs.weight"
"""What llama3's stretching divides each pair's frequency by."""


def library() -> Any:
    """The gguf package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise UsageError(
            "GGUF", expected="the extra gguf", got="no gguf installed",
            remedy="Install it with `pip install 'tritter-jax[gguf]'`.",
        ) from None  # fmt: skip
    return gguf


def tensor_names(config: ModelConfig) -> Mapping[str, HFTensor]:
    """A model's tensors by GGUF's names for them, in the order of the parameter table.

    The names come from the gguf package's own map of Hugging Face names.
    """
    gguf = library()
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == FAMILIES[config.family])
    names = gguf.get_tensor_name_map(arch, config.num_layers)
    found = {names.get_name(tensor.name, try_suffixes=(".weight", ".bias")): tensor for tensor in hf_tensors(config)}
    assert None not in found
    return found


def permuted(spec: ParamSpec, array: np.ndarray, config: ModelConfig) -> np.ndarray:
    """A Hugging Face tensor with its rotated pairs side by side, as llama's GGUF has them; others as they are.

    Hugging Face rotates entry i of a head with entry i + K/2, llama.cpp's llama entry 2i with entry 2i + 1.
    """
    return _swapped(spec, array, config, (2, config.head_dim // 2))


def unpermuted(spec: ParamSpec, array: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The inverse of `permuted`."""
    return _swapped(spec, array, config, (config.head_dim // 2, 2))


def is_permuted(spec: ParamSpec, config: ModelConfig) -> bool:
    """Whether GGUF has the rows of a tensor in another order."""
    return FAMILIES[config.family] == "llama" and _heads(spec) is not None


def _heads(spec: ParamSpec) -> str | None:
    heads = (axis.name for axis in spec.axes if axis.name in ("heads", "kv_heads") and axis.role == "copy")
    return next(heads, None)


def _swapped(spec: ParamSpec, array: np.ndarray, config: ModelConfig, halves: tuple[int, int]) -> np.ndarray:
    heads = _heads(spec)
    if heads is None or not is_permuted(spec, config):
        return array
    pairs = array.reshape(config.axis_sizes[heads], *halves, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)
