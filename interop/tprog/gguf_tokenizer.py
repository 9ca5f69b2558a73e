"""A tokenizer as GGUF holds one: byte-level BPE, its merges, and the name of the rule that splits text first."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tprog.config import ModelConfig
from tprog.errors import FormatError
from tprog.jsonio import read_json
from tprog.layout import TOKENIZER_CONFIG

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_MOST_BYTES = 64 << 20
# llama.cpp's names of rules that split text; the pattern is what tokenizer.json holds.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_SPLITS = {
    _CONTRACTIONS + "\\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + "\\p{N}" + _REST: "qwen2",
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A byte-level BPE tokenizer.

    Args:
        split: llama.cpp's name for the rule that splits text.
        tokens: every token by its id.
        types: whether each is normal, special, added or unused.
        merges: pairs in the order they are merged, each as `left right`.
        special: ids of the tokens with a part to play, by that part: bos, eos, pad, unk.
        chat_template: the Jinja template of a conversation, if any.
    """

    split: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: Mapping[str, int]
    chat_template: str | None = None

    def add_to(self, writer: Any) -> None:
        """Write it into a GGUF file's description."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for part, token in self.special.items():
            getattr(writer, f"add_{part}_token_id")(token)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(files: Mapping[str, Path], config: ModelConfig) -> Vocabulary | str:
    """A checkpoint's tokenizer as GGUF can hold it, or the reason why it cannot.

    Args:
        files: the tokenizer's files, by name.
        config: the model; its vocabulary may be larger, and the rest is filled with unused tokens.

    Raises:
        FormatError: tokenizer.json is broken.

    Example:
        >>> from tprog.sizes import named_size
        >>> read_vocabulary({}, named_size("test"))
        'the checkpoint has no tokenizer.json'
    """
    path = files.get("tokenizer.json")
    if path is None:
        return "the checkpoint has no tokenizer.json"
    data = _read(path)
    try:
        model = data["model"]
        if model.get("type") != "BPE" or model.get("byte_fallback") or data.get("normalizer") not in (None, _NFC):
            return "only byte-level BPE without a normalizer is known"
        split = _split(data.get("pre_tokenizer"))
        if split is None:
            return "it splits text by a rule that llama.cpp has no name for"
        by_id = {number: (token, _NORMAL) for token, number in model["vocab"].items()}
        for token in data.get("added_tokens", ()):
            by_id[token["id"]] = token["content"], _CONTROL if token["special"] else _USER_DEFINED
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        highest = max(by_id)
        if not merges:
            return "it merges nothing, and llama.cpp reads no such BPE"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            path, expected="a tokenizer of the tokenizers library", got=f"{type(error).__name__}: {error}"[:200],
            remedy="Fetch the file anew.",
        ) from None  # fmt: skip
    if highest >= config.vocab_size:
        return f"it has token {highest}, the model only {config.vocab_size} of them"
    filled = [by_id.get(number, (f"[PAD{number}]", _UNUSED)) for number in range(config.vocab_size)]
    settings = read_json(files[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in files else {}
    template = settings.get("chat_template")
    return Vocabulary(
        split=split,
        tokens=[token for token, _ in filled],
        types=[kind for _, kind in filled],
        merges=merges,
        special=_special(settings, config, {token: number for number, (token, _) in by_id.items()}),
        chat_template=template if isinstance(template, str) else None,
    )


_NFC = {"type": "NFC"}


def _read(path: Path) -> dict[str, Any]:
    """A tokenizer.json, which may hold more values than other JSON files do."""
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise FormatError(path, expected=f"at most {_MOST_BYTES} bytes", got=size, remedy="Fetch the file anew.")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(path, expected="JSON", got=str(error)[:200], remedy="Fetch the file anew.") from None
    if not isinstance(data, dict):
        raise FormatError(path, expected="a JSON object", got=f"a {type(data).__name__}", remedy="Fetch it anew.")
    return data


def _split(rule: Mapping[str, Any] | None) -> str | None:
    """llama.cpp's name for a pre-tokenizer; None where it has none."""
    steps = (rule or {}).get("pretokenizers", [rule])
    last = steps[-1] or {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if len(steps) == 1:
        return "gpt-2" if last.get("use_regex", True) else None
    first = steps[0]
    if len(steps) != 2 or first.get("type") != "Split" or first.get("behavior") != "Isolated" or first.get("invert"):
        return None
    return None if last.get("use_regex", True) else _SPLITS.get(first["pattern"].get("Regex", ""))


def _special(settings: Mapping[str, Any], config: ModelConfig, ids: Mapping[str, int]) -> dict[str, int]:
    found = {}
    for part in ("bos", "eos", "pad", "unk"):
        token = settings.get(f"{part}_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = ids.get(token) if isinstance(token, str) else config.extra.get(f"{part}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and 0 <= number < config.vocab_size:
            found[part] = number
    return found
