"""Checkpoints as PyTorch state dicts, memory-mapped. Imports torch, never jax."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tprog.config import ModelConfig
from tprog.config_json import config_from_json
from tprog.dtypes import CODES, numpy_dtype
from tprog.errors import ParameterError, UsageError
from tprog.finite import WIDER, can_overflow, largest, not_finite
from tprog.hf_names import COMPUTED_BUFFERS, hf_tensors, tied_names
from tprog.parts import Parts
from tprog.reader import Checkpoint, open_checkpoint
from tprog.source import LazyTensors
from tprog.tensorfile import TensorFile
from tprog.tensorheader import TensorSpec
from tprog.weights import TensorSet
from tprog.writer import write_checkpoint

try:
    import torch
except ImportError:
    raise UsageError(
        "tprog.torch", expected="PyTorch to be installed", got="none",
        remedy="`pip install 'tritter-jax[torch]'`.",
    ) from None  # fmt: skip

_TORCH: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NUMPY = {_TORCH[code]: dtype for dtype, code in CODES.items()}


def load(
    path: str | Path | Checkpoint,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint, under Hugging Face names.

    On the CPU and without a `dtype`, tensors are mapped: opening is instant, bytes are read when they are touched,
    and writing to a tensor changes this process's memory, never the file.

    Args:
        path: a checkpoint, or where it lies.
        device: where to put the tensors.
        dtype: convert to it; each tensor keeps its own where left out.

    Raises:
        FormatError: see `tprog.reader.open_checkpoint`; or `dtype` cannot hold some number.

    Example:
        >>> import tempfile
        >>> config = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> state = {tensor.name: torch.zeros(tensor.shape) for tensor in hf_tensors(config)}
        >>> load(save(Path(tempfile.mkdtemp(), "a.tprog"), state, config))["lm_head.weight"].shape
        torch.Size([16, 8])
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    return _converted(checkpoint, device, dtype)


def load_into(model: torch.nn.Module, path: str | Path | Checkpoint, *, strict: bool = True) -> torch.nn.Module:
    """Copy a checkpoint's tensors into a model that transformers built, converting dtype and device.

    A tied output layer is filled through its embedding.

    Args:
        model: a causal language model of the checkpoint's family and size.
        path: a checkpoint, or where it lies.
        strict: whether names that only one of the two has are an error.

    Returns:
        The model.

    Raises:
        ParameterError: shapes differ, or (strict) names do; every mismatch is listed, and nothing has been copied.
        FormatError: the model's dtype cannot hold some number; nothing has been copied.
    """
    state = load(path)
    own = {name: tensor for name, tensor in model.state_dict().items() if not COMPUTED_BUFFERS.fullmatch(name)}
    tied = {tensor.data_ptr() for name, tensor in own.items() if name in state and tensor.numel()}
    findings = [
        f"{name} has shape {list(state[name].shape)}, the model {list(own[name].shape)}"
        for name in state
        if name in own and own[name].shape != state[name].shape
    ]
    if strict:
        findings += [f"{name} is not in the model" for name in state if name not in own]
        findings += [
            f"{name} is not in the checkpoint"
            for name, tensor in own.items()
            if name not in state and tensor.data_ptr() not in tied
        ]
    if findings:
        raise ParameterError(
            type(model).__name__,
            expected="the tensors of the checkpoint",
            got=f"{len(findings)} that do not fit",
            remedy="Build the model from the checkpoint's own config.json:",
            findings=findings,
        )
    shared = [(name, tensor, own[name]) for name, tensor in state.items() if name in own]
    for name, tensor, place in shared:
        if _narrows(tensor.dtype, place.dtype):
            converted(name, tensor, dtype=place.dtype)  # before anything is copied
    with torch.no_grad():
        for _, tensor, place in shared:
            place.copy_(tensor)
    return model


def to_tensors(model: torch.nn.Module | Mapping[str, torch.Tensor], config: ModelConfig) -> LazyTensors:
    """A model or a state dict as named tensors for `write_checkpoint`; each goes to the host when it is asked for.

    Rotary buffers, and an output layer tied to the embedding, are left out.

    Raises:
        ParameterError: a tensor's dtype cannot be stored, or the output layer of a tied model differs.
    """
    state = model.state_dict() if isinstance(model, torch.nn.Module) else dict(model)
    known = [tensor.name for tensor in hf_tensors(config)]
    state = {name: tensor for name, tensor in state.items() if not COMPUTED_BUFFERS.fullmatch(name)}
    output, embedding = tied_names(config)
    if config.tie_embeddings and output in state:
        if not torch.equal(state[output], state[embedding]):
            raise ParameterError(
                output, expected="the embedding, which the configuration ties it to", got="another tensor",
                remedy="Tie the model's weights, or set tie_word_embeddings to false.",
            )  # fmt: skip
        del state[output]
    order = {name: place for place, name in enumerate(known)}
    return named_tensors({name: state[name] for name in sorted(state, key=lambda name: order.get(name, len(order)))})


def save(
    path: str | Path,
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    config: ModelConfig | None = None,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    rng_state: Mapping[str, torch.Tensor] | None = None,
    fisher: Mapping[str, torch.Tensor] | None = None,
    old_params: Mapping[str, torch.Tensor] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    data_state: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a model and whatever training state is given as a checkpoint.

    Args:
        path: the directory to make.
        model: a model of transformers, or a state dict under Hugging Face names.
        config: its configuration; a model of transformers brings its own.
        optimizer: an Adam-like optimizer of that model; see `tprog.torch_state.optimizer_tensors`.
        rng_state: what `rng_state()` gives.
        fisher: diagonal of the Fisher information, by parameter name.
        old_params: the anchor of elastic weight consolidation, by parameter name.
        scheduler: `state_dict()` of a learning-rate schedule, as far as it is JSON.
        data_state: place in the training data, as JSON.
        **options: those of `tprog.writer.write_checkpoint`.

    Raises:
        ParameterError: names or shapes are not those of the parameter table; every mismatch is listed.
        UsageError: no configuration is given, or the path is taken.
    """
    from tprog import torch_state

    config = config or _config_of(model)
    parts = Parts(
        optimizer=None if optimizer is None else torch_state.optimizer_tensors(optimizer, model),
        rng_state=None if rng_state is None else named_tensors(rng_state),
        rng_pickle=None if rng_state is None else torch_state.pickled(rng_state),
        fisher=None if fisher is None else named_tensors(fisher),
        old_params=None if old_params is None else named_tensors(old_params),
        scheduler=scheduler,
        data_state=data_state,
    )
    return write_checkpoint(path, config, to_tensors(model, config), parts=parts, **options)


