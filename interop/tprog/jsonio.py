"""JSON in and out of files: bounded, strict, and with errors that name the file."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from tprog.errors import FormatError
from tprog.foreign import HEAD_BYTES, foreign_file

MAX_JSON_BYTES = 16 << 20
"""Largest JSON file read; an index of a hundred thousand tensors stays below it."""
MAX_JSON_VALUES = 1 << 20
"""Most values in one JSON text; each takes many times the memory of its text."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FormatError: the file is missing, too large, or not an object that `parse_json` takes.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
        >>> write_json(path, {"hidden_size": 64})
        >>> read_json(path)
        {'hidden_size': 64}
    """
    if not path.is_file():
        raise FormatError(path, expected="a JSON file", got="nothing there", remedy="Check the path.")
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise FormatError(
            path,
            expected=f"at most {MAX_JSON_BYTES} bytes",
            got=f"{size}",
            remedy="This is not a model's JSON.",
        )
    return parse_json(path.read_bytes(), path)


def parse_json(data: bytes, where: object) -> dict[str, Any]:
    """Parse bytes as a JSON object; `where` names their origin in errors. A byte order mark is passed over.

    Raises:
        FormatError: the bytes are not UTF-8 JSON, not an object, nested too deep, or hold NaN, a number
            that overflows float64 or a name twice.

    Example:
        >>> parse_json(b'{"layers": 2}', "config.json")
        {'layers': 2}
    """

    def refuse(reason: str) -> NoReturn:
        raise FormatError(where, expected="a JSON object", got=reason, remedy="Fetch or write the file anew.")

    def constant(name: str) -> NoReturn:
        refuse(f"the value {name}, which JSON does not have")

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            refuse(f"the number {digits[:40]}, which is too large")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            refuse(f"the name {next(k for k, _ in pairs if k in seen or seen.add(k))!r} twice")
        return table

    if (kind := foreign_file(data[:HEAD_BYTES])) is not None:
        raise FormatError(where, expected="a JSON object", got=kind.got, remedy=kind.remedy)
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        refuse(f"more than {MAX_JSON_VALUES} values")
    try:
        # Decoded here, because json.loads would take UTF-16 and UTF-32 as well.
        value = json.loads(
            data.decode("utf-8-sig"), parse_float=finite, parse_constant=constant, object_pairs_hook=unique
        )
    except UnicodeDecodeError as error:
        refuse(f"bytes that are not UTF-8 at offset {error.start}")
    except RecursionError:
        refuse("values nested too deep to read")
    except ValueError as error:
        refuse(f"{error}")
    if not isinstance(value, dict):
        refuse(f"a {type(value).__name__}")
    return value


def to_bytes(value: dict[str, Any]) -> bytes:
    """A JSON object as a file holds it: indented, UTF-8, with a newline at the end.

    Raises:
        ValueError: a value is NaN or infinite.

    Example:
        >>> to_bytes({"a": 1})
        b'{\\n  "a": 1\\n}\\n'
    """
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, indented, with a newline at the end.

    Raises:
        ValueError: a value is NaN or infinite.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a.json")
        >>> write_json(path, {"a": 1}); path.read_text()
        '{\\n  "a": 1\\n}\\n'
    """
    path.write_bytes(to_bytes(value))
