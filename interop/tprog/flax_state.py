"""Training state of JAX in a checkpoint: the state of an optax optimizer, and a random key.

A state of optax is a tree of NamedTuples. What in it has the shape of the parameters (Adam's `mu` and `nu`) is stored
under PyTorch's names for it, one Hugging Face tensor each; a count that equals the step is not stored again;
everything else is stored under its path, so that schedules and wrappers resume as well.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tprog.config import ModelConfig
from tprog.dtypes import numpy_dtype
from tprog.errors import ParameterError, UsageError
from tprog.flax_host import layer_on_host
from tprog.flax_load import Shardings, load_parameter, spread_over
from tprog.hf_names import HFTensor, hf_tensors
from tprog.params import ParamSpec, param_specs
from tprog.parts import STEP, step_tensor
from tprog.reader import Checkpoint, open_checkpoint
from tprog.source import LazyTensors, TensorSource
from tprog.tensorheader import TensorSpec
from tprog.tree import flatten, nest
from tprog.weights import Prefixed, TensorSet

SLOTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq", "trace": "momentum_buffer"}
"""PyTorch's name for a field of optax that has the shape of the parameters."""
_OTHER = "optax"
_COUNT = ".count"


def optimizer_tensors(opt_state: Any, config: ModelConfig) -> LazyTensors:
    """The state of an optax optimizer as `exp_avg.<name>`, `exp_avg_sq.<name>`, `step` and `optax.<path>`.

    Parameters that are masked out have no state, and are left out.

    Raises:
        ParameterError: two parts of the state hold the same moment of one parameter.

    Example:
        >>> from typing import NamedTuple
        >>> class Adam(NamedTuple):
        ...     count: Any
        ...     mu: Any
        >>> config = ModelConfig(hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> moments = nest({spec.path: jnp.ones(spec.shape) for spec in param_specs(config)})
        >>> source = optimizer_tensors((Adam(jnp.array(3), moments),), config)
        >>> int(source.tensor("step")), source.tensor("exp_avg.model.norm.weight").shape
        (3, (8,))
    """
    table = _by_parameter(config)
    specs: dict[str, TensorSpec] = {}
    makers: dict[str, Callable[[], np.ndarray]] = {}
    others: dict[str, Any] = {}

    def add(name: str, dtype: np.dtype, shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> None:
        if name in specs:
            raise ParameterError(
                name, expected="one moment of that name", got="two in the optimizer's state",
                remedy="Save the states of several optimizers over the same parameters apart.",
            )  # fmt: skip
        specs[name], makers[name] = TensorSpec(numpy_dtype(dtype), shape), make

    def host(leaf: Any, tensor: HFTensor) -> np.ndarray:
        return tensor.spec.to_hf(layer_on_host(leaf, tensor.layer))

    def moments(slot: str, tree: Mapping[str, Any]) -> Any:
        for path, leaf in flatten(tree).items():
            for tensor in [] if _masked(leaf) else table[".".join(path)]:
                add(f"{slot}.{tensor.name}", leaf.dtype, tensor.shape, partial(host, leaf, tensor))
        return tree

    def other(path: str, leaf: Any) -> Any:
        others[path] = leaf
        return leaf

    _walk(opt_state, config, moments, other)
    counts = {path: int(leaf) for path, leaf in others.items() if path.endswith(_COUNT)}
    step = max(counts.values(), default=0)
    add(STEP, step_tensor(step).dtype, (), partial(step_tensor, step))
    for path, leaf in others.items():
        if counts.get(path) != step:
            add(f"{_OTHER}{path}", leaf.dtype, leaf.shape, partial(np.asarray, leaf))
    return LazyTensors(specs, lambda name: makers[name]())


def load_optimizer(
    path: str | Path | Checkpoint, opt_state: Any, *, strict: bool = True, shardings: Shardings | None = None
) -> Any:
    """The state of an optax optimizer, as it was when the checkpoint was saved, by JAX or by PyTorch.

    Args:
        path: a checkpoint, or where it lies.
        opt_state: a state of the same optimizer, from `tx.init` or from `jax.eval_shape` of it.
        strict: whether a moment that the checkpoint lacks is an error; zeros stand in for it otherwise.
        shardings: those of the parameters: moments lie as they do, and each process reads what its devices hold.

    Raises:
        ParameterError: moments are missing; every one is listed. Or there is no sharding for some parameter.
        UsageError: the checkpoint has no optimizer state.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    config = checkpoint.config
    spread = spread_over(shardings, config)

    def read(_: str, stored: TensorSource, spec: ParamSpec, leaf: Any) -> Any:
        return load_parameter(stored, config, spec, dtype=np.dtype(leaf.dtype), sharding=spread.get(spec.path))

    return restore_optimizer(checkpoint, opt_state, read, strict=strict)


Restore = Callable[[str, TensorSource, ParamSpec, Any], Any]
"""From a slot, its stored tensors under the weights' names, a row of their table, and a leaf to the array for it."""


def restore_optimizer(checkpoint: Checkpoint, opt_state: Any, read: Restore, *, strict: bool = True) -> Any:
    """A state of an optimizer with its moments made by `read` from those of a checkpoint; see `load_optimizer`."""
    stored = checkpoint.part("optimizer")
    known = set(stored.names)
    specs, table = {spec.path: spec for spec in param_specs(checkpoint.config)}, _by_parameter(checkpoint.config)
    step = int(stored.tensor(STEP)) if STEP in known else 0
    missing = [name for name in stored.names if name.startswith(f"{STEP}.")]

    def look(slot: str, tree: Mapping[str, Any]) -> Any:
        due = (table[".".join(path)] for path, leaf in flatten(tree).items() if not _masked(leaf))
        names = (f"{slot}.{tensor.name}" for tensors in due for tensor in tensors)
        missing.extend(name for name in names if name not in known)
        return tree

    def moments(slot: str, tree: Mapping[str, Any]) -> Any:
        result = dict(flatten(tree))
        for path, leaf in result.items():
            if not _masked(leaf):
                source = _slot(stored, slot, table[".".join(path)], np.dtype(leaf.dtype))
                result[path] = read(slot, source, specs[path], leaf)
        return nest(result)

    def other(path: str, leaf: Any) -> Any:
        if f"{_OTHER}{path}" in known:
            return jnp.asarray(np.array(stored.tensor(f"{_OTHER}{path}")), leaf.dtype)
        if path.endswith(_COUNT):
            return jnp.asarray(step, leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf

    _walk(opt_state, checkpoint.config, look, lambda _, leaf: leaf)
    if missing and strict:
        raise ParameterError(
            "optimizer",
            expected="one step count, and every moment of the given state",
            got=f"{len(missing)} that the checkpoint does not have so",
            remedy="Build the same optimizer, or pass strict=False to start those from zero:",
            findings=missing,
        )
    return _walk(opt_state, checkpoint.config, moments, other)


def _slot(stored: TensorSet, slot: str, tensors: list[HFTensor], dtype: np.dtype) -> TensorSource:
    """One moment of one parameter under the names of the weights; zeros for what is not stored."""
    there = Prefixed(stored, f"{slot}.", tuple(t.name for t in tensors if f"{slot}.{t.name}" in stored.location))
    if len(there.names) == len(tensors):
        return there
    specs = {tensor.name: TensorSpec(dtype, tensor.shape) for tensor in tensors} | dict(there.specs)

    def make(name: str) -> np.ndarray:
        return there.tensor(name) if name in there.names else np.zeros(specs[name].shape, dtype)

    return LazyTensors(specs, make)


def rng_tensors(key: jax.Array) -> dict[str, np.ndarray]:
    """A random key (or an array of keys) as a named array; the name tells its generator.

    Example:
        >>> list(rng_tensors(jax.random.key(0)))
        ['jax.threefry2x32']
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    return {f"jax.{jax.random.key_impl(key)}": np.asarray(jax.random.key_data(key))}


def load_rng_key(path: str | Path | Checkpoint) -> jax.Array:
    """The random key a checkpoint was saved with.

    Raises:
        UsageError: it was saved with none.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    stored = checkpoint.part("rng_state")
    for name in stored.names:
        if name.startswith("jax."):
            return jax.random.wrap_key_data(jnp.asarray(np.array(stored.tensor(name))), impl=name[len("jax.") :])
    raise UsageError(
        checkpoint.path, expected="the random key of a JAX program", got=", ".join(stored.names),
        remedy="Start from a key of your own.",
    )  # fmt: skip


def _walk(
    state: Any,
    config: ModelConfig,
    moments: Callable[[str, Mapping[str, Any]], Any],
    other: Callable[[str, Any], Any],
) -> Any:
    """Rebuild a state: trees of parameters through `moments(slot, tree)`, single leaves through `other`."""
    paths = {spec.path for spec in param_specs(config)}

    def visit(node: Any, path: str, field: str) -> Any:
        if _masked(node):
            return node
        if isinstance(node, Mapping):
            if node and flatten(node).keys() <= paths:
                return moments(SLOTS.get(field, field), node)
            return type(node)({key: visit(node[key], f"{path}.{key}", str(key)) for key in node})  # pyright: ignore[reportCallIssue]
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            values = [visit(value, f"{path}.{name}", name) for name, value in zip(node._fields, node, strict=True)]  # pyright: ignore[reportAttributeAccessIssue]
            return type(node)(*values)
        if isinstance(node, tuple | list):
            return type(node)(visit(value, f"{path}.{place}", field) for place, value in enumerate(node))
        return other(path, node) if hasattr(node, "dtype") else node

    return visit(state, "", "")


def _masked(leaf: Any) -> bool:
    return leaf is None or (isinstance(leaf, tuple) and not leaf)


def _by_parameter(config: ModelConfig) -> dict[str, list[HFTensor]]:
    table: dict[str, list[HFTensor]] = {}
    for tensor in hf_tensors(config):
        table.setdefault(tensor.spec.name, []).append(tensor)
    return table
