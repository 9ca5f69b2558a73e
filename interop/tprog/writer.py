"""A checkpoint directory written from named tensors: sharded, hashed, whole or not at all."""

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tprog.commit import new_directory
from tprog.config import DTYPES, ModelConfig
from tprog.config_json import config_to_json
from tprog.errors import ParameterError
from tprog.gang import Gang, shared_directory
from tprog.hashing import hash_file
from tprog.hf_names import hf_tensors
from tprog.journal import JOURNAL, Journal
from tprog.jsonio import read_json, write_json
from tprog.layout import CONFIG, INDEX, JSON_PARTS, PROGRESSIVE, SAVE_ID, SHARD_SIZE, TENSOR_PARTS
from tprog.parts import Parts
from tprog.paths import real_path, safe_file
from tprog.reader import is_checkpoint
from tprog.schema import FileRecord, Manifest, Progressive, write_progressive
from tprog.shards import index_of, plan_shards, write_shards
from tprog.source import Tensors, TensorSource, as_source, main_dtype
from tprog.tokenizer import tokenizer_files, write_tokenizer
from tprog.tokenizer_copies import copies_due, copy_to
from tprog.tree import mismatches

Check = Callable[[Path], Progressive | None]
"""Called with the finished directory before it is put in place: raises to abort, may return amended metadata."""
Advance = Callable[[int, int], None]
"""Told how many bytes of tensors are written, and how many there will be in all."""


_RECORDS = ".records-{rank}.json"


