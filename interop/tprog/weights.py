"""Which tensor files make up a directory's weights, and which tensor lies in which."""

import os
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np

from tprog.bounds import INDEX as INDEX_BOUND
from tprog.buffers import aligned_empty
from tprog.errors import FormatError, ParameterError
from tprog.foreign import ADAPTER, foreign_directory
from tprog.jsonio import read_json
from tprog.layout import HF_WEIGHTS, INDEX, WEIGHTS
from tprog.paths import safe_file
from tprog.source import TensorSource
from tprog.tensorfile import TensorFile
from tprog.tensorheader import TensorSpec


@runtime_checkable
class InFiles(Protocol):
    """A source whose tensors are views of mapped files."""

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as a view."""
        ...

    def file_of(self, name: str) -> TensorFile:
        """The file a tensor lies in."""
        ...


def in_memory(source: TensorSource, name: str) -> np.ndarray:
    """One tensor in memory: read from its file, where it lies in one, so that no page of it stays mapped."""
    array = source.tensor(name)
    return read_into(aligned_empty(array.shape, array.dtype), source, name) if isinstance(source, InFiles) else array


def read_into(memory: np.ndarray, source: InFiles, name: str) -> np.ndarray:
    """One tensor read from its file into memory of its shape and dtype; gives that memory."""
    source.file_of(name).read(memory.reshape(1, -1), source.tensor(name).reshape(1, -1))
    return memory


@dataclass(frozen=True)
class TensorSet:
    """A set of named tensors in one or several opened files; a `TensorSource`, so that it can be written again.

    Args:
        files: the opened files, by the names they have in their directory.
        location: for each tensor, the name of its file.
        findings: what does not agree between the index and the files.
    """

    files: Mapping[str, TensorFile]
    location: Mapping[str, str]
    findings: tuple[str, ...] = ()

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Dtype and shape of every tensor."""
        return self._specs

    @cached_property
    def _specs(self) -> Mapping[str, TensorSpec]:
        return {name: self.files[file].specs[name] for name, file in self.location.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self.location)

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as a read-only view of its mapped file.

        Raises:
            ParameterError: there is no such tensor.
        """
        return self.file_of(name).tensor(name)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """One tensor read from its file, some rows at a time.

        Raises:
            ParameterError: there is no such tensor.
            FormatError: the file has become shorter since it was opened.
        """
        return self.file_of(name).pieces(name)

    def file_of(self, name: str) -> TensorFile:
        """The file a tensor lies in.

        Raises:
            ParameterError: there is no such tensor.
        """
        if name not in self.location:
            raise ParameterError(
                name,
                expected=f"a tensor of {', '.join(self.files)}",
                got="a name that is not there",
                remedy="See `names`.",
            )
        return self.files[self.location[name]]

    def renamed(self, names: Mapping[str, str]) -> "TensorSet":
        """The same set with some tensors under other names, given by the ones they have."""
        files = {
            file: opened.renamed({name: names[name] for name in opened.specs if name in names})
            for file, opened in self.files.items()
        }
        location = {names.get(name, name): file for name, file in self.location.items()}
        return TensorSet(files, location, self.findings)

    def without(self, names: Container[str]) -> "TensorSet":
        """The same set less some tensors."""
        kept = {name: file for name, file in self.location.items() if name not in names}
        return TensorSet(self.files, kept, self.findings)


@dataclass(frozen=True)
class Prefixed:
    """The tensors of a set whose names begin with a prefix, without it.

    Args:
        base: the set.
        prefix: what all their names begin with.
        names: what comes after it.
    """

    base: TensorSet
    prefix: str
    names: tuple[str, ...]

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Dtype and shape of every tensor."""
        return self._specs

    @cached_property
    def _specs(self) -> Mapping[str, TensorSpec]:
        return {name: self.file_of(name).specs[self.prefix + name] for name in self.names}

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as a read-only view of its mapped file."""
        return self.base.tensor(self.prefix + name)

    def file_of(self, name: str) -> TensorFile:
        """The file a tensor lies in."""
        return self.base.file_of(self.prefix + name)


def find_weights(
    directory: Path, spare: Callable[[str], bool] = lambda _: False, *, most: int = INDEX_BOUND.values
) -> TensorSet:
    """Open the weights of a checkpoint, a Hugging Face directory, or a bare weights.safetensors.

    Args:
        directory: where they lie.
        spare: whether a name in the index may be in no file.
        most: most names that an index may have.

    Raises:
        FormatError: there are none, there are two sets, an adapter is beside them, a file is broken, or the index
            reaches outside.
    """
    if (directory / ADAPTER).is_file():
        kind = foreign_directory(directory)
        assert kind is not None
        raise FormatError(directory, expected="weights in safetensors files", got=kind.got, remedy=kind.remedy)
    single = [name for name in (HF_WEIGHTS, WEIGHTS) if (directory / name).is_file()]
    if not (directory / INDEX).exists():
        if len(single) == 1:
            return open_indexed(directory, dict.fromkeys(single, None))
        _refuse(directory, single)
    names = read_index(directory / INDEX, most)
    strangers = [name for name in single if name not in names.values()]
    if strangers:
        raise FormatError(
            directory,
            expected=f"one set of weights, the one {INDEX} names",
            got=f"{strangers[0]} beside it",
            remedy="Loaders disagree on which to read: remove one of the two.",
        )
    return open_indexed(directory, dict.fromkeys(names.values()), names, spare)


def find_part(directory: Path, stem: str, *, most: int = INDEX_BOUND.values) -> TensorSet | None:
    """Open another set of tensors: `{stem}.safetensors`, or the files its index names; None where there is neither.

    Args:
        directory: the checkpoint's.
        stem: the set's name in it.
        most: most names that an index may have.

    Raises:
        FormatError: a file is missing or broken, or the index reaches outside.
    """
    path = directory / f"{stem}.safetensors"
    index = path.with_name(f"{path.name}.index.json")
    if index.exists():
        names = read_index(index, most)
        folder = path.parent.relative_to(directory)
        names = {name: (folder / file).as_posix() for name, file in names.items()}
        return open_indexed(directory, dict.fromkeys(names.values()), names)
    if os.path.lexists(path):
        return open_indexed(directory, {path.relative_to(directory).as_posix(): None})
    return None


def read_index(path: Path, most: int = INDEX_BOUND.values) -> dict[str, str]:
    """The `weight_map` of an index: tensor name to file name; of `most` names at most.

    Raises:
        FormatError: it is no index.
    """
    names = read_json(path, replace(INDEX_BOUND, values=most)).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise FormatError(
            path,
            expected="weight_map to give a file name for each tensor",
            got=repr(names)[:100],
            remedy="Rebuild it with `tritter verify --repair-index`.",
        )
    return names


def open_indexed(
    directory: Path,
    files: Mapping[str, None],
    index: Mapping[str, str] | None = None,
    spare: Callable[[str], bool] = lambda _: False,
) -> TensorSet:
    """Open files by name, and hold them against an index where there is one.

    Raises:
        FormatError: a file is missing, broken or outside the directory.
    """
    opened = {name: TensorFile.open(safe_file(directory, name)) for name in files}
    location: dict[str, str] = {}
    findings: list[str] = []
    for file, tensors in opened.items():
        for name in tensors.specs:
            if name in location:
                findings.append(f"{name} is in {location[name]} and again in {file}")
            elif index is not None and name not in index:
                findings.append(f"{name} is in {file} but not in its index")
            location[name] = file
    for name, file in (index or {}).items():
        if location.get(name) != file and not (name not in location and spare(name)):
            findings.append(f"{name} is not in {file}, where the index has it")
    return TensorSet(opened, location, tuple(findings))


def _refuse(directory: Path, single: list[str]) -> NoReturn:
    shards = sorted(path.name for path in directory.glob("*-of-*.safetensors"))
    kind = foreign_directory(directory)
    got, remedy = "none", "Give a .tprog, a Hugging Face model directory, or weights.safetensors + config.json."
    if single:
        got = " and ".join(single)
        remedy = "Loaders disagree on which to read: remove one of the two."
    elif shards:
        got = f"{shards[0]} without {INDEX}"
        remedy = "Fetch the index, or rebuild it with `tritter verify --repair-index`."
    elif kind is not None:
        got, remedy = kind.got, kind.remedy
    raise FormatError(directory, expected="weights in safetensors files", got=got, remedy=remedy)