def load_part(
    path: str | Path | Checkpoint,
    part: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """One of a checkpoint's optional sets of tensors by name: `optimizer`, `rng_state`, `fisher` or `old_params`.

    Raises:
        UsageError: the checkpoint does not have it.
        FormatError: it is broken, or does not fit the model; or `dtype` cannot hold some number.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    return _converted(checkpoint.part(part), device, dtype)


def named_tensors(tensors: Mapping[str, torch.Tensor]) -> LazyTensors:
    """Tensors by name as a source for writers; each goes to the host when it is asked for.

    Raises:
        ParameterError: a tensor's dtype cannot be stored.
    """
    specs = {name: TensorSpec(_numpy_dtype(name, tensor), tuple(tensor.shape)) for name, tensor in tensors.items()}
    return LazyTensors(specs, lambda name: as_numpy(tensors[name]))


def converted(
    name: str,
    tensor: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    copy: bool = False,
) -> torch.Tensor:
    """A tensor in another dtype or on another device, or as it is where it has those already.

    Raises:
        FormatError: the dtype cannot hold some number of it.
    """
    result = tensor.to(device=device, dtype=dtype, copy=copy)
    if _narrows(tensor.dtype, result.dtype) and not bool(torch.isfinite(result).all()):
        held = _NUMPY[result.dtype]
        raise not_finite(name, held.name, largest(held), as_numpy(tensor), WIDER)
    return result


def _narrows(source: torch.dtype, target: torch.dtype) -> bool:
    one, other = _NUMPY.get(source), _NUMPY.get(target)
    return one is not None and other is not None and one != other and can_overflow(one, other)


def _converted(
    tensors: Checkpoint | TensorSet, device: str | torch.device, dtype: str | torch.dtype | None
) -> dict[str, torch.Tensor]:
    target = torch_dtype(dtype)
    return {
        name: converted(name, view(tensors.file_of(name), name), dtype=target, device=device)
        for name in tensors.names
    }


def view(file: TensorFile, name: str) -> torch.Tensor:
    """One tensor of a mapped file, sharing its memory."""
    spec = file.specs[name]
    dtype = _TORCH[CODES[spec.dtype]]
    if not spec.nbytes:
        return torch.empty(spec.shape, dtype=dtype)
    count = spec.nbytes // spec.dtype.itemsize
    flat = torch.frombuffer(file.data, dtype=dtype, count=count, offset=file.header.offsets[name])
    return flat.reshape(spec.shape)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as a numpy array of the same dtype, bfloat16 and float8 included; shares memory on the CPU."""
    host = tensor.detach().cpu().contiguous()
    dtype = _NUMPY[host.dtype]
    if host.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        bits = torch.int16 if dtype.itemsize == 2 else torch.uint8
        return host.view(bits).numpy().view(dtype)
    return host.numpy()


def torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The torch dtype of a name such as `bfloat16`; None stays None.

    Example:
        >>> torch_dtype("bfloat16")
        torch.bfloat16
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    return _TORCH[CODES[numpy_dtype(dtype.removeprefix("torch."))]]


def _config_of(model: torch.nn.Module | Mapping[str, torch.Tensor]) -> ModelConfig:
    known = getattr(model, "config", None)
    if known is None or not hasattr(known, "to_dict"):
        raise UsageError(
            "config",
            expected="the configuration of these tensors",
            got="none",
            remedy="Pass config=.",
        )
    # Through JSON, as config.json would be: a transformers configuration holds dtype objects and tuples.
    return config_from_json(json.loads(known.to_json_string(use_diff=False)), where=type(model).__name__)


def _numpy_dtype(name: str, tensor: torch.Tensor) -> np.dtype:
    dtype = _NUMPY.get(tensor.dtype)
    if dtype is None:
        raise ParameterError(
            name, expected=f"one of {', '.join(map(str, _NUMPY))}", got=str(tensor.dtype), remedy="Convert it first."
        )
    return dtype
