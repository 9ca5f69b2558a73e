"""TOML as runs write it, and one field of it replaced."""

import json
import tomllib
from pathlib import Path
from typing import Any

from tprog import UsageError

_MOST_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: it is missing, too large, or no TOML.
    """
    if not path.is_file():
        got = "a directory" if path.is_dir() else "nothing there"
        raise UsageError(path, expected="a run configuration (TOML)", got=got, remedy="Check the path.")
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise UsageError(path, expected=f"at most {_MOST_BYTES} bytes", got=size, remedy="Check the path.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bytes that are no UTF-8 and numbers of thousands of digits among them
        got = str(error)
    except RecursionError:
        got = "values nested too deep to read"
    raise UsageError(path, expected="TOML", got=got, remedy="Correct the file.")


def toml_value(value: object) -> str:
    """A value as TOML.

    Example:
        >>> toml_value(True), toml_value(["a", "b"]), toml_value(1e-3)
        ('true', '["a", "b"]', '0.001')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | list):
        # JSON's strings and lists of strings are TOML's as well, but for one control character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def override(data: dict[str, Any], text: str) -> dict[str, Any]:
    """Parsed TOML with one field replaced, as `--set section.field=value` asks.

    Raises:
        UsageError: the text is not of that form.

    Example:
        >>> override({"training": {"steps": 5}}, "training.seed=7")
        {'training': {'steps': 5, 'seed': 7}}
    """
    name, equals, value = text.partition("=")
    path = name.strip().split(".")
    if not equals or len(path) < 2:
        raise UsageError(
            "--set", expected="section.field=value", got=repr(text), remedy="For example: --set training.steps=50"
        )
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    result = dict(data)
    node = result
    for key in path[:-1]:
        inner = node.get(key)
        node[key] = dict(inner) if isinstance(inner, dict) else {}
        node = node[key]
    node[path[-1]] = parsed
    return result
