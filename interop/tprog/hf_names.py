"""The tensors of a Hugging Face model by name, as the parameter table has them."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from tprog.config import ModelConfig
from tprog.params import ParamSpec, param_specs, spec_of

COMPUTED_BUFFERS = re.compile(r"(.*\.)?rotary_emb\.inv_freq")
"""Names of tensors that old files carry although every loader computes them; they are left out."""


def tied_names(config: ModelConfig) -> tuple[str, str]:
    """Hugging Face names of the output layer and of the embedding, which are one tensor where they are tied.

    Example:
        >>> from tprog.sizes import named_size
        >>> tied_names(named_size("test"))
        ('lm_head.weight', 'model.embed_tokens.weight')
    """
    untied = replace(config, tie_embeddings=False)
    return spec_of(untied, "lm_head").hf_name, spec_of(untied, "embed").hf_name


def is_spare(name: str, config: ModelConfig) -> bool:
    """Whether a file may lack a tensor that its index names: it is computed, or is the embedding again."""
    return bool(COMPUTED_BUFFERS.fullmatch(name)) or (config.tie_embeddings and name == tied_names(config)[0])


def stored_names(names: Collection[str], config: ModelConfig) -> dict[str, str]:
    """The table's name for each tensor that a file has under another which transformers reads as well.

    A model saved from its base class has no `model.` before its names, and a tied one may have kept the output layer
    in place of the embedding.

    Example:
        >>> from tprog.sizes import named_size
        >>> stored_names(["embed_tokens.weight", "lm_head.weight"], named_size("test"))
        {'embed_tokens.weight': 'model.embed_tokens.weight'}
    """
    expected = {tensor.name for tensor in hf_tensors(config)}
    output, embedding = tied_names(config)
    base = embedding.partition(".")[0]
    found = {name: f"{base}.{name}" for name in names if name not in expected and f"{base}.{name}" in expected}
    if config.tie_embeddings and output in names and embedding not in found.values() and embedding not in names:
        found[output] = embedding
    return {name: meant for name, meant in found.items() if meant not in names}


def wrapped_prefix(names: Collection[str], config: ModelConfig) -> str:
    """What every name begins with where a model was saved together with something around it; empty where none does.

    Example:
        >>> from tprog.sizes import named_size
        >>> config = named_size("test")
        >>> wrapped_prefix([f"module.{tensor.name}" for tensor in hf_tensors(config)], config)
        'module.'
    """
    embedding = tied_names(config)[1]
    prefix = next((name.removesuffix(embedding) for name in names if name.endswith(embedding)), "")
    return prefix if all(name.startswith(prefix) for name in names) else ""


@dataclass(frozen=True)
class HFTensor:
    """One tensor of a Hugging Face file: its name, its row in the table, its layer (None outside the stack)."""

    name: str
    spec: ParamSpec
    layer: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        return self.spec.hf_shape


@lru_cache(maxsize=64)
def _hf_tensors(config: ModelConfig) -> tuple[HFTensor, ...]:
    specs = param_specs(config)
    first = next(i for i, spec in enumerate(specs) if spec.stacked)
    stacked = [spec for spec in specs if spec.stacked]
    before = [HFTensor(spec.hf_name, spec, None) for spec in specs[:first]]
    after = [HFTensor(spec.hf_name, spec, None) for spec in specs[first:] if not spec.stacked]
    layers = [
        HFTensor(spec.hf_name.format(layer=layer), spec, layer)
        for layer in range(config.num_layers)
        for spec in stacked
    ]
    return tuple(before + layers + after)


def most_names(config: ModelConfig) -> int:
    """Most names that an index of this model's tensors, or of its optimizer's, is read with: more cannot fit it.

    Example:
        >>> from tprog.sizes import named_size
        >>> most_names(named_size("70B"))
        65536
    """
    return max(1 << 16, 4 * len(_hf_tensors(config)))


def hf_tensors(config: ModelConfig) -> Iterator[HFTensor]:
    """Every tensor of the Hugging Face model, layer by layer, in the order a forward pass uses them.

    Example:
        >>> from tprog.sizes import named_size
        >>> next(hf_tensors(named_size("test"))).name
        'model.embed_tokens.weight'
    """
    return iter(_hf_tensors(config))
