"""A tokenizer.json as GGUF can hold it, or the reason why it cannot."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tprog.chat_templates import read_chat_templates
from tprog.config import ModelConfig
from tprog.gguf_sentence_piece import sentence_piece
from tprog.gguf_splits import find_split
from tprog.gguf_vocabulary import BYTE_LEVEL, PARTS, SENTENCE_PIECE, UNKNOWN, UNUSED, Vocabulary, refuse, spare
from tprog.jsonio import read_json
from tprog.layout import HF_SPECIAL_TOKENS, SPECIAL_TOKENS, TOKENIZER_CONFIG, TOKENIZER_JSON
from tprog.tokenizer_rules import TokenizerRules, kind_of

_NFC = {"type": "NFC"}
_EOS = {BYTE_LEVEL: 11, SENTENCE_PIECE: 2}
"""What llama.cpp takes for the end of text where none is named."""


def read_vocabulary(files: Mapping[str, Path], config: ModelConfig) -> Vocabulary:
    """A checkpoint's tokenizer as GGUF holds it.

    Args:
        files: the tokenizer's files, by name.
        config: the model; its vocabulary may be larger, and the rest is filled with unused tokens.

    Raises:
        FormatError: a file is broken.
        UsageError: GGUF, or llama.cpp, has no place for such a tokenizer.

    Example:
        >>> from tprog.sizes import named_size
        >>> read_vocabulary({}, named_size("test"))
        Traceback (most recent call last):
        tprog.errors.UsageError: tokenizer: expected one that GGUF can hold, got no tokenizer.json. Export without ...
    """
    path = files.get(TOKENIZER_JSON)
    if path is None:
        refuse("no tokenizer.json")
    rules = TokenizerRules.read(path)
    _refuse_options(rules)
    found = sentence_piece(rules) if rules.model.get("byte_fallback") else _byte_level(rules)
    highest = len(found.tokens) - 1
    if highest >= config.vocab_size:
        refuse(f"token {highest}, where the model has only {config.vocab_size} of them")
    rest = range(len(found.tokens), config.vocab_size)
    lowest = min(found.scores, default=0.0)
    ids = {token: number for number, token in enumerate(rules.tokens) if token is not None}
    around = _around(rules, _special(files, config, ids))
    tokens = found.tokens + [spare(number) for number in rest]
    types = found.types + [UNUSED] * len(rest)
    if len(set(tokens)) < len(tokens):
        refuse(
            f"{len(tokens) - len(set(tokens))} tokens whose text another token has in GGUF, which llama.cpp refuses"
        )
    unnamed = () if "eos" in around["special"] else (f"no end of text is named; it takes token {_EOS[found.kind]}",)
    if found.kind == SENTENCE_PIECE and "unk" in around["special"]:
        types[around["special"]["unk"]] = UNKNOWN
    return replace(
        found,
        tokens=tokens,
        types=types,
        scores=found.scores + [lowest] * len(rest) if found.scores else [],
        chat_templates=read_chat_templates(files),
        differences=found.differences + rules.stripping + unnamed,
        **around,
    )


def _byte_level(rules: TokenizerRules) -> Vocabulary:
    normalizer = rules.data.get("normalizer")
    if normalizer not in (None, _NFC):
        refuse(f"byte-level BPE behind the normalizer {kind_of(normalizer)}")
    ignore = bool(rules.model.get("ignore_merges"))
    split = find_split(rules.data.get("pre_tokenizer"), ignore_merges=ignore)
    if split is None:
        refuse("one that splits text by a rule that llama.cpp has no name for")
    if not rules.merges:
        refuse("one that merges nothing, and llama.cpp reads no such BPE")
    # Spaces within a part would be taken for the one between both.
    merges = [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in rules.merges]
    return Vocabulary(
        kind=BYTE_LEVEL,
        split=split.name,
        tokens=[spare(number) if token is None else token for number, token in enumerate(rules.tokens)],
        types=[rules.type_of(number) for number in range(len(rules.tokens))],
        merges=merges,
        special={},
        differences=() if normalizer is None else ("text is not normalised to NFC",),
    )


def _around(rules: TokenizerRules, special: dict[str, int]) -> dict[str, Any]:
    """Which tokens are put around a text, as GGUF says it: bos and eos, or none."""
    first, last = rules.around()
    for part, tokens in (("bos", first), ("eos", last)):
        if len(tokens) > 1 or (tokens and special.setdefault(part, tokens[0]) != tokens[0]):
            refuse(f"one that puts tokens {tokens} around a text, where llama.cpp puts {part}")
    return {"special": special, "add_bos": bool(first), "add_eos": bool(last)}


def _special(files: Mapping[str, Path], config: ModelConfig, ids: Mapping[str, int]) -> dict[str, int]:
    settings: dict[str, Any] = {}
    for name in (HF_SPECIAL_TOKENS, SPECIAL_TOKENS, TOKENIZER_CONFIG):
        known = read_json(files[name]) if name in files else {}
        settings |= {field: value for field, value in known.items() if value is not None}
    found = {}
    for part in PARTS:
        token = settings.get(f"{part}_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = ids.get(token) if isinstance(token, str) else config.extra.get(f"{part}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < config.vocab_size:
            found[part] = number
    return found


def _refuse_options(rules: TokenizerRules) -> None:
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if rules.model.get(option):
            refuse(f"BPE with {option}")
