"""Everything that is wrong with a checkpoint, found at once."""

import itertools
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tprog.bounds import INDEX as INDEX_BOUND
from tprog.bounds import MAX_TOKENIZER_BYTES, Bound
from tprog.errors import MOST_FINDINGS, FormatError, TritterError
from tprog.finite import is_finite
from tprog.hashing import hash_file
from tprog.hub_files import part_of
from tprog.jsonio import check_large_json, read_json
from tprog.layout import PROGRESSIVE, RNG_STATE, TENSOR_PARTS, TOKENIZER
from tprog.paths import real_path, safe_file
from tprog.printable import LONGEST_MESSAGE, cut, printable
from tprog.reader import Checkpoint, open_checkpoint
from tprog.schema import Manifest, read_progressive
from tprog.tensorfile import TensorFile
from tprog.tokenizer_copies import REFRESH, belongs_to_tokenizer, copy_findings

_MOST_FINDINGS = 1_000
# Of an index, which is read with the weights where it fits the model.
_INDEX = Bound(nbytes=8 << 20, values=1 << 16)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the file it concerns, by its name in the directory, and what."""

    file: str
    problem: str

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.problem}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `verify` found.

    Args:
        path: the directory.
        findings: what is wrong, file by file; empty where nothing is.
        left_out: how many findings there are beside those, of a directory where next to nothing is right.
        files: number of files read; others than a checkpoint's are passed over.
        nbytes: their length.
        tensors: number of tensors looked at.
        checksums: number of files whose checksum is on record, and was compared.
    """

    path: Path
    findings: tuple[Finding, ...]
    left_out: int = 0
    files: int
    nbytes: int
    tensors: int
    checksums: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def wrong(self) -> int:
        """How many things are wrong."""
        return len(self.findings) + self.left_out


def verify(path: str | Path, *, checksums: bool = True, finite: bool = True) -> Report:
    """Check a checkpoint in full: structure, names, shapes, dtypes, checksums, and that every number is finite.

    Args:
        path: a checkpoint of any kind that `open_checkpoint` reads.
        checksums: whether to hash the files that the manifest lists.
        finite: whether to look at every value.

    Raises:
        FormatError: it is not a directory.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from tprog.config import ModelConfig
        >>> from tprog.numpy import save
        >>> from tprog.hf_names import hf_tensors
        >>> config = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> arrays = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in hf_tensors(config)}
        >>> saved = save(Path(tempfile.mkdtemp(), "a.tprog"), arrays, config)
        >>> verify(saved).ok
        True
        >>> _ = (saved / "config.json").write_text("{}")
        >>> [finding.file for finding in verify(saved).findings]
        ['config.json', 'config.json']
    """
    directory = real_path(path)
    if not directory.is_dir():
        raise FormatError(path, expected="a model directory", got="none", remedy="Check the path.")
    found, opened = _structure(directory)
    findings = dict.fromkeys(found)
    everything = sorted(_files(directory))
    files = [name for name in everything if _belongs(name, opened)]
    tensors = 0
    for name in files:
        if name.endswith(".safetensors"):
            count, found = _tensor_file(directory, name, finite)
            tensors += count
            findings |= dict.fromkeys(found)
        elif name.endswith(".json"):
            findings |= dict.fromkeys(_caught(name, lambda name=name: _json_file(directory, name)))
    findings |= dict.fromkeys(_tokenizer_copies(directory))
    manifest = _manifest(directory)
    if manifest is not None:
        findings |= dict.fromkeys(_recorded(directory, manifest, everything, checksums))
    return Report(
        path=directory,
        findings=tuple(sorted(findings, key=lambda finding: finding.file)[:_MOST_FINDINGS]),
        left_out=max(0, len(findings) - _MOST_FINDINGS),
        files=len(files),
        nbytes=sum(_length(directory / name) for name in files),
        tensors=tensors,
        checksums=len(manifest.files) if manifest is not None and checksums else 0,
    )


def _files(directory: Path) -> Iterator[str]:
    for root, _, names in os.walk(directory):
        for name in names:
            yield Path(root, name).relative_to(directory).as_posix()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere
        return 0


def _belongs(name: str, opened: Collection[str]) -> bool:
    """Whether a file is the checkpoint's: neither other tensor files at the top are, nor what is in other folders."""
    if opened and name.endswith(".safetensors") and "/" not in name:
        return name in opened
    return name in opened or part_of(name) is not None


