"""Chat templates, in each of the ways that transformers stores them."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tprog.bounds import MAX_TEMPLATE_BYTES
from tprog.errors import FormatError
from tprog.jsonio import read_json
from tprog.layout import CHAT_TEMPLATES, TOKENIZER_CONFIG

DEFAULT = "default"
"""Name of the template that is used where none is asked for."""
FILE = "chat_template.jinja"
_LEGACY = "chat_template.json"
_FIELD = "chat_template"


def read_chat_templates(files: Mapping[str, Path]) -> dict[str, str]:
    """A tokenizer's chat templates by name, the default one first; empty where it has none.

    As in transformers, files of templates take the place of what tokenizer_config.json holds: one template, or a list
    of `name` and `template`. chat_template.json, where processors kept theirs, is read last.

    Args:
        files: the tokenizer's files, by name.

    Raises:
        FormatError: a template is no text, or longer than `tprog.bounds` allows.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "chat_template.jinja"); _ = path.write_text("{{ messages }}")
        >>> read_chat_templates({path.name: path})
        {'default': '{{ messages }}'}
    """
    named = {DEFAULT: _text(files[FILE])} if FILE in files else {}
    for name, path in files.items():
        if name.startswith(f"{CHAT_TEMPLATES}/"):
            named[PurePosixPath(name).stem] = _text(path)
    for name in (TOKENIZER_CONFIG, _LEGACY):
        if not named and name in files:
            named = _parsed(read_json(files[name]).get(_FIELD), f"{files[name]}: {_FIELD}")
    return named


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEMPLATE_BYTES + 1)
        if len(data) > MAX_TEMPLATE_BYTES:
            raise FormatError(
                path, expected=f"a chat template of at most {MAX_TEMPLATE_BYTES} bytes", got="a longer file",
                remedy="Replace the file.",
            )  # fmt: skip
        return data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise FormatError(path, expected="text in UTF-8", got=str(error)[:200], remedy="Replace the file.") from None


def _parsed(value: Any, where: str) -> dict[str, str]:
    """What a JSON field holds: text, a list of named templates, or an object of them."""
    if not value:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    pairs: Iterable[Any] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = [(entry.get("name"), entry.get("template")) if isinstance(entry, dict) else entry for entry in value]
    found = [pair for pair in pairs if isinstance(pair, tuple) and all(isinstance(part, str) for part in pair)]
    named = dict(found)
    if not named or len(named) < len(value):
        raise FormatError(
            where, expected="a template, or a list of objects with name and template", got=repr(value)[:100],
            remedy="Correct the field, or remove it.",
        )  # fmt: skip
    return dict(sorted(named.items(), key=lambda pair: pair[0] != DEFAULT))
