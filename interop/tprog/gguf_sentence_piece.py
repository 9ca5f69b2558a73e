"""BPE over SentencePiece's pieces (Llama 2, TinyLlama, Mistral) as GGUF's `llama` tokenizer holds it."""

from typing import Any

from tprog.gguf_vocabulary import (
    BYTE,
    NORMAL,
    SENTENCE_PIECE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    refuse,
    spare,
)
from tprog.merge_scores import SPACE, merge_scores
from tprog.tokenizer_rules import TokenizerRules, kind_of

PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
"""The normalizers that do as llama.cpp does: a space before the text, and a sign for each space."""
BYTE_TOKENS = {f"<0x{number:02X}>": number for number in range(256)}
"""What stands for each byte."""


def sentence_piece(rules: TokenizerRules) -> Vocabulary:
    """The vocabulary, with scores in place of merges; what is put around a text is not looked at.

    Raises:
        FormatError: merges are malformed.
        UsageError: llama.cpp would merge otherwise, or lacks tokens that it needs.
    """
    prefix, differences = _spaces(rules)
    if rules.model.get("ignore_merges"):
        refuse("one that ignores merges, and has no splitting rule")
    known = {token for token in rules.tokens if token is not None}
    if missing := [token for token in BYTE_TOKENS if token not in known]:
        refuse(f"one without a token for each byte: {missing[0]} is missing")
    unknown = rules.model.get("unk_token")
    kinds = dict.fromkeys(BYTE_TOKENS, BYTE)
    if isinstance(unknown, str):
        kinds[unknown] = UNKNOWN
    types, tokens = [], []
    for number, token in enumerate(rules.tokens):
        kind = rules.type_of(number) if token is None else kinds.get(token, rules.type_of(number))
        types.append(kind)
        # llama.cpp looks for added tokens before it writes spaces as this sign.
        text = spare(number) if token is None else token
        tokens.append(text.replace(SPACE, " ") if kind == USER_DEFINED else text)
    pieces = {token for token, kind in zip(rules.tokens, types, strict=True) if kind == NORMAL and token is not None}
    scores, problem = merge_scores(pieces, rules.merges)
    if problem is not None:
        refuse(problem)
    lowest = min(scores.values(), default=0.0) - 1
    return Vocabulary(
        kind=SENTENCE_PIECE,
        tokens=tokens,
        types=types,
        scores=[
            scores.get(token, lowest) if kind in (NORMAL, UNUSED) and token is not None else 0.0
            for token, kind in zip(rules.tokens, types, strict=True)
        ],
        special={},
        add_space_prefix=prefix,
        differences=differences,
    )


def _spaces(rules: TokenizerRules) -> tuple[bool, tuple[str, ...]]:
    """Whether a space is put before a text, and where llama.cpp puts one that the original does not."""
    normalizer: Any = rules.data.get("normalizer")
    before: Any = rules.data.get("pre_tokenizer")
    steps = normalizer.get("normalizers") if kind_of(normalizer) == "Sequence" else [normalizer]
    if before is None and steps in ([PREPEND, REPLACE], [REPLACE]):
        return len(steps) == 2, ()
    if normalizer is not None or not isinstance(before, dict) or before.get("type") != "Metaspace":
        refuse(f"a sentence-piece one with {kind_of(normalizer)} and {kind_of(before)} before it")
    if before.get("split", True) is not False or before.get("replacement") != SPACE:
        refuse(f"a sentence-piece one that splits text at spaces, or does not write them as {SPACE}")
    scheme = before.get("prepend_scheme", "always")
    if scheme == "never":
        return False, ()
    after = ", and after special tokens" if scheme == "first" else ""
    return True, (f"text that begins with a space gets one more{after}",)
