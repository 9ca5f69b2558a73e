"""Mapped tensors into JAX arrays: each device's slice straight from the file, copied once."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from tprog.buffers import aligned_empty, copy_into, run_all
from tprog.config import ModelConfig
from tprog.dtypes import numpy_dtype
from tprog.errors import FormatError, ParameterError, UsageError
from tprog.finite import WIDER, can_overflow, is_finite, largest, not_finite
from tprog.hf_names import HFTensor, hf_tensors
from tprog.params import ParamSpec, param_specs
from tprog.source import TensorSource
from tprog.tree import flatten, mismatches, nest
from tprog.weights import InFiles

Shardings = jax.sharding.Sharding | Mapping[str, Any]
"""One sharding for all parameters, or a tree of them like the parameters'."""

Index = tuple[slice, ...]
Task = Callable[[], None]
_PIECE = 32 << 20


def load_tree(
    source: TensorSource,
    config: ModelConfig,
    *,
    dtype: str | np.dtype | None = None,
    shardings: Shardings | None = None,
) -> dict[str, Any]:
    """Hugging Face tensors as a nested dict of arrays, layers stacked on axis 0; see `tprog.flax.load`.

    Raises:
        FormatError: `dtype` cannot hold some number.
        ParameterError: there is no sharding for some parameter.
        UsageError: the tensors are float64 and JAX is not set to compute in it.
    """
    spread = spread_over(shardings, config)
    return nest(
        {
            spec.path: load_parameter(source, config, spec, dtype=dtype, sharding=spread.get(spec.path))
            for spec in param_specs(config)
        }
    )


def load_parameter(
    source: TensorSource,
    config: ModelConfig,
    spec: ParamSpec,
    *,
    dtype: str | np.dtype | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> jax.Array:
    """One parameter, layers stacked on axis 0; where it is spread, this process reads what its own devices hold.

    Raises:
        FormatError: `dtype` cannot hold some number.
        UsageError: its tensors are float64 and JAX is not set to compute in it.
    """
    own = [tensor for tensor in hf_tensors(config) if tensor.spec.name == spec.name]
    read = partial(_read, source, spec, own, _dtype(source, spec, own, dtype))
    if sharding is None:
        # On a CPU device_put takes the memory over; elsewhere the host holds one parameter at a time.
        return jax.device_put(read(tuple(slice(None) for _ in spec.shape)))
    return jax.make_array_from_callback(spec.shape, sharding, _once(read))


def require_whole(source: TensorSource, config: ModelConfig, *, what: str, where: object) -> None:
    """Refuse a set of tensors that lacks some of the model's, or has them in other shapes.

    Raises:
        FormatError: it does; each is listed.
    """
    shapes = {tensor.name: tensor.shape for tensor in hf_tensors(config)}
    findings = mismatches(shapes, {name: spec.shape for name, spec in source.specs.items() if name in shapes})
    if findings:
        raise FormatError(
            where, expected=f"the {what} of every parameter", got=f"{len(findings)} that it lacks",
            remedy="Make it anew, or read it by name with `tprog.numpy`:", findings=findings,
        )  # fmt: skip


def _read(
    source: TensorSource, spec: ParamSpec, tensors: list[HFTensor], dtype: np.dtype, index: Index
) -> np.ndarray:
    """A slice of one parameter, in memory of its own."""
    bounds = [part.indices(size) for part, size in zip(index, spec.shape, strict=True)]
    result = aligned_empty(tuple(len(range(*bound)) for bound in bounds), dtype)
    places = list(zip(result, tensors[index[0]], strict=True)) if spec.stacked else [(result, tensors[0])]
    within = index[1:] if spec.stacked else index
    run_all(task for place, tensor in places for task in _copies(place, source, tensor, within))
    for place, tensor in places:
        if can_overflow(source.specs[tensor.name].dtype, dtype) and not is_finite(place):
            raise not_finite(tensor.name, dtype.name, largest(dtype), source.tensor(tensor.name), WIDER)
    return result


def _copies(place: np.ndarray, source: TensorSource, tensor: HFTensor, index: Index) -> list[Task]:
    """Copies of one tensor: a large matrix of a file in several pieces, for several threads."""
    if not isinstance(source, InFiles):
        return [lambda: copy_into(place, tensor.spec.from_hf(source.tensor(tensor.name))[index])]
    read = source.file_of(tensor.name).read
    view = tensor.spec.from_hf(source.tensor(tensor.name))[index]
    if place.nbytes <= _PIECE:
        return [partial(copy_into, place, view, read)]
    step = -(-len(place) * _PIECE // place.nbytes)
    pieces = [slice(start, start + step) for start in range(0, len(place), step)]
    return [partial(copy_into, place[piece], view[piece], read) for piece in pieces]


def _once(read: Callable[[Index], np.ndarray]) -> Callable[[Index | None], np.ndarray]:
    """The same slice for several devices is read once; the slices go when the array is made."""
    held: dict[str, np.ndarray] = {}

    def call(index: Index | None) -> np.ndarray:
        assert index is not None
        key = repr(index)
        if key not in held:
            held[key] = read(index)
        return held[key]

    return call


def _dtype(source: TensorSource, spec: ParamSpec, tensors: list[HFTensor], dtype: str | np.dtype | None) -> np.dtype:
    found = {source.specs[tensor.name].dtype for tensor in tensors}
    try:
        target = numpy_dtype(dtype) if dtype is not None else np.result_type(*found)
    except TypeError:
        raise UsageError(
            spec.name, expected="layers of dtypes that one array can hold", got=", ".join(sorted(map(str, found))),
            remedy='Load with dtype="float32", or convert first: `tritter expand --dtype`.',
        ) from None  # fmt: skip
    if target == np.float64 and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise UsageError(
            spec.name, expected="JAX to compute in float64", got="its default, which would round to float32",
            remedy='Set JAX_ENABLE_X64=1, or load with dtype="float32".',
        )  # fmt: skip
    return target


def spread_over(shardings: Shardings | None, config: ModelConfig) -> dict[tuple[str, ...], jax.sharding.Sharding]:
    """The sharding of every parameter by its path; of none where nothing is sharded.

    Raises:
        ParameterError: there is no sharding for some parameter.
    """
    paths = [spec.path for spec in param_specs(config)]
    if shardings is None:
        return {}
    if isinstance(shardings, jax.sharding.Sharding):
        return dict.fromkeys(paths, shardings)
    found = flatten(shardings)
    missing = [".".join(path) for path in paths if path not in found]
    if missing:
        raise ParameterError(
            "shardings", expected="one for every parameter", got=f"{len(missing)} without",
            remedy="Build the tree from `tprog.param_specs(config)`:", findings=missing,
        )  # fmt: skip
    return found
