"""GGUF files as checkpoints: what `export_gguf` writes, and what llama.cpp's own tools write of the same models."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tprog.commit import refuse_taken
from tprog.config import ModelConfig
from tprog.dtypes import numpy_dtype
from tprog.errors import FormatError
from tprog.gguf_config import read_gguf_config
from tprog.gguf_header import GGUFHeader, GGUFTensor, read_header
from tprog.gguf_layout import ROPE_FACTORS, is_permuted, library, tensor_names, unpermuted
from tprog.gguf_words import tokenizer_from_gguf
from tprog.hf_names import HFTensor
from tprog.layout import SHARD_SIZE
from tprog.paths import real_path
from tprog.reader import is_checkpoint
from tprog.tensorheader import TensorSpec
from tprog.tree import mismatches
from tprog.writer import write_checkpoint

_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PIECE = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A checkpoint that was made of a GGUF file.

    Args:
        path: the checkpoint.
        types: how the file stores its matrices, the most frequent first.
        dtype: what they are stored as now; float32 where they were quantised.
    """

    path: Path
    types: tuple[str, ...]
    dtype: str


def import_gguf(
    source: str | Path,
    destination: str | Path,
    *,
    tokenizer: bool = True,
    tokenizer_from: str | Path | None = None,
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
) -> Imported:
    """Write a GGUF file of a llama, qwen2 or qwen3 model as a `.tprog`.

    Matrices of one float type keep every bit; those that are quantised become float32, as llama.cpp reads them. Norms
    and biases, which GGUF always holds as f32, take the type of the matrices where no bit is lost.

    Args:
        source: the file.
        destination: the directory to make.
        tokenizer: whether its tokenizer and chat templates go along.
        tokenizer_from: a directory whose tokenizer is taken in place of the file's own.
        shard_size: largest weights file in bytes.
        overwrite: whether an existing checkpoint may be replaced.

    Raises:
        FormatError: the file is none, is cut off, or lacks something.
        ConfigError: it holds a model of another architecture, or one that is not computed here.
        UsageError: its tokenizer is not known here, the extra is not installed, or the destination is taken.
    """
    path = real_path(source)
    refuse_taken(destination, overwrite=overwrite, is_ours=is_checkpoint, source=path)
    model = GGUFModel(read_header(path))
    words = tokenizer_from_gguf(model.header, model.config.vocab_size) if tokenizer and tokenizer_from is None else {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, data in words.items():
            Path(temporary, name).parent.mkdir(exist_ok=True)
            Path(temporary, name).write_bytes(data)
        written = write_checkpoint(
            destination,
            model.config,
            model,
            shard_size=shard_size,
            overwrite=overwrite,
            tokenizer_from=tokenizer_from if tokenizer_from is not None else temporary,
        )
    return Imported(path=written, types=model.types, dtype=model.config.dtype)


class GGUFModel:
    """A GGUF file as a source of tensors under Hugging Face names.

    Args:
        header: of the file.

    `config` is the model, `specs` has dtype and shape by Hugging Face name in the order of the parameter table.

    Raises:
        FormatError: tensors are missing, unknown, of another shape, cut off, or stored in a way that is not known.
        ConfigError: see `read_gguf_config`.
    """

    def __init__(self, header: GGUFHeader) -> None:
        self.header = header
        self._gguf = library()
        for tensor in header.tensors.values():
            self._check(tensor)
        factors = header.tensors.get(ROPE_FACTORS)
        config = read_gguf_config(header, self._read(factors) if factors else None)
        self._tensors: dict[str, tuple[HFTensor, GGUFTensor]] = {}
        self._match(config)
        self.config = replace(config, dtype=self._dtype())
        main = numpy_dtype(self.config.dtype)
        vectors = main if self._vectors_fit(main) else np.dtype(np.float32)
        self.specs: Mapping[str, TensorSpec] = {
            name: TensorSpec(main if len(tensor.shape) > 1 else vectors, tensor.shape)
            for name, (tensor, _) in self._tensors.items()
        }

    @property
    def types(self) -> tuple[str, ...]:
        """How the matrices are stored, in GGUF's words, the most frequent first."""
        found = [self._kind(stored).name for _, stored in self._tensors.values() if len(stored.shape) > 1]
        return tuple(sorted(set(found), key=lambda name: (-found.count(name), name)))

    def tensor(self, name: str) -> np.ndarray:
        """The tensor of a Hugging Face name."""
        return np.concatenate([piece.reshape(-1) for piece in self.pieces(name)]).reshape(self.specs[name].shape)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The tensor of a Hugging Face name, some rows at a time where their order allows it."""
        ours, stored = self._tensors[name]
        dtype, rows = self.specs[name].dtype, stored.shape[0]
        step = max(1, _PIECE // (4 * int(np.prod(stored.shape[1:], dtype=np.int64))))
        if is_permuted(ours.spec, self.config):
            step = rows
        for start in range(0, rows, step):
            array = self._read(stored, start, min(start + step, rows)).astype(dtype, copy=False)
            array = unpermuted(ours.spec, array, self.config) if step >= rows else array.reshape(-1)
            yield np.ascontiguousarray(array)

    def _match(self, config: ModelConfig) -> None:
        names = tensor_names(config)
        found = {name: tensor for name, tensor in self.header.tensors.items() if name != ROPE_FACTORS}
        findings = mismatches(
            {name: tensor.shape for name, tensor in names.items()},
            {name: tensor.shape for name, tensor in found.items()},
        )
        if findings:
            raise FormatError(
                self.header.path, expected=f"the {len(names)} tensors of a {config.family} model",
                got=f"{len(findings)} that do not fit", remedy="Convert the model again:",
                findings=findings,
            )  # fmt: skip
        self._tensors = {tensor.name: (tensor, found[name]) for name, tensor in names.items()}

    def _dtype(self) -> str:
        return _STORED.get(self.types[0], "float32") if len(self.types) == 1 else "float32"

    def _vectors_fit(self, dtype: np.dtype) -> bool:
        """Whether norms and biases lose no bit in the type of the matrices."""
        vectors = [self._read(stored) for _, stored in self._tensors.values() if len(stored.shape) == 1]
        with np.errstate(over="ignore"):
            return all(np.array_equal(vector.astype(dtype).astype(np.float32), vector) for vector in vectors)

    def _kind(self, tensor: GGUFTensor) -> Any:
        return self._gguf.GGMLQuantizationType(tensor.type)

    def _row_bytes(self, tensor: GGUFTensor) -> int:
        block, size = self._gguf.GGML_QUANT_SIZES[self._kind(tensor)]
        return tensor.shape[-1] // block * size

    def _check(self, tensor: GGUFTensor) -> None:
        where = f"{self.header.path}: {tensor.name!r}"[:300]
        try:
            block, _ = self._gguf.GGML_QUANT_SIZES[self._kind(tensor)]
        except (KeyError, ValueError):
            raise FormatError(
                where, expected="a type that the gguf package knows", got=f"number {tensor.type}",
                remedy="Update it: `pip install --upgrade gguf`.",
            ) from None  # fmt: skip
        if tensor.shape[-1] % block:
            raise FormatError(
                where, expected=f"rows of whole blocks of {block}", got=tensor.shape[-1],
                remedy="Convert the model again.",
            )  # fmt: skip
        rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
        if tensor.offset + rows * self._row_bytes(tensor) > self.header.size:
            raise FormatError(
                self.header.path, expected="a whole GGUF file", got="one that is cut off",
                remedy="Fetch the file again.",
            )  # fmt: skip

    def _read(self, tensor: GGUFTensor, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Some rows of a tensor, as float32, or as they are where they are of a float type."""
        kind, width = self._kind(tensor), self._row_bytes(tensor)
        whole = len(tensor.shape) == 1
        stop = 1 if whole else tensor.shape[0] if stop is None else stop
        rows, inner = (1, ()) if whole else (stop - start, tensor.shape[1:-1])
        each = width * int(np.prod(inner, dtype=np.int64))
        with self.header.path.open("rb") as file:
            file.seek(tensor.offset + (0 if whole else start * each))
            data = np.fromfile(file, np.uint8, rows * each)
        shape = tensor.shape if whole else (stop - start, *tensor.shape[1:])
        if kind.name in _STORED:
            return data.view(numpy_dtype(_STORED[kind.name])).reshape(shape)
        try:
            return self._gguf.dequantize(data.reshape(-1, width), kind).astype(np.float32, copy=False).reshape(shape)
        except NotImplementedError:
            raise FormatError(
                f"{self.header.path}: {tensor.name}", expected="a type that the gguf package reads", got=kind.name,
                remedy="Update it: `pip install --upgrade gguf`, or convert the model to f16.",
            ) from None  # fmt: skip
