"""Which files of a repository are a checkpoint's, which part each belongs to, and whether they arrived as listed."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tprog.errors import FormatError, UsageError
from tprog.foreign import foreign_names
from tprog.hashing import hash_file
from tprog.layout import (
    CARD,
    CONFIG,
    EWC,
    GENERATION_CONFIG,
    HF_WEIGHTS,
    HOOKS,
    INDEX,
    PLOTS,
    PROGRESSIVE,
    TOKENIZER,
    TRAINING,
    WEIGHTS,
    is_tokenizer_file,
)
from tprog.schema import Progressive

PARTS = ("weights", TOKENIZER, TRAINING, EWC, "hooks")
"""What may be asked for; weights always come along, and so does the card."""
_CARD = "card"
_PLAIN = re.compile(r"[\w.-]+")


def part_of(name: str) -> str | None:
    """The part a file belongs to, by its relative name; None where it is no checkpoint's.

    Example:
        >>> part_of("training/optimizer.safetensors"), part_of("tokenizer.json"), part_of("onnx/model.onnx")
        ('training', 'tokenizer', None)
    """
    folder, _, leaf = name.rpartition("/")
    if not _PLAIN.fullmatch(leaf) or leaf.startswith("."):
        return None
    if folder == PLOTS:
        return _CARD if leaf.endswith(".png") else None
    if folder in (TRAINING, EWC):
        return folder
    if is_tokenizer_file(name.removeprefix(f"{TOKENIZER}/")):
        return TOKENIZER
    if folder:
        return None
    if leaf in (CONFIG, PROGRESSIVE, INDEX, GENERATION_CONFIG) or leaf.endswith(".safetensors"):
        return "weights"
    return {HOOKS: "hooks", CARD: _CARD}.get(leaf)


def check_parts(parts: Iterable[str] | None) -> frozenset[str]:
    """The parts to take, all of them where none are named.

    Raises:
        UsageError: there is no such part.

    Example:
        >>> sorted(check_parts(["tokenizer"]))
        ['card', 'tokenizer', 'weights']
    """
    wanted = set(PARTS if parts is None else parts)
    for name in sorted(wanted - set(PARTS)):
        raise UsageError.unknown("parts", name, PARTS)
    return frozenset(wanted | {"weights", _CARD})


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as the Hub lists it: its length, and its sha256 or, for a small one, git's name for its content."""

    size: int
    sha256: str | None
    blob: str

    def matches(self, path: Path) -> bool:
        """Whether a file here has the content that is listed."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return hash_file(path)[1] == self.sha256
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == self.blob


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of one commit."""

    commit: str
    private: bool
    files: Mapping[str, RemoteFile]

    @classmethod
    def of(cls, api: Any, repository: str, revision: str | None) -> "Listing":
        """Ask the Hub."""
        info = api.model_info(repository, revision=revision)
        tree = api.list_repo_tree(repository, recursive=True, revision=info.sha)
        files = {
            entry.path: RemoteFile(
                size=entry.size, sha256=entry.lfs.sha256 if entry.lfs else None, blob=entry.blob_id
            )
            for entry in tree
            if hasattr(entry, "blob_id")
        }
        return cls(commit=info.sha, private=bool(info.private), files=files)

    def choose(self, parts: frozenset[str], index: Mapping[str, str] | None, where: object) -> list[str]:
        """Names of the files to take: of the weights only those that are read.

        Args:
            parts: from `check_parts`.
            index: the weight map, where the repository has one.
            where: its name, for errors.

        Raises:
            FormatError: it holds no weights that are read here.
        """
        single = [name for name in (WEIGHTS, HF_WEIGHTS) if name in self.files][:1]
        weights = set(single if index is None else index.values())
        if not weights or not weights <= self.files.keys():
            kind = None if weights else foreign_names(self.files, where)
            got = ", ".join(sorted(weights - self.files.keys())) + " missing" if weights else "none"
            remedy = "Choose another repository or revision."
            raise FormatError(
                where, expected="weights in safetensors files, all that its index names",
                got=kind.got if kind else got, remedy=kind.remedy if kind else remedy,
            )  # fmt: skip
        return [
            name
            for name in self.files
            if part_of(name) in parts and (name in weights or "/" in name or not name.endswith(".safetensors"))
        ]


def trimmed(progressive: Progressive, parts: frozenset[str]) -> Progressive:
    """Metadata of a checkpoint of which only some parts are taken: the others are neither on record nor in use."""
    changed: dict[str, Any] = {}
    if progressive.manifest is not None:
        files = progressive.manifest.files
        kept = {name: record for name, record in files.items() if part_of(name) in parts}
        if len(kept) < len(files):
            changed["manifest"] = progressive.manifest.model_copy(update={"files": kept})
    if EWC not in parts and progressive.ewc_config is not None and progressive.ewc_config.enabled:
        changed["ewc_config"] = progressive.ewc_config.to_json() | {"enabled": False}
    return progressive.with_fields(**changed) if changed else progressive
