"""Checkpoints as GGUF files, which llama.cpp and what is built on it run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tprog.commit import new_file, refuse_taken
from tprog.config import ModelConfig
from tprog.dtypes import numpy_dtype
from tprog.errors import UsageError
from tprog.finite import is_finite, largest, not_finite
from tprog.gguf_layout import FAMILIES, ROPE_FACTORS, library, permuted, tensor_names
from tprog.gguf_tokenizer import read_vocabulary
from tprog.gguf_vocabulary import Vocabulary
from tprog.paths import model_name, real_path
from tprog.reader import Checkpoint, open_checkpoint
from tprog.sizes import size_label
from tprog.wavelengths import inverse_wavelengths

TYPES = ("f32", "f16", "bf16", "q8_0")
"""What weights may be stored as."""
_NEAREST = {"float64": "f32", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_LARGEST = {"F16": 65504.0, "Q8_0": 65504.0 * 127, "BF16": largest(numpy_dtype("bfloat16"))}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A GGUF file that was written.

    Args:
        path: the file.
        type: how its matrices are stored.
        otherwise: tensors of it whose rows do not divide into blocks of `type`, which are f16 instead.
        tokenizer: the kind of its tokenizer, in GGUF's words; None where it holds none.
        differences: where llama.cpp will tokenize otherwise than the original, in words.
    """

    path: Path
    type: str
    otherwise: tuple[str, ...] = ()
    tokenizer: str | None = None
    differences: tuple[str, ...] = ()


def export_gguf(
    source: str | Path | Checkpoint,
    destination: str | Path,
    *,
    type_: str | None = None,
    tokenizer: bool = True,
    overwrite: bool = False,
) -> Exported:
    """Write a checkpoint as one GGUF file, tensor by tensor.

    Vectors are always f32, as llama.cpp wants them; a matrix whose rows are no multiple of q8_0's 32 is f16. The
    tokenizer and its chat templates go along: byte-level BPE whose splitting rule llama.cpp knows by name, or BPE
    over SentencePiece's pieces with a token for each byte.

    Args:
        source: the checkpoint.
        destination: the file to write.
        type_: one of `TYPES`; the nearest to the source's dtype where left out.
        tokenizer: whether the tokenizer goes along; llama.cpp takes no text without one.
        overwrite: whether an existing file may be replaced.

    Raises:
        FormatError: the source is no checkpoint, or holds numbers that the type cannot.
        UsageError: GGUF has no place for the model or its tokenizer, the type is unknown, the extra is not installed,
            or the destination is taken or cannot be written.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    config = checkpoint.config
    chosen = type_ or _NEAREST[config.dtype]
    _refuse_unknown(config, chosen)
    path = real_path(destination)
    if path.is_relative_to(checkpoint.path):
        refuse_taken(path, source=checkpoint.path)
    file = _File(library(), checkpoint, chosen)
    vocabulary = read_vocabulary(checkpoint.tokenizer_files, config) if tokenizer else None
    with new_file(path, overwrite=overwrite, needed=file.nbytes) as temporary:
        file.write(temporary, vocabulary)
    return Exported(
        path=path,
        type=chosen,
        otherwise=tuple(file.otherwise),
        tokenizer=vocabulary.kind if vocabulary else None,
        differences=vocabulary.differences if vocabulary else (),
    )


@dataclass
class _File:
    gguf: Any
    checkpoint: Checkpoint
    chosen: str
    otherwise: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = tensor_names(self.checkpoint.config)
        self.tensors = [(name, tensor, self._type(name, tensor.shape)) for name, tensor in names.items()]

    def _type(self, name: str, shape: tuple[int, ...]) -> Any:
        kinds = self.gguf.GGMLQuantizationType
        if len(shape) == 1:
            return kinds.F32
        kind = kinds[self.chosen.upper()]
        if shape[-1] % self.gguf.GGML_QUANT_SIZES[kind][0]:
            self.otherwise.append(name)
            return kinds.F16
        return kind

    def _nbytes(self, shape: tuple[int, ...], kind: Any) -> int:
        block, size = self.gguf.GGML_QUANT_SIZES[kind]
        return int(np.prod(shape)) // block * size

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self._nbytes(tensor.shape, kind) for _, tensor, kind in self.tensors)

    def write(self, path: Path, vocabulary: Vocabulary | None) -> None:
        """Write the file: what describes it first, then each tensor as it is read."""
        writer = self.gguf.GGUFWriter(path, FAMILIES[self.checkpoint.config.family])
        try:
            self._describe(writer)
            if vocabulary is None:
                writer.add_tokenizer_model("none")
            else:
                vocabulary.add_to(writer)
            factors = self._rope_factors()
            for name, array in factors:
                writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes)
            for name, tensor, kind in self.tensors:
                stored = np.dtype(np.float32)
                writer.add_tensor_info(name, tensor.shape, stored, self._nbytes(tensor.shape, kind), raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for _, array in factors:
                writer.write_tensor_data(array)
            for array in self._arrays():
                writer.write_tensor_data(array)
        finally:
            writer.close()

    def _arrays(self) -> Iterator[np.ndarray]:
        for _, tensor, kind in self.tensors:
            array = permuted(tensor.spec, self.checkpoint.tensor(tensor.name), self.checkpoint.config)
            bound = _LARGEST.get(kind.name, largest(np.dtype(np.float32)))
            if not is_finite(array) or (bound < largest(array.dtype) and float(np.abs(array).max()) > bound):
                raise not_finite(tensor.name, kind.name.lower(), bound, array, "Export it as f32 or bf16.")
            if kind.name == "BF16" and array.dtype == numpy_dtype("bfloat16"):
                yield np.ascontiguousarray(array).view(np.uint8)
            else:
                yield self.gguf.quantize(np.ascontiguousarray(array, np.float32), kind)

    def _describe(self, writer: Any) -> None:
        config, gguf = self.checkpoint.config, self.gguf
        types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(model_name(self.checkpoint.path).removesuffix(".tprog"))
        writer.add_size_label(size_label(config))
        writer.add_file_type(gguf.LlamaFileType[types[self.chosen]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_heads)
        writer.add_head_count_kv(config.num_kv_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_theta)
        if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(config.rope_scaling["factor"]))

    def _rope_factors(self) -> list[tuple[str, np.ndarray]]:
        """What llama3's stretching divides each pair's frequency by: GGUF stores it as a tensor."""
        config = self.checkpoint.config
        if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
            return []
        plain = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
        return [(ROPE_FACTORS, (plain / inverse_wavelengths(config)).astype(np.float32))]


def _refuse_unknown(config: ModelConfig, chosen: str) -> None:
    if chosen not in TYPES:
        raise UsageError.unknown("GGUF type", chosen, TYPES)
    arch = FAMILIES.get(config.family)
    scaling = config.rope_scaling.kind if config.rope_scaling else None
    missing = [
        what
        for what, there in (
            (f"family {config.family}", arch is None),
            ("attention_bias", arch == "qwen3" and config.attention_bias),
            ("sliding_window", (config.sliding_window or math.inf) < config.max_position_embeddings),
            ("rope_scaling llama3", arch != "llama" and scaling == "llama3"),
        )
        if there
    ]
    if missing:
        raise UsageError(
            "GGUF", expected=f"a model of family {', '.join(FAMILIES)}", got=missing[0],
            remedy="Export it with --to hf instead.",
        )  # fmt: skip
