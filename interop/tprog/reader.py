"""A checkpoint opened for reading: headers are read and checked at once, tensors when they are touched."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tprog.config import DTYPES, ModelConfig
from tprog.config_json import as_family, load_config
from tprog.dtypes import same_bits
from tprog.errors import FormatError, UsageError
from tprog.foreign import foreign_directory, kind_of_file, other_head
from tprog.hf_names import (
    COMPUTED_BUFFERS,
    hf_tensors,
    is_spare,
    most_names,
    stored_names,
    tied_names,
    wrapped_prefix,
)
from tprog.jsonio import read_json
from tprog.layout import (
    CARD,
    CONFIG,
    GENERATION_CONFIG,
    HF_WEIGHTS,
    HOOKS,
    INDEX,
    PROGRESSIVE,
    RNG_STATE,
    SAVE_ID,
    SUBDIRECTORIES,
    TENSOR_PARTS,
    TOKENIZER_FILES,
    WEIGHTS,
)
from tprog.parts import Parts, present_parts, read_json_part, read_tensors
from tprog.paths import hub_repository, real_path, safe_file
from tprog.schema import Progressive, read_progressive
from tprog.source import main_dtype
from tprog.tensorfile import TensorFile
from tprog.tensorheader import TensorSpec
from tprog.tokenizer import tokenizer_files
from tprog.tree import mismatches
from tprog.weights import TensorSet, find_weights


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; also a `TensorSource`, so that it can be written again as it is.

    Args:
        path: its directory.
        config: the model; `dtype` is the one most of the weights have.
        progressive: its metadata; the default where the directory has none.
        specs: dtype and shape of every tensor by Hugging Face name, in the order of the parameter table.
        tokenizer_files: its tokenizer's files, by name.
    """

    path: Path
    config: ModelConfig
    progressive: Progressive
    specs: Mapping[str, TensorSpec]
    tokenizer_files: Mapping[str, Path]
    weights: TensorSet

    @property
    def names(self) -> tuple[str, ...]:
        """Hugging Face names of all tensors, in the order of the parameter table."""
        return tuple(self.specs)

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as a read-only view of its mapped file, in torch's [out, in] layout.

        Raises:
            ParameterError: the model has no such tensor.
        """
        return self.weights.tensor(name)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """One tensor read from its file, some rows at a time."""
        return self.weights.pieces(name)

    def file_of(self, name: str) -> TensorFile:
        """The file a tensor lies in."""
        return self.weights.file_of(name)

    def part(self, name: str) -> TensorSet:
        """One of the optional sets of tensors: `optimizer`, `rng_state`, `fisher` or `old_params`.

        Raises:
            UsageError: the checkpoint does not have it, or there is no part of that name.
            FormatError: it is broken, or does not fit the model; every finding is listed.
        """
        found = self._find(name) if name in TENSOR_PARTS else None
        if found is None:
            raise UsageError(
                self.path,
                expected=f"a part named {name}",
                got=f"only {', '.join(self.parts) or 'weights'}",
                remedy="Save it with the checkpoint, or go on without it.",
            )
        return found

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the optional parts that the checkpoint has."""
        return present_parts(self.path, self.progressive)

    @property
    def scheduler(self) -> dict[str, Any] | None:
        """State of the learning-rate schedule, or None."""
        return read_json_part(self.path, "scheduler")

    @property
    def data_state(self) -> dict[str, Any] | None:
        """Place in the training data, or None."""
        return read_json_part(self.path, "data_state")

    def to_parts(self) -> Parts:
        """All optional parts, to be written again."""
        pickle, hooks = self.path / RNG_STATE, self.path / HOOKS
        return Parts(
            optimizer=self._find("optimizer"),
            rng_state=self._find("rng_state"),
            fisher=self._find("fisher"),
            old_params=self._find("old_params"),
            scheduler=self.scheduler,
            data_state=self.data_state,
            rng_pickle=safe_file(self.path, RNG_STATE).read_bytes() if pickle.is_file() else None,
            hooks=safe_file(self.path, HOOKS).read_bytes() if hooks.is_file() else None,
        )

    def _find(self, name: str) -> TensorSet | None:
        return read_tensors(self.path, name, self.config, self.progressive)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a `.tprog`, a Hugging Face model directory, or a directory of weights.safetensors and config.json.

    Only headers and JSON are read. Rotary buffers that old files carry are left out, and so is an output layer that
    repeats a tied embedding.

    Raises:
        FormatError: it is not a model, a file is broken, or names, shapes and dtypes do not match the parameter
            table; every mismatch is listed.
        ConfigError: config.json asks for a model that is not supported.

    Example:
        >>> open_checkpoint("/nowhere")
        Traceback (most recent call last):
        tprog.errors.FormatError: /nowhere: expected a model directory, got nothing there. ...
    """
    given, directory = Path(path), real_path(path)
    if not directory.is_dir():
        kind = kind_of_file(directory) if directory.is_file() else None
        got, remedy = (kind.got, kind.remedy) if kind is not None else ("nothing there", "Check the path.")
        raise FormatError(given, expected="a model directory", got=got, remedy=remedy)
    if not (directory / CONFIG).is_file():
        kind = foreign_directory(directory) if not (directory / HF_WEIGHTS).is_file() else None
        remedy = "Give a .tprog, a Hugging Face model directory, or weights.safetensors + config.json."
        raise FormatError(
            given, expected=f"a model directory with a {CONFIG}", got=kind.got if kind else "none",
            remedy=kind.remedy if kind else remedy,
        )  # fmt: skip
    config, progressive = read_description(directory)
    weights = find_weights(directory, lambda name: is_spare(name, config), most=most_names(config))
    weights = weights.renamed(stored_names(weights.location, config))
    specs = _checked_specs(directory, config, weights, progressive)
    config = replace(config, dtype=main_dtype(specs))
    return Checkpoint(
        path=directory,
        config=config,
        progressive=progressive,
        specs=specs,
        tokenizer_files=tokenizer_files(directory),
        weights=weights.without(weights.location.keys() - specs.keys()),
    )


def read_description(directory: Path) -> tuple[ModelConfig, Progressive]:
    """What a directory says of its model, without its weights: config.json and progressive.json, or the default.

    A snapshot of a Hugging Face cache is named as the base of whatever is made of it.

    Raises:
        FormatError: a file is missing or malformed.
        ConfigError: config.json asks for a model that is not supported.
    """
    config = load_config(directory / CONFIG)
    if (directory / PROGRESSIVE).exists():
        progressive = read_progressive(directory / PROGRESSIVE)
        config = as_family(config, progressive.model_family)
    else:
        progressive = Progressive.of(config)
    repository = hub_repository(directory)
    return config, progressive if repository is None else progressive.with_fields(base_model=repository)


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is a model of which every part is known here, and may be replaced by another.

    Example:
        >>> is_checkpoint(Path("/"))
        False
    """
    weights = (WEIGHTS, HF_WEIGHTS, INDEX)
    return (
        (directory / CONFIG).is_file()
        and any((directory / name).is_file() for name in weights)
        and all(_is_known(entry) for entry in directory.iterdir())
    )


