"""Code that a model's JSON names for transformers to run (`trust_remote_code=True`); no checkpoint takes it along."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tprog.errors import TritterError
from tprog.jsonio import parse_json, read_json, to_bytes
from tprog.layout import CONFIG, TOKENIZER_CONFIG
from tprog.paths import safe_file

CODE_FIELDS = ("auto_map", "custom_pipelines")
"""Fields whose values name code. Without them transformers uses its own class of that `model_type`, as we do."""


def without_code(data: bytes, where: object) -> bytes:
    """The JSON of a file without the fields that name code; the bytes themselves where it has none of them.

    Raises:
        FormatError: it has one, but is not a JSON object.

    Example:
        >>> without_code(b'{"auto_map": {"AutoTokenizer": ["tok.Tok", null]}}', "tokenizer_config.json")
        b'{}\\n'
    """
    if not any(field.encode() in data for field in CODE_FIELDS):
        return data
    table = parse_json(data, where)
    kept = {name: value for name, value in table.items() if name not in CODE_FIELDS}
    return data if len(kept) == len(table) else to_bytes(kept)


def named_code(directory: Path) -> list[str]:
    """A line for each of a directory's JSON files that names code: the file, the field, and the code.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_own.Own"}}')
        >>> named_code(root)
        ['config.json names code in auto_map (modeling_own.py)']
    """
    lines = []
    for name in (CONFIG, TOKENIZER_CONFIG):
        try:
            data = read_json(safe_file(directory, name)) if (directory / name).is_file() else {}
        except TritterError:
            continue
        for field in CODE_FIELDS:
            files = ", ".join(dict.fromkeys(_files(data.get(field))))
            lines += [f"{name} names code in {field}{files and f' ({files})'}"] if data.get(field) else []
    return lines


def _files(value: Any, deep: int = 4) -> Iterator[str]:
    """`module.Class`, perhaps of another repository: `org/name--module.Class`."""
    if isinstance(value, str) and "." in value:
        yield f"{value.rpartition('--')[2].partition('.')[0]}.py"
    elif deep and isinstance(value, Mapping):
        # A pipeline has its code under `impl`, and further classes of transformers beside it.
        yield from _files(value["impl"] if "impl" in value else list(value.values()), deep - 1)
    elif deep and isinstance(value, list):
        for part in value:
            yield from _files(part, deep - 1)
