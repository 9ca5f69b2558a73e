"""Rules that split text before byte-level BPE: as a tokenizer.json spells them, and llama.cpp's names for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Step = Mapping[str, Any]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_REST_WITH_SLASH = _REST.replace("[\\r\\n]*", "[\\r\\n/]*", 1)
_UPPER, _LOWER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
_LLAMA3 = f"{_CONTRACTIONS}|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{{1,3}}{_REST}"
_QWEN2 = f"{_CONTRACTIONS}|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{_REST}"
_QWEN35 = _QWEN2.replace("?\\p{L}+", "?[\\p{L}\\p{M}]+").replace("[^\\s\\p{L}\\p{N}]", "[^\\s\\p{L}\\p{M}\\p{N}]")
_CASES = "[^\\r\\n\\p{{L}}\\p{{N}}]?{0}*{1}+{2}|[^\\r\\n\\p{{L}}\\p{{N}}]?{0}+{1}*{2}|"
_TEKKEN = _CASES.format(_UPPER, _LOWER, "") + "\\p{N}" + _REST_WITH_SLASH
_GPT4O = _CASES.format(_UPPER, _LOWER, f"{_CONTRACTIONS}?") + "\\p{N}{1,3}" + _REST_WITH_SLASH


def _bytes(*, regex: bool) -> Step:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _at(pattern: str) -> tuple[Step, ...]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return split, _bytes(regex=False)


@dataclass(frozen=True, kw_only=True)
class Split:
    """A rule that llama.cpp knows by name.

    Args:
        name: llama.cpp's `tokenizer.ggml.pre`.
        steps: the pre-tokenizers of a tokenizer.json that do the same.
        ignore_merges: whether a word that is a token is taken as it is, without merging its parts.
        add_bos: whether a text begins with the bos token where a GGUF file does not say so.
        nfc: whether tokenizers with this rule normalise text to NFC; llama.cpp never does.
    """

    name: str
    steps: tuple[Step, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    nfc: bool = False

    @property
    def pre_tokenizer(self) -> Step:
        """The rule as a tokenizer.json holds it."""
        return self.steps[0] if len(self.steps) == 1 else {"type": "Sequence", "pretokenizers": list(self.steps)}


SPLITS = (
    Split(name="gpt-2", steps=(_bytes(regex=True),)),
    Split(name="smollm", steps=({"type": "Digits", "individual_digits": True}, _bytes(regex=True))),
    Split(name="llama-bpe", steps=_at(_LLAMA3), ignore_merges=True, add_bos=True),
    Split(name="dbrx", steps=_at(_LLAMA3)),
    Split(name="qwen2", steps=_at(_QWEN2), nfc=True),
    Split(name="qwen35", steps=_at(_QWEN35), nfc=True),
    Split(name="tekken", steps=_at(_TEKKEN), ignore_merges=True, add_bos=True),
    Split(name="gpt-4o", steps=_at(_GPT4O)),
)
_ALIASES = {
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "dbrx": ("smaug-bpe",),
    "qwen2": ("deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"),
    "gpt-4o": ("llama4", "kanana2"),
    "smollm": ("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
    "gpt-2": ("phi-2", "gigachat", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais", "exaone4", "trillion"),
}
BY_NAME = {split.name: split for split in SPLITS}
BY_NAME |= {alias: BY_NAME[name] for name, aliases in _ALIASES.items() for alias in aliases}
"""Every rule by each of llama.cpp's names for it."""


def find_split(rule: Any, *, ignore_merges: bool) -> Split | None:
    """The rule that a tokenizer.json's `pre_tokenizer` is; None where llama.cpp has no name for it.

    Example:
        >>> find_split({"type": "ByteLevel", "add_prefix_space": False}, ignore_merges=False).name
        'gpt-2'
    """
    steps = rule.get("pretokenizers") if isinstance(rule, Mapping) and rule.get("type") == "Sequence" else [rule]
    if not isinstance(steps, list):
        return None
    wanted = [_plain(step) for step in steps]
    for split in SPLITS:
        if [_plain(step) for step in split.steps] == wanted and split.ignore_merges == ignore_merges:
            return split
    return None


def _plain(step: Any) -> dict[str, Any]:
    """A step without what does not change where it splits."""
    if not isinstance(step, Mapping):
        return {}
    step = {name: value for name, value in step.items() if name != "trim_offsets"}
    if step.get("type") == "ByteLevel":
        return {"use_regex": True} | step
    # Matches kept and the rest removed is the same, with patterns that leave no rest.
    if step.get("type") == "Split" and step.get("behavior") == "Removed" and step.get("invert") is True:
        return step | {"behavior": "Isolated", "invert": False}
    return step
