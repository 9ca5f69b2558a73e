"""Which files of a repository are a checkpoint's, which part each belongs to, and whether they arrived as listed."""

import hashlib
import json
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
from tprog.printable import printable
from tprog.schema import Progressive

PARTS = ("weights", TOKENIZER, TRAINING, EWC, "hooks")
"""What may be asked for; weights always come along, and so does the card."""
MOST_FILES = 20_000
"""Entries of a repository that are listed; one of a model has some hundreds."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST, _SHOWN = 4096, 80
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
        """Ask the Hub.

        Raises:
            FormatError: it answers with what is no listing, or one of more than `MOST_FILES` files.
        """
        try:
            info = api.model_info(repository, revision=revision)
            if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
                raise _no_listing(repository, f"the commit {info.sha!r}"[:_SHOWN])
            tree = api.list_repo_tree(repository, recursive=True, revision=info.sha)
            files = _read_tree(tree, repository)
        except (RecursionError, KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError) as error:
            raise _no_listing(repository, f"an answer of another form ({type(error).__name__})") from None
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


def _read_tree(entries: Iterable[Any], where: object) -> dict[str, RemoteFile]:
    files: dict[str, RemoteFile] = {}
    for number, entry in enumerate(entries, 1):
        if number > MOST_FILES:
            raise FormatError(
                where, expected=f"a repository of at most {MOST_FILES:,} entries",
                got=f"more than {MOST_FILES:,} entries",
                remedy="Choose the repository of one model, or fetch its directory alone with `hf download`.",
            )  # fmt: skip
        if not hasattr(entry, "blob_id"):
            continue
        digest = entry.lfs.sha256 if entry.lfs else None
        texts = (entry.path, entry.blob_id, *(() if digest is None else (digest,)))
        if not all(isinstance(text, str) and len(text) <= _LONGEST for text in texts):
            raise _no_listing(where, "a name or checksum that is no short text")
        if type(entry.size) is not int or not 0 <= entry.size < 1 << 63:
            raise _no_listing(where, f"the size {entry.size!r}"[:_SHOWN])
        files[entry.path] = RemoteFile(size=entry.size, sha256=digest, blob=entry.blob_id)
    return files


def _no_listing(where: object, got: str) -> FormatError:
    return FormatError(
        where, expected="a listing of files as the Hub gives it", got=printable(got),
        remedy="Check HF_ENDPOINT and the proxy: what answers there is not the Hub.",
    )  # fmt: skip


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