def write_checkpoint(
    path: str | Path,
    config: ModelConfig,
    tensors: Tensors,
    *,
    progressive: Progressive | None = None,
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    tokenizer_from: str | Path | None = None,
    files: Mapping[str, bytes] | None = None,
    parts: Parts | None = None,
    check: Check | None = None,
    advance: Advance = lambda done, total: None,
    journal: Journal | None = None,
    gang: Gang | None = None,
) -> Path:
    """Write a `.tprog` directory; it appears at `path` complete, or not at all.

    Args:
        path: the directory to make.
        config: the model; its `dtype` is replaced by the one the tensors have.
        tensors: Hugging Face names to arrays in torch's layout: see `tprog.source.as_source`. All dtypes are
            kept; they may differ from tensor to tensor.
        progressive: its metadata; family, size and manifest are filled in. The default where left out.
        shard_size: largest weights file in bytes.
        overwrite: whether an existing checkpoint may be replaced.
        tokenizer_from: a directory whose tokenizer is copied (a checkpoint, or a Hugging Face directory): into
            tokenizer/, and to the top, where transformers looks for it.
        files: further files by relative name, such as generation_config.json.
        parts: optimizer, Fisher information and the like: see `tprog.parts.Parts`.
        check: called with the temporary directory when all is written; raising aborts the save, and returned
            metadata replaces that of the file.
        advance: told of every piece that this process has written.
        journal: where whole files are noted, so that a save that is killed can be gone on with; for one process,
            and for tensors that need not be asked for in order.
        gang: the processes that write it together, where there are several; each passes the same arguments.

    Returns:
        The directory.

    Raises:
        ParameterError: names or shapes are not those of the parameter table; every mismatch is listed.
        UsageError: `path` is taken or being written, or the disk is full or not writable.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> config = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> arrays = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in hf_tensors(config)}
        >>> path = write_checkpoint(Path(tempfile.mkdtemp(), "tiny-1K-0.tprog"), config, arrays)
        >>> sorted(entry.name for entry in path.iterdir())
        ['config.json', 'model.safetensors.index.json', 'progressive.json', 'weights.safetensors']
    """
    path = real_path(path)
    source = as_source(tensors, config)
    config = replace(config, dtype=_checked_dtype(source, config, path))
    progressive = (progressive or Progressive.of(config)).describing(config)
    tokenizer = tokenizer_files(Path(tokenizer_from)) if tokenizer_from is not None else {}
    parts = parts or Parts()
    parts.check(config)
    extra = dict(files or {}) | parts.bytes
    gang = gang or Gang()
    weights = sum(spec.nbytes for spec in source.specs.values())
    # Several processes divide the files among them, so that there must be as many.
    shard_size = min(shard_size, -(-weights // gang.count)) if gang.count > 1 else shard_size
    total = weights + parts.nbytes
    needed = total + sum(map(len, extra.values()))
    make = partial(new_directory, path, overwrite=overwrite, needed=needed, is_ours=is_checkpoint)
    if journal is not None:
        assert gang.count == 1
        make = partial(make, adopts=journal.adopts)
    with shared_directory(gang, path, make) as temporary:
        save = _Save(temporary, gang, _Count(advance, total).add, journal)
        save.tensors("weights", INDEX, source, shard_size)
        for name, part in parts.tensors.items():
            stem = TENSOR_PARTS[name]
            sharded = len(plan_shards(part.specs, shard_size)) > 1
            save.tensors(stem, f"{stem}.safetensors.index.json" if sharded else None, part, shard_size)
        save.exchange_records()
        if gang.rank == 0:
            save.json(CONFIG, config_to_json(config))
            for name, value in parts.json.items():
                save.json(JSON_PARTS[name], value)
            write_tokenizer(temporary, tokenizer)
            copy_to(temporary, copies_due(temporary))
            for name, data in extra.items():
                save.place(name).write_bytes(data)
            save.finish(progressive)
            amended = check(temporary) if check is not None else None
            if amended is not None:
                save.finish(amended.describing(config))
            if journal is not None:
                journal.end()
    return path


class _Count:
    """The bytes written so far, of all files together."""

    def __init__(self, advance: Advance, total: int) -> None:
        self._advance = advance
        self._total = total
        self._done = 0

    def add(self, nbytes: int) -> None:
        """That many more are written."""
        self._done += nbytes
        self._advance(self._done, self._total)


class _Save:
    """One save in progress: its id, and the hashes known so far."""

    def __init__(self, directory: Path, gang: Gang, written: Callable[[int], None], journal: Journal | None) -> None:
        self.directory = directory
        self.written = written
        self.journal = journal
        self.gang = gang
        self.save_id = journal.save_id if journal else gang.share(uuid.uuid4().hex)
        if journal is not None:
            journal.begin(directory)
        self.records: dict[str, FileRecord] = {}

    def place(self, name: str) -> Path:
        """Where a file goes; its folder is made."""
        path = safe_file(self.directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        write_json(self.place(name), dict(value))

    def tensors(self, stem: str, index: str | None, source: TensorSource, shard_size: int) -> None:
        """Write a set of tensors, and its index where that has a name."""
        self.place(stem)
        if index is not None and self.gang.rank == 0:
            self.json(index, index_of(source, shard_size, Path(stem).name))
        metadata = {SAVE_ID: self.save_id}
        self.records |= write_shards(
            self.directory,
            stem,
            source,
            shard_size=shard_size,
            metadata=metadata,
            gang=self.gang,
            written=self.written,
            journal=self.journal,
        )

    def exchange_records(self) -> None:
        """Bring the hashes of all members to member 0, by files: there is no bound on their number."""
        if self.gang.count == 1:
            return
        own = self.directory / _RECORDS.format(rank=self.gang.rank)
        if self.gang.rank:
            write_json(own, {name: record.to_json() for name, record in self.records.items()})
        self.gang.agree(None)
        for rank in range(1, self.gang.count) if self.gang.rank == 0 else ():
            path = self.directory / _RECORDS.format(rank=rank)
            self.records |= {name: FileRecord(**record) for name, record in read_json(path).items()}
            path.unlink()

    def finish(self, progressive: Progressive) -> None:
        """Write progressive.json, with the manifest of every other file."""
        for root, _, names in os.walk(self.directory):
            for file in names:
                name = Path(root, file).relative_to(self.directory).as_posix()
                if name not in self.records and name not in (PROGRESSIVE, JOURNAL):
                    size, digest = hash_file(Path(root, file))
                    self.records[name] = FileRecord(bytes=size, sha256=digest)
        manifest = Manifest(save_id=self.save_id, files=dict(sorted(self.records.items())))
        write_progressive(self.directory / PROGRESSIVE, progressive.model_copy(update={"manifest": manifest}))


def _checked_dtype(source: TensorSource, config: ModelConfig, path: Path) -> str:
    """Hold names and shapes against the table; gives the dtype that most bytes have."""
    expected = {tensor.name: tensor.shape for tensor in hf_tensors(config)}
    findings = mismatches(expected, {name: spec.shape for name, spec in source.specs.items()})
    findings += [
        f"{name} has dtype {spec.dtype.name}, expected one of {', '.join(DTYPES)}"
        for name, spec in source.specs.items()
        if name in expected and spec.dtype.name not in DTYPES
    ]
    if findings:
        raise ParameterError(
            path,
            expected=f"the {len(expected)} tensors of a {config.family} model",
            got=f"{len(findings)} that do not fit",
            remedy="Give the configuration these tensors belong to, or mend them:",
            findings=findings,
        )
    return main_dtype(source.specs)
