"""The tokenizer of a GGUF file as files that the tokenizers library and transformers read."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from tprog.chat_templates import DEFAULT, FILE
from tprog.errors import FormatError, UsageError
from tprog.gguf_header import GGUFHeader
from tprog.gguf_sentence_piece import BYTE_TOKENS, PREPEND, REPLACE
from tprog.gguf_splits import BY_NAME, Split
from tprog.gguf_vocabulary import (
    BYTE_LEVEL,
    CONTROL,
    NORMAL,
    PARTS,
    SENTENCE_PIECE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    spare,
)
from tprog.layout import CHAT_TEMPLATES, TOKENIZER_CONFIG, TOKENIZER_JSON
from tprog.merge_scores import LONGEST_PIECE, SPACE, merges_of

_GGML, _TEMPLATE = "tokenizer.ggml.", "tokenizer.chat_template"


def tokenizer_from_gguf(header: GGUFHeader, count: int) -> dict[str, bytes]:
    """The tokenizer's files by name: tokenizer.json, tokenizer_config.json and its chat templates.

    Args:
        header: of the GGUF file.
        count: the number of token ids that the model has.

    Raises:
        FormatError: the tokenizer is broken: tokens of one text, merges of what is no token, ids that are none.
        UsageError: it is of a kind, or splits text by a rule, that is not known here, or there is none.
    """
    return _Words(header, count).files()


class _Words:
    def __init__(self, header: GGUFHeader, count: int) -> None:
        self.fields = header.fields
        self.where = header.path
        self.kind = self.get("model", str) or "none"
        if self.kind not in (BYTE_LEVEL, SENTENCE_PIECE):
            self.refuse(f"{BYTE_LEVEL} or {SENTENCE_PIECE}", self.kind)
        self.tokens: list[str] = self.texts("tokens")
        self.types = self.numbers("token_type", np.full(len(self.tokens), NORMAL)).astype(int).tolist()
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        if not self.tokens or len(self.tokens) > count:
            self.broken(f"1 to {count} tokens, one for each row of the embedding", len(self.tokens))
        if len(self.ids) < len(self.tokens):
            twice = next(token for number, token in enumerate(self.tokens) if self.ids[token] != number)
            self.broken("tokens that differ", f"{twice!r} twice"[:100])
        self.split = self.known_split() if self.kind == BYTE_LEVEL else None
        self.special = {part: self.token_of(theirs) for part, theirs in PARTS.items()}

    def files(self) -> dict[str, bytes]:
        """Every file by name."""
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{f"{part}_token": token for part, token in self.special.items() if token is not None},
        }
        files = {TOKENIZER_JSON: _json(self.rules()), TOKENIZER_CONFIG: _json(settings)}
        for key, template in self.fields.items():
            name = DEFAULT if key == _TEMPLATE else key.removeprefix(f"{_TEMPLATE}.")
            if name == key or not isinstance(template, str):
                continue
            if not name.replace("_", "a").replace("-", "a").isalnum():
                self.broken("chat templates named in letters and digits", repr(name)[:100])
            files[FILE if name == DEFAULT else f"{CHAT_TEMPLATES}/{name}.jinja"] = template.encode("utf-8")
        return files

    def rules(self) -> dict[str, Any]:
        """The tokenizer.json."""
        model, before = self.byte_level() if self.split is not None else self.sentence_piece()
        added = [
            {
                "id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": kind != USER_DEFINED,
            }
            for number, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in (CONTROL, USER_DEFINED, UNKNOWN)
        ]  # fmt: skip
        model = {
            "type": "BPE",
            "dropout": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
        } | model
        return {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **before,
            "post_processor": self.around(), "model": model,
        }  # fmt: skip

    def byte_level(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model, and what comes before and after it."""
        assert self.split is not None
        merges = []
        for text in self.texts("merges"):
            at = text.find(" ", 1)
            merges.append([text[:at], text[at + 1 :]])
            if at < 0 or not all(part in self.ids for part in (*merges[-1], "".join(merges[-1]))):
                self.broken("merges of tokens into tokens", repr(text)[:100])
        model = {
            "unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": self.split.ignore_merges,
            "vocab": self.vocab(), "merges": merges,
        }  # fmt: skip
        decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        normalizer = {"type": "NFC"} if self.split.nfc else None
        return model, {
            "normalizer": normalizer, "pre_tokenizer": self.split.pre_tokenizer, "decoder": decoder,
        }  # fmt: skip

    def sentence_piece(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model, and what comes before and after it."""
        if missing := [token for token in BYTE_TOKENS if token not in self.ids]:
            self.broken("a token for each byte", f"no {missing[0]}")
        given = self.numbers("scores", None)
        scores = {
            token: float(score)
            for token, kind, score in zip(self.tokens, self.types, given, strict=True)
            if kind == NORMAL and token not in BYTE_TOKENS
        }
        if (longest := max(map(len, scores), default=0)) > LONGEST_PIECE:
            self.broken(f"tokens of at most {LONGEST_PIECE} characters", longest)
        if not np.isfinite(given).all():
            self.broken("scores that are numbers", "NaN or an infinity")
        prefix = self.flag("add_space_prefix", default=True)
        model = {
            "unk_token": self.special["unk"], "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": self.vocab(), "merges": [list(pair) for pair in merges_of(scores, self.ids)],
        }  # fmt: skip
        steps: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if prefix:
            steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        normalizer = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]} if prefix else REPLACE
        return model, {
            "normalizer": normalizer, "pre_tokenizer": None, "decoder": {"type": "Sequence", "decoders": steps},
        }  # fmt: skip

    def vocab(self) -> dict[str, int]:
        """Ids by token, without those that fill up the embedding."""
        filler = {spare(n) for n, kind in enumerate(self.types) if kind == UNUSED}
        return {token: number for token, number in self.ids.items() if token not in filler}

    def around(self) -> dict[str, Any] | None:
        """The template of tokens around a text; None where there are none."""
        default = self.split.add_bos if self.split is not None else True
        bos = self.special["bos"] if self.flag("add_bos_token", default=default) else None
        eos = self.special["eos"] if self.flag("add_eos_token", default=False) else None
        if bos is None and eos is None:
            return None

        def pieces(sequence: str, kind: int) -> list[dict[str, Any]]:
            around = [
                [] if token is None else [{"SpecialToken": {"id": token, "type_id": kind}}] for token in (bos, eos)
            ]
            return [*around[0], {"Sequence": {"id": sequence, "type_id": kind}}, *around[1]]

        special = {
            token: {"id": token, "ids": [self.ids[token]], "tokens": [token]}
            for token in (bos, eos)
            if token is not None
        }
        return {
            "type": "TemplateProcessing", "single": pieces("A", 0), "pair": pieces("A", 0) + pieces("B", 1),
            "special_tokens": special,
        }  # fmt: skip

    def known_split(self) -> Split:
        """The rule that splits text."""
        name = self.get("pre", str) or "default"
        if name not in BY_NAME:
            self.refuse(f"one that splits text as {', '.join(BY_NAME)}", name)
        return BY_NAME[name]

    def token_of(self, part: str) -> str | None:
        """The text of a special token."""
        number = self.get(f"{part}_token_id", int)
        if number is None:
            return None
        if not 0 <= number < len(self.tokens):
            self.broken(f"{part}_token_id below {len(self.tokens)}", number)
        return self.tokens[number]

    def flag(self, key: str, *, default: bool) -> bool:
        """A yes or no."""
        value = self.get(key, bool)
        return default if value is None else value

    def get(self, key: str, kind: type) -> Any:
        """A value of the tokenizer's description."""
        value = self.fields.get(_GGML + key)
        if value is not None and type(value) is not kind:
            self.broken(f"{_GGML}{key} of kind {kind.__name__}", repr(value)[:100])
        return value

    def texts(self, key: str) -> list[str]:
        """A list of text."""
        value = self.fields.get(_GGML + key)
        if not isinstance(value, list):
            self.broken(f"{_GGML}{key}, a list of text", repr(value)[:100])
        return value

    def numbers(self, key: str, default: np.ndarray | None) -> np.ndarray:
        """An array of numbers, one for each token."""
        value = self.fields.get(_GGML + key, default)
        if not isinstance(value, np.ndarray) or value.shape != (len(self.tokens),):
            self.broken(f"{_GGML}{key}, a number for each of {len(self.tokens)} tokens", repr(value)[:100])
        return value

    def broken(self, expected: str, got: object) -> NoReturn:
        """Refuse a broken tokenizer."""
        raise FormatError(self.where, expected=expected, got=got, remedy="Convert the model again.")

    def refuse(self, expected: str, got: str) -> NoReturn:
        """Refuse a tokenizer that is not known here."""
        raise UsageError(
            self.where, expected=f"a tokenizer of kind {expected}", got=repr(got)[:100],
            remedy="Import without it: --no-tokenizer.",
        )  # fmt: skip


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
