"""Checkpoints as trees of JAX arrays in the layout of the parameter table. Imports jax, not the flax package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tprog.config import ModelConfig
from tprog.dtypes import numpy_dtype, same_bits
from tprog.errors import UsageError
from tprog.params import HFTensor, ParamSpec, check_tree, flatten, hf_tensors, nest, param_specs
from tprog.reader import Checkpoint, open_checkpoint
from tprog.source import LazyTensors
from tprog.tensorheader import TensorSpec
from tprog.writer import write_checkpoint

Params = dict[str, Any]


def load(path: str | Path | Checkpoint, *, dtype: str | np.dtype | None = None) -> Params:
    """The parameters of a checkpoint as a nested dict, layers stacked on axis 0.

    Args:
        path: a checkpoint, or where it lies.
        dtype: convert to it; each parameter keeps its own where left out.

    Raises:
        FormatError: see `tprog.reader.open_checkpoint`.
        UsageError: the weights are float64 and JAX is not set to compute in it.

    Example:
        >>> import tempfile
        >>> config = ModelConfig(hidden_size=8, num_layers=3, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> tree = nest({spec.path: jnp.ones(spec.shape) for spec in param_specs(config)})
        >>> load(save(Path(tempfile.mkdtemp(), "a.tprog"), tree, config))["layers"]["attention"]["query"].shape
        (3, 8, 2, 4)
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    target = None if dtype is None else numpy_dtype(dtype)
    tensors: dict[str, list[HFTensor]] = {}
    for tensor in hf_tensors(checkpoint.config):
        tensors.setdefault(tensor.spec.name, []).append(tensor)
    return nest(
        {
            spec.path: jnp.asarray(_gather(checkpoint, spec, tensors[spec.name], target))
            for spec in param_specs(checkpoint.config)
        }
    )


def to_tensors(params: Mapping[str, Any], config: ModelConfig) -> LazyTensors:
    """A tree of arrays as Hugging Face tensors, for `write_checkpoint`; each is made when it is asked for.

    Raises:
        ParameterError: the tree does not match the table; every mismatch is listed.

    Example:
        >>> config = ModelConfig(hidden_size=8, num_layers=3, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> source = to_tensors(nest({spec.path: jnp.ones(spec.shape) for spec in param_specs(config)}), config)
        >>> source.tensor("model.layers.2.self_attn.k_proj.weight").shape
        (4, 8)
    """
    check_tree(params, config)
    leaves = flatten(params)
    table = {tensor.name: tensor for tensor in hf_tensors(config)}
    specs = {
        name: TensorSpec(numpy_dtype(leaves[tensor.spec.path].dtype), tensor.shape) for name, tensor in table.items()
    }

    def make(name: str) -> np.ndarray:
        tensor = table[name]
        leaf = leaves[tensor.spec.path]
        return tensor.spec.to_hf(_on_host(leaf) if tensor.layer is None else _layer_on_host(leaf, tensor.layer))

    return LazyTensors(specs, make)


def save(
    path: str | Path,
    params: Mapping[str, Any],
    config: ModelConfig,
    **options: Any,
) -> Path:
    """Write a tree of arrays as a checkpoint; `options` are those of `tprog.writer.write_checkpoint`.

    Raises:
        ParameterError: the tree does not match the table; every mismatch is listed.
    """
    return write_checkpoint(path, config, to_tensors(params, config), **options)


def _gather(checkpoint: Checkpoint, spec: ParamSpec, tensors: list[HFTensor], dtype: np.dtype | None) -> np.ndarray:
    """One parameter out of its tensors, in memory of its own."""
    target = dtype or np.result_type(*{checkpoint.specs[tensor.name].dtype for tensor in tensors})
    if target == np.float64 and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise UsageError(
            checkpoint.path, expected="JAX to compute in float64", got="its default, which would round to float32",
            remedy='Set JAX_ENABLE_X64=1, or load with dtype="float32".',
        )  # fmt: skip
    result = np.empty(spec.shape, target)
    for tensor in tensors:
        part = spec.from_hf(checkpoint.tensor(tensor.name))
        place = result if tensor.layer is None else result[tensor.layer]
        if part.dtype == target:
            same_bits(place)[...] = same_bits(part)
        else:
            place[...] = part
    return result


def _on_host(leaf: Any) -> np.ndarray:
    return np.asarray(leaf)


def _layer_on_host(leaf: Any, layer: int) -> np.ndarray:
    on_cpu = not isinstance(leaf, jax.Array) or (
        leaf.is_fully_addressable and len(leaf.devices()) == 1 and next(iter(leaf.devices())).platform == "cpu"
    )
    # An array on this machine's CPU is seen by numpy without a copy; from elsewhere only the layer is fetched.
    return np.asarray(leaf)[layer] if on_cpu else np.asarray(leaf[layer])
