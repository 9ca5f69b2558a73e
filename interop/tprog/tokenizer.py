"""Tokenizer files: found in a checkpoint or a Hugging Face directory, and laid out as either wants them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tprog.bounds import MAX_TOKENIZER_BYTES
from tprog.errors import FormatError
from tprog.foreign import HEAD_BYTES, foreign_file
from tprog.jsonio import parse_json
from tprog.layout import (
    CHAT_TEMPLATES,
    HF_SPECIAL_TOKENS,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    TOKENIZER_JSON,
)
from tprog.paths import safe_file
from tprog.remote_code import without_code

_SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "additional_special_tokens",
)


def tokenizer_files(directory: Path) -> dict[str, Path]:
    """The tokenizer's files in a directory, by name; a `tokenizer` folder in it goes first. Empty where none.

    Raises:
        FormatError: a file is a link that leaves the directory, or stands for one that was not fetched.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp()); _ = (root / "tokenizer.json").write_text("{}")
        >>> list(tokenizer_files(root))
        ['tokenizer.json']
    """
    folder = TOKENIZER if (directory / TOKENIZER).is_dir() else "."
    named = sorted(path.name for path in (directory / folder / CHAT_TEMPLATES).glob("*.jinja"))
    return {
        name: _fetched(safe_file(directory, f"{folder}/{name}"))
        for name in (*TOKENIZER_FILES, *(f"{CHAT_TEMPLATES}/{leaf}" for leaf in named))
        if (directory / folder / name).is_file()
    }


def _fetched(path: Path) -> Path:
    """The file, which may be too large, or in a clone no more than a pointer."""
    size = path.stat().st_size
    if size > MAX_TOKENIZER_BYTES:
        raise FormatError(
            path, expected=f"at most {MAX_TOKENIZER_BYTES} bytes", got=f"{size}", remedy="This is no tokenizer."
        )
    with path.open("rb") as file:
        kind = foreign_file(file.read(HEAD_BYTES))
    if kind is not None:
        raise FormatError(path, expected="a tokenizer's file", got=kind.got, remedy=kind.remedy)
    return path


def _copied(name: str, path: Path) -> bytes:
    data = path.read_bytes()
    return without_code(data, path) if name == TOKENIZER_CONFIG else data


def unread_tokenizer(files: Iterable[str]) -> str:
    """What a tokenizer consists of that is in no tokenizer.json; empty where there is nothing of the kind.

    Example:
        >>> unread_tokenizer(["tekken.json"]), unread_tokenizer(["tokenizer.json", "vocab.json"])
        ("tekken.json (Mistral's own format) alone", '')
    """
    names = set(files)
    if TOKENIZER_JSON in names:
        return ""
    return next((f"{name} ({kind}) alone" for name, kind in _UNREAD.items() if name in names), "")


_UNREAD = {
    "tekken.json": "Mistral's own format",
    "tokenizer.model": "SentencePiece",
    "spiece.model": "SentencePiece",
    "vocab.json": "of a tokenizer in Python",
    "vocab.txt": "of a tokenizer in Python",
}


def write_tokenizer(directory: Path, files: Mapping[str, Path]) -> None:
    """Copy a tokenizer's files into the `tokenizer` folder of a checkpoint, special_tokens.json among them.

    transformers reads special_tokens_map.json where there is one (version 5 no longer writes it), so that name is
    kept beside the format's own; where it is missing, the tokens are taken from tokenizer_config.json.
    """
    if not files:
        return
    folder = directory / TOKENIZER
    folder.mkdir()
    for name, path in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(_copied(name, path))
    if SPECIAL_TOKENS in files:
        return
    if HF_SPECIAL_TOKENS in files:
        tokens = files[HF_SPECIAL_TOKENS].read_bytes()
    else:
        config = files.get(TOKENIZER_CONFIG)
        known = parse_json(config.read_bytes(), config) if config else {}
        chosen = {name: known[name] for name in _SPECIAL if known.get(name)}
        tokens = (json.dumps(chosen, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
    (folder / SPECIAL_TOKENS).write_bytes(tokens)


def export_tokenizer(directory: Path, files: Mapping[str, Path]) -> None:
    """Copy a tokenizer's files to the top of a Hugging Face directory, under the names that are read there.

    Raises:
        FormatError: a file cannot be read.
    """
    for name, path in files.items():
        if name == SPECIAL_TOKENS:
            continue
        (directory / name).parent.mkdir(exist_ok=True)
        try:
            (directory / name).write_bytes(_copied(name, path))
        except FileNotFoundError:
            raise FormatError(path, expected="a file", got="nothing there", remedy="Check the directory.") from None
