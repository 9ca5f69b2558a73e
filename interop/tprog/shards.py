"""Tensors written as weights files of a bounded size, with their lengths and hashes."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tprog.errors import UsageError
from tprog.gang import Gang
from tprog.journal import Journal
from tprog.layout import shard_names
from tprog.schema import FileRecord
from tprog.source import InAdvance, TensorSource
from tprog.tensorfile import TensorWriter
from tprog.tensorheader import TensorSpec, build_header


def plan_shards(specs: Mapping[str, TensorSpec], shard_size: int) -> list[dict[str, TensorSpec]]:
    """Which tensors go together: in order, until a file would pass `shard_size`.

    Raises:
        UsageError: the size is not above 0.

    Example:
        >>> import numpy as np
        >>> spec = TensorSpec(np.dtype("int8"), (6,))
        >>> [list(shard) for shard in plan_shards({"a": spec, "b": spec, "c": spec}, 12)]
        [['a', 'b'], ['c']]
    """
    if shard_size <= 0:
        raise UsageError("shard size", expected="bytes above 0", got=shard_size, remedy="Give 5GB, for example.")
    shards: list[dict[str, TensorSpec]] = [{}]
    filled = 0
    for name, spec in specs.items():
        if shards[-1] and filled + spec.nbytes > shard_size:
            shards.append({})
            filled = 0
        shards[-1][name] = spec
        filled += spec.nbytes
    return shards


def write_shards(
    directory: Path,
    stem: str,
    source: TensorSource,
    *,
    shard_size: int,
    metadata: Mapping[str, str],
    gang: Gang | None = None,
    written: Callable[[int], None] = lambda nbytes: None,
    journal: Journal | None = None,
) -> dict[str, FileRecord]:
    """Write a source as `{stem}.safetensors` or as numbered files; gives lengths and hashes of those written here.

    In a gang every member asks for every tensor, since making one may take all of them, and writes its own files.
    """
    gang = gang or Gang()
    shards = plan_shards(source.specs, shard_size)
    records: dict[str, FileRecord] = {}
    failure: OSError | None = None
    for number, (name, specs) in enumerate(zip(shard_names(stem, len(shards)), shards, strict=True)):
        if journal is not None and (known := journal.find(name)) is not None:
            records[name] = known
            written(sum(spec.nbytes for spec in specs.values()))
            continue
        if number % gang.count == gang.rank and failure is None:
            try:
                records[name] = _write_shard(directory / name, specs, source, metadata, written)
                if journal is not None:
                    journal.note(name, records[name])
                continue
            except _UnwrittenError as error:
                if gang.count == 1:
                    raise error.reason from None
                failure, specs = error.reason, error.rest
        for tensor in build_header(specs, {})[1] if gang.count > 1 else ():
            source.tensor(tensor)
    gang.agree(failure)
    return records


def index_of(source: TensorSource, shard_size: int, stem: str) -> dict[str, Any]:
    """The index of what `write_shards` writes, as Hugging Face loaders read it."""
    shards = plan_shards(source.specs, shard_size)
    names = shard_names(stem, len(shards))
    return {
        "metadata": {"total_size": sum(spec.nbytes for spec in source.specs.values())},
        "weight_map": {tensor: name for name, specs in zip(names, shards, strict=True) for tensor in specs},
    }


class _UnwrittenError(Exception):
    """A file that could not be written, and the tensors of it that nobody has asked for yet."""

    def __init__(self, reason: OSError, rest: Mapping[str, TensorSpec]) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.rest = dict(rest)


def _write_shard(
    path: Path,
    specs: Mapping[str, TensorSpec],
    source: TensorSource,
    metadata: Mapping[str, str],
    written: Callable[[int], None],
) -> FileRecord:
    coming = InAdvance(source, build_header(specs, metadata)[1])
    try:
        with TensorWriter(path, specs, metadata) as writer, closing(iter(coming)) as tensors:
            for name, array in tensors:
                writer.append(name, array)
                written(array.nbytes)
    except OSError as error:
        raise _UnwrittenError(error, {name: specs[name] for name in coming.unasked}) from None
    return FileRecord(bytes=writer.bytes_written, sha256=writer.sha256)
