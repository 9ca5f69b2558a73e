"""TOML as runs write it, and one field of it replaced."""

import json
import tomllib
from typing import Any

from tprog import UsageError


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
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    result = dict(data)
    node = result
    for key in path[:-1]:
        inner = node.get(key)
        node[key] = dict(inner) if isinstance(inner, dict) else {}
        node = node[key]
    node[path[-1]] = parsed
    return result
