"""Small checkpoints and broken tensor files for the file tests."""

import json
from pathlib import Path

import numpy as np
from tprog import ModelConfig, hf_tensors
from tprog.dtypes import numpy_dtype


def small_config(**changes: object) -> ModelConfig:
    """A model of a few kilobytes."""
    values: dict[str, object] = {
        "family": "llama",
        "hidden_size": 12,
        "num_layers": 2,
        "num_heads": 3,
        "num_kv_heads": 1,
        "head_dim": 4,
        "intermediate_size": 10,
        "vocab_size": 17,
    }
    return ModelConfig(**(values | changes))


def random_arrays(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of a model, random, by Hugging Face name."""
    generator = np.random.default_rng(seed)
    dtype = numpy_dtype(config.dtype)
    return {tensor.name: generator.standard_normal(tensor.shape).astype(dtype) for tensor in hf_tensors(config)}


def assert_same_bits(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal names, dtypes, shapes and bytes."""
    assert list(got) == list(expected) or set(got) == set(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert np.ascontiguousarray(got[name]).tobytes() == np.ascontiguousarray(array).tobytes(), name


def raw_file(path: Path, header: object, body: bytes = b"", *, length: int | None = None) -> Path:
    """A tensor file with any header at all: a JSON value, or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def entry(begin: int, end: int, dtype: str = "F32", shape: list | None = None) -> dict:
    """A header's entry for one tensor."""
    width = {"F32": 4, "BF16": 2, "F64": 8}.get(dtype, 1)
    return {
        "dtype": dtype,
        "shape": [(end - begin) // width] if shape is None else shape,
        "data_offsets": [begin, end],
    }
