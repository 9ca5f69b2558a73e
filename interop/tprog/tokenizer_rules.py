"""A tokenizer.json looked over: its vocabulary by id, its merges, and what it puts around a text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tprog.bounds import MAX_TOKENIZER_BYTES
from tprog.errors import FormatError
from tprog.gguf_vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED, refuse

_MOST_TOKENS = 1 << 24


@dataclass(frozen=True, kw_only=True)
class TokenizerRules:
    """A tokenizer.json, its vocabulary looked over.

    Args:
        data: the whole of it.
        model: its model.
        tokens: every token by its id; None where an id is skipped.
        added: the added tokens by id.
        where: the file, for errors.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    tokens: list[str | None]
    added: Mapping[int, Mapping[str, Any]]
    where: Path

    @classmethod
    def read(cls, path: Path) -> "TokenizerRules":
        """Read a tokenizer.json, which may hold more values than other JSON files do.

        Raises:
            FormatError: it is broken, or too large.
        """
        size = path.stat().st_size
        if size > MAX_TOKENIZER_BYTES:
            _broken(path, f"at most {MAX_TOKENIZER_BYTES} bytes", f"{size}")
        try:
            data = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            _broken(path, "JSON", str(error)[:200])
        if not isinstance(data, dict):
            _broken(path, "a JSON object", f"a {type(data).__name__}")
        return cls.of(data, path)

    @classmethod
    def of(cls, data: Mapping[str, Any], where: Path) -> "TokenizerRules":
        """Look over the rules of a parsed tokenizer.json.

        Raises:
            FormatError: it has no vocabulary, an id that is no number, or two tokens with one id.
            UsageError: it is another kind than BPE.
        """
        model: Any = data.get("model")
        if isinstance(model, dict) and model.get("type", "BPE") != "BPE":
            refuse(f"one of kind {model['type']}, where GGUF takes BPE")
        extra = data.get("added_tokens") or []
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocab, dict) or not isinstance(extra, list):
            _broken(where, "a model with a vocabulary", repr(model)[:100])
        added: dict[Any, Mapping[str, Any]] = {}
        for token in extra:
            if not isinstance(token, dict) or not isinstance(token.get("content"), str):
                _broken(where, "added tokens with text as their content", repr(token)[:100])
            if not isinstance(token.get("id"), int):
                _broken(where, "whole numbers as token ids", repr(token)[:100])
            added[token["id"]] = token
        by_id: dict[int, str] = {}
        ids: dict[str, int] = {}
        for token, number in (*vocab.items(), *((token["content"], token["id"]) for token in extra)):
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _MOST_TOKENS:
                _broken(where, "whole numbers as token ids", f"{token!r}: {number!r}"[:100])
            if by_id.setdefault(number, token) != token or ids.setdefault(token, number) != number:
                _broken(where, "one id for each token", f"{token!r}, {by_id[number]!r} and id {number}"[:100])
        if not by_id:
            _broken(where, "a vocabulary", "no token")
        try:
            "".join(ids).encode("utf-8")
        except UnicodeEncodeError as error:
            _broken(where, "tokens of whole characters", f"half a surrogate pair: {error.object[error.start]!r}")
        tokens = [by_id.get(number) for number in range(max(by_id) + 1)]
        return cls(data=data, model=model, tokens=tokens, added=added, where=where)

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs in the order they are merged; older files write each as one text.

        Raises:
            FormatError: one is no pair of tokens, or makes up none.
        """
        known = {token for token in self.tokens if token is not None}
        found = []
        pairs = self.model.get("merges") or []
        if not isinstance(pairs, list):
            _broken(self.where, "merges in a list", repr(pairs)[:100])
        for pair in pairs:
            parts = pair.split(" ") if isinstance(pair, str) else pair
            if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
                _broken(self.where, "merges of two tokens each", repr(pair)[:100])
            if not known.issuperset((*parts, "".join(parts))):
                _broken(self.where, "merges of tokens into tokens", repr(pair)[:100])
            found.append((parts[0], parts[1]))
        return found

    @property
    def stripping(self) -> tuple[str, ...]:
        """What llama.cpp does not know of added tokens."""
        greedy = [
            t["content"] for t in self.added.values() if t.get("lstrip") or t.get("rstrip") or t.get("single_word")
        ]
        return tuple(f"spaces beside {token} are no part of it" for token in greedy)

    def type_of(self, number: int) -> int:
        """What a token is; `NORMAL` for one of the vocabulary proper."""
        if number in self.added:
            return CONTROL if self.added[number].get("special") else USER_DEFINED
        return UNUSED if self.tokens[number] is None else NORMAL

    def around(self) -> tuple[list[int], list[int]]:
        """Ids of the tokens that are put before a text, and after it.

        Raises:
            FormatError: the rule is malformed.
            UsageError: it is a rule that is not known here.
        """
        processor: Any = self.data.get("post_processor")
        steps: Any = processor.get("processors") if kind_of(processor) == "Sequence" else [processor]
        first: list[int] = []
        last: list[int] = []
        for step in steps if isinstance(steps, list) else [steps]:
            kind = kind_of(step)
            if kind in ("nothing", "ByteLevel"):
                continue
            if kind != "TemplateProcessing":
                refuse(f"one that puts tokens around a text by {kind}")
            try:
                target = first
                for piece in step["single"]:
                    if "Sequence" in piece:
                        target = last
                    else:
                        target += step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
            except (KeyError, TypeError) as error:
                _broken(self.where, "a template of tokens around a text", f"{type(error).__name__}: {error}")
        for token in (*first, *last):
            if type(token) is not int or not 0 <= token < len(self.tokens):
                _broken(self.where, "ids of its tokens around a text", repr(token)[:100])
        return first, last


def kind_of(step: Any) -> str:
    """The type of a normalizer, pre-tokenizer or post-processor, in words.

    Example:
        >>> kind_of({"type": "NFC"}), kind_of(None)
        ('NFC', 'nothing')
    """
    return str(step.get("type")) if isinstance(step, Mapping) else "nothing" if step is None else repr(step)[:40]


def _broken(where: object, expected: str, got: str) -> NoReturn:
    raise FormatError(where, expected=expected, got=got, remedy="Replace the file.")
