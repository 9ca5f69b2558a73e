"""An index rebuilt from the headers of its shards."""

import re
from pathlib import Path

from tprog.disk import told_plainly
from tprog.errors import FormatError
from tprog.hashing import hash_file
from tprog.jsonio import write_json
from tprog.layout import INDEX, PROGRESSIVE
from tprog.paths import real_path, safe_file
from tprog.schema import FileRecord, read_progressive, write_progressive
from tprog.tensorfile import TensorFile

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


def repair_index(path: str | Path) -> Path:
    """Rebuild model.safetensors.index.json from the headers of the weights files, and its entry in the manifest.

    Returns:
        The index.

    Raises:
        FormatError: there are no weights, a shard is missing or broken, or two hold the same tensor.
        UsageError: the index cannot be written.
    """
    directory = real_path(path)
    weight_map: dict[str, str] = {}
    total = 0
    for name in _complete_set(directory):
        for tensor, spec in TensorFile.open(safe_file(directory, name)).specs.items():
            if tensor in weight_map:
                raise FormatError(
                    directory, expected="each tensor in one file", got=f"{tensor} in {weight_map[tensor]} and {name}",
                    remedy="Remove the file that does not belong to this model.",
                )  # fmt: skip
            weight_map[tensor] = name
            total += spec.nbytes
    temporary = directory / f".{INDEX}.tmp"
    with told_plainly(directory / INDEX):
        try:
            write_json(temporary, {"metadata": {"total_size": total}, "weight_map": weight_map})
            temporary.replace(directory / INDEX)
        finally:
            temporary.unlink(missing_ok=True)
    _record(directory, INDEX)
    return directory / INDEX


def _complete_set(directory: Path) -> list[str]:
    """The weights files of a directory, every shard of them."""
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    matches = [match for match in map(_SHARD.fullmatch, names) if match]
    sets = {(match["stem"], int(match["count"])) for match in matches}
    if len(names) == 1 and not matches:
        return names
    if len(sets) == 1 and len(matches) == len(names):
        (_, count) = next(iter(sets))
        due = set(range(1, count + 1))
        if {int(match["number"]) for match in matches} == due:
            return names
    raise FormatError(
        directory, expected="one weights file, or every shard of one set", got=", ".join(names) or "none",
        remedy="Fetch the missing shards, or remove what does not belong.",
    )  # fmt: skip


def _record(directory: Path, name: str) -> None:
    path = directory / PROGRESSIVE
    if not path.is_file():
        return
    progressive = read_progressive(path)
    if progressive.manifest is None:
        return
    size, digest = hash_file(directory / name)
    files = dict(progressive.manifest.files) | {name: FileRecord(bytes=size, sha256=digest)}
    manifest = progressive.manifest.model_copy(update={"files": files})
    temporary = directory / f".{PROGRESSIVE}.tmp"
    write_progressive(temporary, progressive.model_copy(update={"manifest": manifest}))
    temporary.replace(path)