def _is_known(entry: Path) -> bool:
    if entry.is_dir():
        return entry.name in SUBDIRECTORIES
    known = (CONFIG, PROGRESSIVE, INDEX, HOOKS, GENERATION_CONFIG, CARD, *TOKENIZER_FILES)
    return entry.name in known or entry.suffix == ".safetensors"


def _checked_specs(
    directory: Path, config: ModelConfig, weights: TensorSet, progressive: Progressive
) -> dict[str, TensorSpec]:
    found = {
        name: weights.files[file].specs[name]
        for name, file in weights.location.items()
        if not COMPUTED_BUFFERS.fullmatch(name)
    }
    findings = list(weights.findings) + _other_saves(weights, progressive) + _other_size(config, progressive)
    output, embedding = tied_names(config)
    if config.tie_embeddings and output in found and not findings:
        if not _same_tensor(weights, embedding, output):
            findings.append(f"{output} differs from {embedding}, though config.json ties them")
        del found[output]
    expected = {tensor.name: tensor.shape for tensor in hf_tensors(config)}
    if prefix := wrapped_prefix(found, config):
        raise FormatError(
            directory, expected=f"names such as {embedding}", got=f"all of them behind {prefix!r}",
            remedy="Save the model inside the wrapper: model._orig_mod, model.module or model.merge_and_unload().",
        )  # fmt: skip
    findings += mismatches(expected, {name: spec.shape for name, spec in found.items()})
    findings += [
        f"{name} has dtype {spec.dtype.name}, expected one of {', '.join(DTYPES)}"
        for name, spec in found.items()
        if name in expected and spec.dtype.name not in DTYPES
    ]
    if findings:
        got = f"{len(findings)} things that do not fit"
        remedy = "Check that config.json and the weights belong together, and fetch what is missing:"
        if head := other_head(read_json(directory / CONFIG).get("architectures")):
            got = f"those of {head}: {got}"
            remedy = "Only models that predict the next token are read: give the one that it was made from."
        raise FormatError(
            directory,
            expected=f"the {len(expected)} tensors of a {config.family} model",
            got=got,
            remedy=remedy,
            findings=findings,
        )
    return {name: found[name] for name in expected}


def _other_saves(weights: TensorSet, progressive: Progressive) -> list[str]:
    """Files that belong to another save than the metadata, or than each other."""
    ids = {name: file.header.metadata.get(SAVE_ID) for name, file in weights.files.items()}
    manifest = progressive.manifest
    due = manifest.save_id if manifest else next(iter(ids.values()))
    whose = PROGRESSIVE if manifest else next(iter(ids))
    return [f"{name} belongs to save {found}, {whose} to save {due}" for name, found in ids.items() if found != due]


def _other_size(config: ModelConfig, progressive: Progressive) -> list[str]:
    size = progressive.current_size
    return [
        f"{PROGRESSIVE} says {name} {getattr(size, name)}, {CONFIG} {getattr(config, name)}"
        for name in ("hidden_size", "num_layers", "num_heads", "num_kv_heads")
        if getattr(size, name) != getattr(config, name)
    ]


def _same_tensor(weights: TensorSet, one: str, other: str) -> bool:
    if one not in weights.location:
        return False
    a, b = (weights.files[weights.location[name]].tensor(name) for name in (one, other))
    return a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(same_bits(a), same_bits(b)))
