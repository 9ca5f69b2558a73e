"""JSON in and out of files: bounded, strict, and with errors that name the file."""

import gc
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tprog.bounds import JSON, Bound, bound_of
from tprog.errors import FormatError
from tprog.foreign import HEAD_BYTES, foreign_file

MAX_DEPTH = 100
"""Most objects and lists within each other: whoever walks through a value recurses that deep."""
# A \u escape of half a surrogate pair without its other half, which is no character and cannot be written.
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F])|.)", re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONG_NUMBER = re.compile(rb"\d{19}")
_CONTAINERS = frozenset((dict, list))
_FETCH = "Correct it there; where the file was cut short, fetch it again."
_NULL = "Write another number there, or null where there is none."
_OTHER = "This is not a model's JSON: put the model's own file there."
_END = 1 << 12
_BLANK = b"\xef\xbb\xbf \r\n\t"


def read_json(path: Path, bound: Bound | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        bound: its bound; the one of its name where left out.

    Raises:
        FormatError: the file is missing, larger than `tprog.bounds` allows under its name, or not an object that
            `parse_json` takes.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
        >>> write_json(path, {"hidden_size": 64})
        >>> read_json(path)
        {'hidden_size': 64}
    """
    size, bound = _size(path), bound or bound_of(path.name)
    if size > bound.nbytes:
        raise FormatError(
            path,
            expected=f"at most {bound.nbytes} bytes",
            got=f"{size}",
            remedy=_OTHER,
        )
    return parse_json(path.read_bytes(), path, bound)


def check_large_json(path: Path, most: int, bound: Bound | None = None) -> None:
    """Read a JSON object to see that it is one; what is too large to be taken apart is looked at from both ends.

    Args:
        path: the file.
        most: largest length in bytes.
        bound: what is taken apart; as of its name where left out.

    Raises:
        FormatError: it is larger than that, or no JSON object.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "tokenizer.json")
        >>> _ = path.write_text("{" + " " * (20 << 20) + "}")
        >>> check_large_json(path, 256 << 20)
    """
    bound, size = bound or bound_of(path.name), _size(path)
    if size > most:
        raise FormatError(path, expected=f"at most {most} bytes", got=f"{size}", remedy=_OTHER)
    with path.open("rb") as file:
        if size <= bound.nbytes and values_in(data := file.read()) <= bound.values:
            parse_json(data, path, bound)
            return
        file.seek(0)
        head = file.read(_END)
        file.seek(max(0, size - _END))
        tail = file.read(_END)
    kind = foreign_file(head[:HEAD_BYTES])
    if kind is not None or not head.lstrip(_BLANK).startswith(b"{") or not tail.rstrip().endswith(b"}"):
        got = kind.got if kind else f"{head[:20]!r} … {tail[-20:]!r}"
        raise FormatError(path, expected="a JSON object", got=got, remedy=kind.remedy if kind else _FETCH)


def _size(path: Path) -> int:
    if not path.is_file():
        got = "a directory" if path.is_dir() else "nothing there"
        raise FormatError(path, expected="a JSON file", got=got, remedy="Check the path.")
    return path.stat().st_size


@contextmanager
def no_collection() -> Iterator[None]:
    """A context in which the garbage collector rests: it would go through many new objects, none in a cycle, again
    and again, which takes as long as making them does.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def values_in(data: bytes) -> int:
    """A bound on the number of values in JSON text, counted without parsing it."""
    return sum(map(data.count, (b",", b"[", b"{")))


def parse_json(data: bytes, where: object, bound: Bound = JSON) -> dict[str, Any]:
    """Parse bytes as a JSON object; `where` names their origin in errors. A byte order mark is passed over.

    Raises:
        FormatError: the bytes are not UTF-8 JSON, not an object, more than the bound allows, nested too deep, or hold
            NaN, a number that overflows float64, half a surrogate pair or a name twice.

    Example:
        >>> parse_json(b'{"layers": 2}', "config.json")
        {'layers': 2}
    """

    def refuse(reason: str, remedy: str) -> NoReturn:
        raise FormatError(where, expected="a JSON object", got=reason, remedy=remedy)

    def constant(name: str) -> NoReturn:
        refuse(f"the value {name}, which JSON does not have", _NULL)

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            refuse(f"the number {digits[:40]}, which is too large", _NULL)
        return value

    def whole(digits: str) -> int:
        value = int(digits)
        if not -(2**63) <= value < 2**63:
            refuse(f"the number {digits}, which does not fit 64 bits", _NULL)
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            refuse(
                f"the name {next(k for k, _ in pairs if k in seen or seen.add(k))!r} twice", "Remove one of the two."
            )
        return table

    if (kind := foreign_file(data[:HEAD_BYTES])) is not None:
        raise FormatError(where, expected="a JSON object", got=kind.got, remedy=kind.remedy)
    if values_in(data) > bound.values:
        refuse(f"more than {bound.values} values", _OTHER)
    try:
        # Decoded here, because json.loads would take UTF-16 and UTF-32 as well.
        text = data.decode("utf-8-sig")
        if b"\\u" in data and _SURROGATE.search(data) and any(match[1] for match in _ESCAPE.finditer(text)):
            refuse("half of a surrogate pair, which is no character", "Write that text again, as UTF-8.")
        parse_int = whole if bound.int64 and _LONG_NUMBER.search(data) else None
        with no_collection():
            value = json.loads(
                text, parse_int=parse_int, parse_float=finite, parse_constant=constant, object_pairs_hook=unique
            )
    except UnicodeDecodeError as error:
        refuse(f"bytes that are not UTF-8 at offset {error.start}", "Save the file as UTF-8.")
    except RecursionError:
        refuse("values nested too deep to read", _OTHER)
    except ValueError as error:
        refuse(f"{error}", _FETCH)
    if not isinstance(value, dict):
        refuse(f"a {type(value).__name__}", _OTHER)
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deep(value):
        refuse("values nested too deep to read", _OTHER)
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inside = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inside for item in items if type(item) in _CONTAINERS]
        if not level:
            return False
    return True


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
