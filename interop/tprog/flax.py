"""Checkpoints as trees of JAX arrays in the layout of the parameter table. Imports jax, not the flax package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tprog.config import ModelConfig
from tprog.dtypes import numpy_dtype
from tprog.flax_host import layer_on_host, processes
from tprog.flax_load import Shardings, load_tree, require_whole
from tprog.hf_names import hf_tensors
from tprog.parts import Parts
from tprog.reader import Checkpoint, open_checkpoint
from tprog.source import LazyTensors
from tprog.tensorheader import TensorSpec
from tprog.tree import check_tree, flatten
from tprog.writer import write_checkpoint

Params = dict[str, Any]


def load(
    path: str | Path | Checkpoint,
    *,
    dtype: str | np.dtype | None = None,
    shardings: Shardings | None = None,
) -> Params:
    """The parameters of a checkpoint as a nested dict, layers stacked on axis 0.

    Args:
        path: a checkpoint, or where it lies.
        dtype: convert to it; each parameter keeps its own where left out.
        shardings: how to spread each parameter: one `jax.sharding.Sharding` for all, or a tree of them like the
            parameters'. Of a file, a process reads what its own devices hold and nothing else.

    Raises:
        FormatError: see `tprog.reader.open_checkpoint`.
        UsageError: the weights are float64 and JAX is not set to compute in it.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> from tprog.params import param_specs
        >>> from tprog.tree import nest
        >>> config = ModelConfig(hidden_size=8, num_layers=3, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> tree = nest({spec.path: jnp.ones(spec.shape) for spec in param_specs(config)})
        >>> load(save(Path(tempfile.mkdtemp(), "a.tprog"), tree, config))["layers"]["attention"]["query"].shape
        (3, 2, 4, 8)
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    return load_tree(checkpoint, checkpoint.config, dtype=dtype, shardings=shardings)


def to_tensors(params: Mapping[str, Any], config: ModelConfig) -> LazyTensors:
    """A tree of arrays as Hugging Face tensors, for `write_checkpoint`; each is made when it is asked for.

    Raises:
        ParameterError: the tree does not match the table; every mismatch is listed.

    Example:
        >>> import jax.numpy as jnp
        >>> from tprog.params import param_specs
        >>> from tprog.tree import nest
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
        return tensor.spec.to_hf(layer_on_host(leaves[tensor.spec.path], tensor.layer))

    return LazyTensors(specs, make)


def save(
    path: str | Path,
    params: Mapping[str, Any],
    config: ModelConfig,
    *,
    opt_state: Any = None,
    rng_key: jax.Array | None = None,
    fisher: Mapping[str, Any] | None = None,
    old_params: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    data_state: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a tree of parameters and whatever training state is given as a checkpoint.

    A program of several processes calls this in all of them; they divide the files among them, and must see the same
    file system. Arrays may be spread over all devices.

    Args:
        path: the directory to make.
        params: the parameters, in the layout of the table.
        config: the model.
        opt_state: state of an optax optimizer; see `tprog.flax_state.optimizer_tensors`.
        rng_key: the random key to go on with.
        fisher: diagonal of the Fisher information, a tree like `params`.
        old_params: the anchor of elastic weight consolidation, a tree like `params`.
        scheduler: state of the learning-rate schedule, as JSON.
        data_state: place in the training data, as JSON.
        **options: those of `tprog.writer.write_checkpoint`.

    Raises:
        ParameterError: a tree does not match the table; every mismatch is listed.
        UsageError: the path is taken, or cannot be written.
    """
    from tprog import flax_state

    parts = Parts(
        optimizer=None if opt_state is None else flax_state.optimizer_tensors(opt_state, config),
        rng_state=None if rng_key is None else flax_state.rng_tensors(rng_key),
        fisher=None if fisher is None else to_tensors(fisher, config),
        old_params=None if old_params is None else to_tensors(old_params, config),
        scheduler=scheduler,
        data_state=data_state,
    )
    return write_checkpoint(path, config, to_tensors(params, config), parts=parts, gang=processes(), **options)


def load_part(
    path: str | Path | Checkpoint,
    part: str,
    *,
    dtype: str | np.dtype | None = None,
    shardings: Shardings | None = None,
) -> Params:
    """A checkpoint's `fisher` or `old_params` as a tree like its parameters.

    Raises:
        UsageError: the checkpoint does not have it.
        FormatError: it is broken, does not fit the model, or lacks some of its parameters.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    tensors = checkpoint.part(part)
    require_whole(tensors, checkpoint.config, what=part, where=checkpoint.path)
    return load_tree(tensors, checkpoint.config, dtype=dtype, shardings=shardings)
