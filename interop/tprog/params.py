"""THE parameter table: one row a parameter kind, from which everything else is derived.

A model is a nested dict of arrays with the layers stacked on axis 0:

    {"embed": [V,D],
     "layers": {"attention_norm": [L,D], "attention": {"query": [L,H,K,D], ...}, "mlp_norm": [L,D],
                "mlp": {"gate": [L,F,D], ...}},
     "norm": [D],
     "lm_head": [V,D]}

Each row names a parameter's path in that dict, its Hugging Face name, its logical axes with their roles, and how it
is initialised. Initialisation, abstract shapes, sharding, name conversion, validation of files and growth all read
these rows; adding a family is adding rows.

Axes lie in the order of the Hugging Face tensor, outputs first: one layer of an array has the bytes of its tensor,
and reading or writing a checkpoint transposes nothing.

Roles say what an axis does to the activations that run along it (see `tritter_jax.growth`):

- `stack`: one entry a layer; `residual` the same, for a parameter whose output is added to the residual stream;
- `write`: the entries are written to the activation (the embedding writes hidden, value what the heads pass on);
- `read`: the entries are multiplied with the activation and summed (query reads hidden);
- `gain`: an RMSNorm's gain; `tied_gain` the final one where the embedding is also the output layer;
- `copy`: every entry computes its own activation, whatever its neighbours do (heads, gate units).
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, cast

from tprog.config import ModelConfig
from tprog.errors import ParameterError

Role = Literal["stack", "residual", "write", "read", "gain", "tied_gain", "copy", "none"]
Initializer = Literal["normal", "ones", "zeros"]
Path = tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """A logical axis and the role it plays in one parameter."""

    name: str
    role: Role = "none"


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """One parameter of a model: where it lies, what it is called elsewhere, how its axes behave.

    Args:
        path: keys from the root of the nested dict.
        hf_name: Hugging Face name; holds `{layer}` where there is one tensor a layer.
        axes: logical axes of our array, in order.
        hf_axes: for each axis of the Hugging Face tensor, those of ours that it is the product of, in the same order.
        initializer: `normal` (times `ModelConfig.initializer_range`), `ones` or `zeros`.
        shape: shape of our array, layers included.

    Example:
        >>> from tprog.sizes import named_size
        >>> query = spec_of(named_size("3B"), "layers.attention.query")
        >>> query.shape, query.hf_shape
        ((26, 20, 128, 2560), (2560, 2560))
    """

    path: Path
    hf_name: str
    axes: tuple[Axis, ...]
    hf_axes: tuple[tuple[str, ...], ...]
    initializer: Initializer
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The path as one dotted word."""
        return ".".join(self.path)

    @property
    def stacked(self) -> bool:
        """Whether axis 0 counts layers."""
        return self.axes[0].name == "layers"

    @property
    def kernel(self) -> bool:
        """Whether it is the matrix of a linear layer of the stack: what ternary models round."""
        return self.stacked and self.initializer == "normal"

    @cached_property
    def layer_shape(self) -> tuple[int, ...]:
        """Shape of our array for one layer: without the stack axis."""
        return self.shape[1:] if self.stacked else self.shape

    @cached_property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of the Hugging Face tensor (of one layer)."""
        size = {axis.name: size for axis, size in zip(self.axes, self.shape, strict=True)}
        return tuple(math.prod(size[name] for name in group) for group in self.hf_axes)

    def from_hf(self, tensor: Any) -> Any:
        """A Hugging Face tensor [`hf_shape`] as our array [`layer_shape`]; numpy or jax, a view where it can be."""
        return tensor.reshape(self.layer_shape)

    def to_hf(self, array: Any) -> Any:
        """The inverse of `from_hf`: our array [`layer_shape`] as a Hugging Face tensor [`hf_shape`]."""
        return array.reshape(self.hf_shape)


@dataclass(frozen=True, kw_only=True)
class _Row:
    path: str
    hf: str
    axes: str
    init: Initializer = "normal"
    when: str = ""


_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_MLP = _LAYER + "mlp."

# One row a parameter. `axes`: our axes, outermost first, each with its role after a colon; `*` joins those that the
# Hugging Face tensor folds into one.
_ROWS: tuple[_Row, ...] = (
    _Row(path="embed", hf="model.embed_tokens.weight", axes="vocab hidden:write"),
    _Row(
        path="layers.attention_norm", hf=_LAYER + "input_layernorm.weight",
        axes="layers:stack hidden:gain", init="ones",
    ),
    _Row(
        path="layers.attention.query", hf=_ATTENTION + "q_proj.weight",
        axes="layers:stack heads:copy*head_dim hidden:read",
    ),
    _Row(
        path="layers.attention.query_bias", hf=_ATTENTION + "q_proj.bias", when="qkv_bias",
        axes="layers:stack heads:copy*head_dim", init="zeros",
    ),
    _Row(
        path="layers.attention.query_norm", hf=_ATTENTION + "q_norm.weight", when="qk_norm",
        axes="layers:stack head_dim", init="ones",
    ),
    _Row(
        path="layers.attention.key", hf=_ATTENTION + "k_proj.weight",
        axes="layers:stack kv_heads:copy*head_dim hidden:read",
    ),
    _Row(
        path="layers.attention.key_bias", hf=_ATTENTION + "k_proj.bias", when="qkv_bias",
        axes="layers:stack kv_heads:copy*head_dim", init="zeros",
    ),
    _Row(
        path="layers.attention.key_norm", hf=_ATTENTION + "k_norm.weight", when="qk_norm",
        axes="layers:stack head_dim", init="ones",
    ),
    _Row(
        path="layers.attention.value", hf=_ATTENTION + "v_proj.weight",
        axes="layers:stack kv_heads:write*head_dim hidden:read",
    ),
    _Row(
        path="layers.attention.value_bias", hf=_ATTENTION + "v_proj.bias", when="qkv_bias",
        axes="layers:stack kv_heads:write*head_dim", init="zeros",
    ),
    _Row(
        path="layers.attention.sub_norm", hf=_ATTENTION + "attn_sub_norm.weight", when="sub_norms",
        axes="layers:stack heads:gain*head_dim", init="ones",
    ),
    _Row(
        path="layers.attention.out", hf=_ATTENTION + "o_proj.weight",
        axes="layers:residual hidden:write heads:read*head_dim",
    ),
    _Row(
        path="layers.attention.out_bias", hf=_ATTENTION + "o_proj.bias", when="attention_out_bias",
        axes="layers:residual hidden:write", init="zeros",
    ),
    _Row(
        path="layers.mlp_norm", hf=_LAYER + "post_attention_layernorm.weight",
        axes="layers:stack hidden:gain", init="ones",
    ),
    _Row(
        path="layers.mlp.gate", hf=_MLP + "gate_proj.weight",
        axes="layers:stack mlp:copy hidden:read",
    ),
    _Row(
        path="layers.mlp.gate_bias", hf=_MLP + "gate_proj.bias", when="mlp_bias",
        axes="layers:stack mlp:copy", init="zeros",
    ),
    _Row(
        path="layers.mlp.up", hf=_MLP + "up_proj.weight",
        axes="layers:stack mlp:write hidden:read",
    ),
    _Row(
        path="layers.mlp.up_bias", hf=_MLP + "up_proj.bias", when="mlp_bias",
        axes="layers:stack mlp:write", init="zeros",
    ),
    _Row(
        path="layers.mlp.sub_norm", hf=_MLP + "ffn_sub_norm.weight", when="sub_norms",
        axes="layers:stack mlp:gain", init="ones",
    ),
    _Row(
        path="layers.mlp.down", hf=_MLP + "down_proj.weight",
        axes="layers:residual hidden:write mlp:read",
    ),
    _Row(
        path="layers.mlp.down_bias", hf=_MLP + "down_proj.bias", when="mlp_bias",
        axes="layers:residual hidden:write", init="zeros",
    ),
    _Row(path="norm", hf="model.norm.weight", axes="hidden:gain", init="ones", when="untied"),
    _Row(path="norm", hf="model.norm.weight", axes="hidden:tied_gain", init="ones", when="tied"),
    _Row(path="lm_head", hf="lm_head.weight", axes="vocab hidden:read", when="untied"),
)  # fmt: skip


def _traits(config: ModelConfig) -> set[str]:
    family = config.family_record
    switches = {
        "": True,
        "qkv_bias": family.qkv_bias or config.attention_bias,
        "attention_out_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "qk_norm": family.qk_norm,
        "sub_norms": family.sub_norms,
        "tied": config.tie_embeddings,
        "untied": not config.tie_embeddings,
    }
    return {name for name, on in switches.items() if on}


@lru_cache(maxsize=256)
def param_specs(config: ModelConfig) -> tuple[ParamSpec, ...]:
    """The rows of the table that a configuration has, with their shapes.

    Example:
        >>> from tprog.sizes import named_size
        >>> [spec.name for spec in param_specs(named_size("test"))][:3]
        ['embed', 'layers.attention_norm', 'layers.attention.query']
    """
    traits, sizes = _traits(config), config.axis_sizes
    specs = []
    for row in _ROWS:
        if row.when not in traits:
            continue
        words = [[word.partition(":") for word in group.split("*")] for group in row.axes.split()]
        axes = tuple(Axis(name, cast(Role, role or "none")) for group in words for name, _, role in group)
        groups = tuple(tuple(name for name, _, _ in group) for group in words)
        specs.append(
            ParamSpec(
                path=tuple(row.path.split(".")),
                hf_name=row.hf,
                axes=axes,
                hf_axes=groups[1:] if axes[0].name == "layers" else groups,
                initializer=row.init,
                shape=tuple(sizes[axis.name] for axis in axes),
            )
        )
    return tuple(specs)


def spec_of(config: ModelConfig, name: str) -> ParamSpec:
    """The row of one parameter, by its dotted path.

    Raises:
        ParameterError: this configuration has no such parameter.
    """
    for spec in param_specs(config):
        if spec.name == name:
            return spec
    raise ParameterError(
        name,
        expected=f"a parameter of a {config.family} model",
        got="a name the table does not have",
        remedy="See `tprog.params.param_specs(config)`.",
    )
