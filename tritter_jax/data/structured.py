"""Files that hold records, tables or compressed text: no text to train on as they are."""

import json
from pathlib import Path

from tprog import UsageError

AS_TEXT = "text:"
"""Written before a file, a directory or a glob that is to be read as running text whatever it holds."""

_KINDS: dict[tuple[str, ...], str] = {
    (".jsonl", ".ndjson"): "JSON records, one a line",
    (".json", ".geojson", ".ipynb"): "JSON",
    (".csv", ".tsv"): "a table",
    (".parquet", ".arrow", ".feather", ".orc", ".avro"): "a table in a binary format",
    (".array_record", ".arrayrecord", ".riegeli", ".tfrecord"): "binary records",
    (".npy", ".npz", ".bin", ".idx", ".pkl", ".pt", ".safetensors", ".gguf"): "arrays",
    (".gz", ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".zip", ".tar", ".tgz", ".7z"): "compressed data",
    (".xml", ".yaml", ".yml", ".toml", ".sqlite", ".db", ".xlsx", ".pdf", ".docx"): "structured data",
}
_BY_SUFFIX = {suffix: kind for suffixes, kind in _KINDS.items() for suffix in suffixes}
_SOURCE_CODE = {".xml", ".yaml", ".yml", ".toml"}
"""Found among the files of a program, where they are text like the rest of it."""
_SNIFF = 1 << 16


def structure_of(path: Path, *, among_others: bool = False) -> str | None:
    """What a file holds instead of running text, by its name or its first lines; None for text.

    Args:
        path: the file.
        among_others: whether it was found in a directory rather than named.

    Example:
        >>> structure_of(Path("corpus.jsonl.gz")), structure_of(Path(__file__))
        ('compressed data', None)
    """
    suffix = path.suffix.lower()
    if among_others and suffix in _SOURCE_CODE:
        return None
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    return "JSON records, one a line" if _holds_records(path) else None


def refuse_structured(spec: str, found: list[tuple[str, str]]) -> None:
    """Refuse data among which are files that are no running text.

    Args:
        spec: what was named.
        found: name and kind of those files.

    Raises:
        UsageError: there are any; all are listed.
    """
    if not found:
        return
    (name, kind), *others = found
    raise UsageError(
        spec, expected="running text", got=f"{name}, {kind}",
        remedy=f"Write {AS_TEXT}{spec} to take it as text, character for character, or extract the text first.",
        findings=[f"{name}: {kind}" for name, kind in others],
    )  # fmt: skip


def _holds_records(path: Path) -> bool:
    """Whether the first two lines that are not empty are JSON objects."""
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFF)
    except OSError:
        return False
    whole = head if len(head) < _SNIFF else head.rpartition(b"\n")[0]
    lines = [line for line in whole.split(b"\n") if line.strip()][:2]
    return len(lines) == 2 and all(line.lstrip().startswith(b"{") and _is_object(line) for line in lines)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