def _json_file(directory: Path, name: str) -> None:
    path = safe_file(directory, name)
    if part_of(name) == TOKENIZER:
        check_large_json(path, MAX_TOKENIZER_BYTES)
    elif name.endswith(".index.json"):
        check_large_json(path, INDEX_BOUND.nbytes, _INDEX)
    else:
        read_json(path)


def _structure(directory: Path) -> tuple[list[Finding], Collection[str]]:
    """What is wrong with the whole, and the names of its tensor files; none where they are not known."""
    try:
        checkpoint = open_checkpoint(directory)
    except TritterError as error:
        return _findings(directory, error), ()
    findings, opened = [], set(checkpoint.weights.files)
    for part in TENSOR_PARTS:
        if part in checkpoint.parts:
            add = partial(_add_part, opened, checkpoint, part)
            findings += _caught(TENSOR_PARTS[part], add, directory)
    if "rng_pickle" in checkpoint.parts and "rng_state" not in checkpoint.parts:
        findings.append(Finding(RNG_STATE, "has no copy in rng_state.safetensors, which is what JAX reads"))
    return findings, opened


def _add_part(opened: set[str], checkpoint: Checkpoint, part: str) -> None:
    opened |= checkpoint.part(part).files.keys()


def _findings(directory: Path, error: TritterError) -> list[Finding]:
    where, _, field = error.where.removeprefix(printable(directory, LONGEST_MESSAGE)).lstrip("/").partition(": ")
    if error.findings:
        return [Finding(where or ".", finding) for finding in cut(error.findings, MOST_FINDINGS, error.more)]
    return [Finding(where or ".", f"{field and field + ': '}expected {error.expected}, got {error.got}")]


def _caught(name: str, action: Callable[[], object], directory: Path = Path()) -> list[Finding]:
    try:
        action()
    except TritterError as error:
        return _findings(directory, error) if error.findings else [_finding(name, error)]
    return []


def _finding(name: str, error: TritterError) -> Finding:
    return Finding(name, f"expected {error.expected}, got {error.got}")


def _tensor_file(directory: Path, name: str, finite: bool) -> tuple[int, list[Finding]]:
    try:
        file = TensorFile.open(safe_file(directory, name))
    except TritterError as error:
        return 0, [_finding(name, error)]
    bad = _not_finite(file) if finite else []
    return len(file.specs), [Finding(name, printable(f"{tensor} holds values that are not finite")) for tensor in bad]


def _tokenizer_copies(directory: Path) -> list[Finding]:
    try:
        return [Finding(name, problem) for name, problem in copy_findings(directory)]
    except TritterError as error:
        return _findings(directory, error)


def _not_finite(file: TensorFile) -> list[str]:
    """Tensors with values that are not finite; neighbours of one dtype are looked at as one array first."""
    bad = []
    for _, group in itertools.groupby(file.specs, key=lambda name: file.specs[name].dtype):
        names = list(group)
        if not is_finite(file.run(names)):
            bad += [name for name in names if not is_finite(file.tensor(name))]
    return bad


def _manifest(directory: Path) -> Manifest | None:
    try:
        return read_progressive(directory / PROGRESSIVE).manifest
    except TritterError:
        return None


def _recorded(directory: Path, manifest: Manifest, files: list[str], checksums: bool) -> Iterator[Finding]:
    for name, record in manifest.files.items():
        try:
            path = safe_file(directory, name)
            size = path.stat().st_size
        except (OSError, TritterError):
            yield Finding(name, "is on record, but is not there")
            continue
        edited = f"; if you edited it, run `{REFRESH}` on the directory" if belongs_to_tokenizer(name) else ""
        if size != record.bytes:
            yield Finding(name, f"has {size} bytes, on record are {record.bytes}{edited}")
        elif checksums:
            try:
                digest = hash_file(path)[1]
            except TritterError as error:
                yield _finding(name, error)
                continue
            if digest != record.sha256:
                yield Finding(name, f"has checksum {digest[:16]}…, on record is {record.sha256[:16]}…{edited}")
    for name in files:
        if name not in manifest.files and name.endswith((".safetensors", ".pt", ".py")):
            yield Finding(name, "is there, but not on record")
