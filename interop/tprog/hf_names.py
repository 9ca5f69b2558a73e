"""The tensors of a Hugging Face model by name, as the parameter table has them."""

import re
from collections.abc import Iterator
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


def hf_tensors(config: ModelConfig) -> Iterator[HFTensor]:
    """Every tensor of the Hugging Face model, layer by layer, in the order a forward pass uses them.

    Example:
        >>> from tprog.sizes import named_size
        >>> next(hf_tensors(named_size("test"))).name
        'model.embed_tokens.weight'
    """
    return iter(_hf_tensors(config))
