"""What differs between two checkpoints: configuration, metadata, and tensors by their largest difference."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tprog.config import ModelConfig
from tprog.dtypes import same_bits
from tprog.reader import Checkpoint, open_checkpoint

_CHUNK = 1 << 22


@dataclass(frozen=True)
class TensorDifference:
    """How far two tensors of one name are apart.

    Args:
        name: Hugging Face name.
        largest: largest absolute difference; None where shapes differ.
        relative: that, over the largest absolute value of the two; None where shapes differ.
        what: dtypes or shapes, where they differ.
    """

    name: str
    largest: float | None
    relative: float | None
    what: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between two checkpoints, a and b.

    Args:
        config: fields of the configuration, with both values.
        metadata: fields of progressive.json by dotted path, with both values; the manifest is left out.
        only_a: tensors that only a has.
        only_b: tensors that only b has.
        tensors: tensors that differ, the largest relative difference first.
        equal: number of tensors that are equal bit for bit.
    """

    config: Mapping[str, tuple[Any, Any]]
    metadata: Mapping[str, tuple[Any, Any]]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    tensors: tuple[TensorDifference, ...]
    equal: int

    @property
    def same_model(self) -> bool:
        """Whether configuration and every tensor are the same."""
        return not (self.config or self.only_a or self.only_b or self.tensors)


def diff(a: str | Path | Checkpoint, b: str | Path | Checkpoint) -> Difference:
    """Compare two checkpoints.

    Args:
        a: a checkpoint, or where it lies.
        b: another.

    Raises:
        FormatError: one of them is not a checkpoint.

    Example:
        >>> import tempfile
        >>> from tprog.numpy import save
        >>> from tprog.hf_names import hf_tensors
        >>> config = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> arrays = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in hf_tensors(config)}
        >>> root = Path(tempfile.mkdtemp())
        >>> one = save(root / "a.tprog", arrays, config)
        >>> arrays["model.norm.weight"] = arrays["model.norm.weight"] + np.float32(0.5)
        >>> [(entry.name, entry.largest) for entry in diff(one, save(root / "b.tprog", arrays, config)).tensors]
        [('model.norm.weight', 0.5)]
    """
    one, other = (item if isinstance(item, Checkpoint) else open_checkpoint(item) for item in (a, b))
    common = [name for name in one.names if name in other.specs]
    found = [entry for name in common if (entry := _compare(name, one, other)) is not None]
    return Difference(
        config=_changed(_fields(one.config), _fields(other.config)),
        metadata=_changed(_metadata(one), _metadata(other)),
        only_a=tuple(name for name in one.names if name not in other.specs),
        only_b=tuple(name for name in other.names if name not in one.specs),
        tensors=tuple(sorted(found, key=lambda entry: -np.inf if entry.relative is None else -entry.relative)),
        equal=len(common) - len(found),
    )


def _fields(config: ModelConfig) -> dict[str, Any]:
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__ if name != "extra"}
    if config.rope_scaling is not None:
        fields["rope_scaling"] = asdict(config.rope_scaling)
    return _flat(fields | {"extra": dict(config.extra)})


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    data = checkpoint.progressive.to_json()
    data.pop("manifest", None)
    return _flat(data)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _flat(item, f"{prefix}{key}.")
        elif isinstance(item, list) and any(isinstance(entry, Mapping) for entry in item):
            flat |= _flat({str(place): entry for place, entry in enumerate(item)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*one, *(name for name in other if name not in one)]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _compare(name: str, one: Checkpoint, other: Checkpoint) -> TensorDifference | None:
    a, b = one.tensor(name), other.tensor(name)
    if a.shape != b.shape:
        return TensorDifference(name, None, None, f"shape {list(a.shape)} and {list(b.shape)}")
    a, b = a.reshape(-1), b.reshape(-1)
    if a.dtype == b.dtype and np.array_equal(same_bits(a), same_bits(b)):
        return None
    largest = scale = 0.0
    for start in range(0, a.size, _CHUNK):
        left, right = (part[start : start + _CHUNK].astype(np.float64) for part in (a, b))
        with np.errstate(invalid="ignore"):
            gap = np.abs(left - right)
        # Infinities and NaN that are the same on both sides are no difference; others are an infinite one.
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        gap = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
        largest = max(largest, float(gap.max(initial=0.0)))
        finite = np.abs(np.concatenate([left[np.isfinite(left)], right[np.isfinite(right)]]))
        scale = max(scale, float(finite.max(initial=0.0)))
    what = "" if a.dtype == b.dtype else f"{a.dtype.name} and {b.dtype.name}"
    return TensorDifference(name, largest, largest / scale if scale else largest, what)
