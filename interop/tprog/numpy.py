"""Checkpoints as flat dicts of numpy arrays, by Hugging Face name."""

from pathlib import Path
from typing import Any

import numpy as np

from tprog.config import ModelConfig
from tprog.dtypes import numpy_dtype
from tprog.finite import WIDER, cast
from tprog.reader import Checkpoint, open_checkpoint
from tprog.source import Tensors
from tprog.writer import write_checkpoint


def load(path: str | Path | Checkpoint, *, dtype: str | np.dtype | None = None) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint by name, in torch's [out, in] layout.

    Args:
        path: a checkpoint, or where it lies.
        dtype: convert to it; where left out, arrays are read-only views of the mapped files and cost no memory.

    Raises:
        FormatError: see `tprog.reader.open_checkpoint`; or `dtype` is unknown, or cannot hold some number.

    Example:
        >>> import tempfile
        >>> from tprog.hf_names import hf_tensors
        >>> config = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> arrays = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in hf_tensors(config)}
        >>> load(save(Path(tempfile.mkdtemp(), "a.tprog"), arrays, config))["model.norm.weight"].shape
        (8,)
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    if dtype is None:
        return tensors
    target = numpy_dtype(dtype)
    return {name: cast(name, array, target, remedy=WIDER) for name, array in tensors.items()}


def save(path: str | Path, tensors: Tensors, config: ModelConfig, **options: Any) -> Path:
    """Write arrays as a checkpoint; `options` are those of `tprog.writer.write_checkpoint`."""
    return write_checkpoint(path, config, tensors, **options)


def load_part(path: str | Path | Checkpoint, part: str) -> dict[str, np.ndarray]:
    """One of a checkpoint's optional sets of tensors: read-only views of the mapped files, by name.

    Args:
        path: a checkpoint, or where it lies.
        part: `optimizer`, `rng_state`, `fisher` or `old_params`.

    Raises:
        UsageError: the checkpoint does not have it.
        FormatError: it is broken, or does not fit the model.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    tensors = checkpoint.part(part)
    return {name: tensors.tensor(name) for name in tensors.names}
