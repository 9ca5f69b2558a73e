"""A tokenizer as GGUF holds one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tprog.chat_templates import DEFAULT
from tprog.errors import FormatError, UsageError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, by GGUF's numbers."""
BYTE_LEVEL, SENTENCE_PIECE = "gpt2", "llama"
"""Kinds of tokenizers, by GGUF's names."""
PARTS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Parts that special tokens play, with GGUF's words for them."""
_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer of one of the two kinds that GGUF has for the models here.

    Args:
        kind: `BYTE_LEVEL`, which merges by rank, or `SENTENCE_PIECE`, which merges by the score of the result.
        split: llama.cpp's name for the rule that splits text first; of a byte-level one.
        tokens: every token by its id.
        types: what each is.
        merges: pairs in the order they are merged, each as `left right`; of a byte-level one.
        scores: one for each token, the highest merged first; of a sentence-piece one.
        special: ids of the tokens with a part to play, by `PARTS`.
        add_bos: whether a text begins with the bos token.
        add_eos: whether a text ends with the eos token.
        add_space_prefix: whether a space is put before a text; of a sentence-piece one.
        chat_templates: Jinja templates of a conversation by name.
        differences: where llama.cpp will tokenize otherwise than the original, in words.
    """

    kind: str
    split: str | None = None
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    special: Mapping[str, int]
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[str, ...] = ()

    def add_to(self, writer: Any) -> None:
        """Write it into a GGUF file's description.

        Raises:
            FormatError: two chat templates would have one name.
        """
        writer.add_tokenizer_model(self.kind)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind == BYTE_LEVEL:
            writer.add_tokenizer_pre(self.split)
            writer.add_token_merges(self.merges)
        else:
            writer.add_tokenizer_pre("default")
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.add_space_prefix)
        for part, token in self.special.items():
            getattr(writer, f"add_{part}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        self._add_templates(writer)

    def _add_templates(self, writer: Any) -> None:
        # Written here rather than by gguf's own add_chat_template, which puts the names in another order each time.
        names = {}
        for name, template in self.chat_templates.items():
            key = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
            if key in names:
                raise FormatError(
                    "chat templates", expected="names that differ in letters and digits",
                    got=f"{names[key]!r} and {name!r}", remedy="Rename one of them.",
                )  # fmt: skip
            names[key] = name
            writer.add_string(_TEMPLATE if name == DEFAULT else f"{_TEMPLATE}.{key}", template)
        if others := sorted(key for key, name in names.items() if name != DEFAULT):
            writer.add_array("tokenizer.chat_templates", others)


def spare(number: int) -> str:
    """The text of an id that no token has.

    Example:
        >>> spare(7)
        '[PAD7]'
    """
    return f"[PAD{number}]"


def refuse(got: str) -> NoReturn:
    """Refuse a tokenizer that GGUF has no place for.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        "tokenizer", expected="one that GGUF can hold", got=got, remedy="Export without it: --no-tokenizer.",
    )  # fmt: skip
