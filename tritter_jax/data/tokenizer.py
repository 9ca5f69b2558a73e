"""Tokenizers of the Hugging Face `tokenizers` library: byte-level, trained here, or read from a tokenizer.json."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Integer
from tprog import FormatError, UsageError
from tprog.layout import HF_SPECIAL_TOKENS, SPECIAL_TOKENS, TOKENIZER_CONFIG, TOKENIZER_JSON

from tritter_jax.data.overlap import Spans, encode_overlapping

PAD = "<|pad|>"


SPECIAL = {
    "transformers": "as transformers puts them around a text, and end-of-text behind each document in any case",
    "eos": "end-of-text behind each document",
    "bos-eos": "BOS before and end-of-text behind each document",
    "none": "none at all, not even between documents",
}
"""Where BOS and EOS go in a token file."""
DEFAULT = next(iter(SPECIAL))


def is_library_fault(error: BaseException) -> bool:
    """Whether the tokenizers library failed: it raises bare Exception and, where its Rust code panics, a class of
    its own that is none."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def _encoding() -> Iterator[None]:
    """Errors of the tokenizers library, which raises bare Exception where its rules have no token for a text."""
    try:
        yield
    except BaseException as error:
        if not is_library_fault(error):
            raise
        raise FormatError(
            TOKENIZER_JSON, expected="rules that encode every text", got=error,
            remedy="Take another tokenizer, or correct its files.",
        ) from None  # fmt: skip


class Tokenizer:
    """A tokenizer and the token that ends a document.

    Text is always taken literally: `<|endoftext|>` written in a document is thirteen characters, not the end of it.

    Args:
        backend: the library's own tokenizer.
        end_of_text: the token that ends a document; in the vocabulary.
        files: the files it was read from, kept as they are when it is saved again.

    Raises:
        UsageError: the end-of-text token is not in the vocabulary.

    Example:
        >>> from tritter_jax.data import byte_tokenizer
        >>> tokenizer = byte_tokenizer()
        >>> tokenizer.encode("hi").tolist(), tokenizer.end_of_text
        ([104, 105], 256)
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, *, end_of_text: str, files: Mapping[str, bytes] | None = None
    ) -> None:
        # Worked on as a copy: the tokenizer that is saved keeps its truncation, padding and special tokens.
        self._saved = backend.to_str(pretty=True)
        self._files = dict(files or {})
        self._backend = tokenizers.Tokenizer.from_str(self._saved)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        found = backend.token_to_id(end_of_text)
        if found is None:
            raise UsageError(
                "tokenizer", expected=f"the token {end_of_text} in its vocabulary", got="none",
                remedy="Name its end-of-text token.",
            )  # fmt: skip
        self.end_of_text_token = end_of_text
        self.end_of_text: int = found
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        """Number of token ids: one more than the largest."""
        rules = json.loads(self._saved)
        self._bytes = _byte_ids(rules)
        self.before, self.after = self._around()
        """Ids that transformers puts before and after a text, such as those of BOS and EOS."""

    @property
    def _config(self) -> dict[str, Any]:
        config = json.loads(self._files.get(TOKENIZER_CONFIG) or "{}")
        return config if isinstance(config, dict) else {}

    def _around(self) -> tuple[list[int], list[int]]:
        # Beside a tokenizer.json, transformers 5 ignores add_bos_token and add_eos_token of tokenizer_config.json.
        # The model of the probe has a token for any text, which this one need not have.
        probe = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
        if (processor := self._backend.post_processor) is not None:
            probe.post_processor = processor
        found = probe.encode("a", add_special_tokens=True)
        text = [place for place, special in enumerate(found.special_tokens_mask) if not special]
        return (found.ids[: text[0]], found.ids[text[-1] + 1 :]) if text else (found.ids, [])

    def _named(self, kind: str) -> int | None:
        token = self._config.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, dict) else token
        return self._backend.token_to_id(token) if isinstance(token, str) else None

    @property
    def digest(self) -> str:
        """A hash of the tokenizer's rules and its end-of-text token."""
        return hashlib.sha256(f"{self._saved}\0{self.end_of_text}".encode()).hexdigest()

    def encode(self, text: str) -> Integer[np.ndarray, " tokens"]:
        """The token ids of a text, with no special token added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Integer[np.ndarray, " _"]]:
        """The token ids of several texts, computed in parallel."""
        if self._bytes is not None:
            return [self._bytes[np.frombuffer(text.encode("utf-8"), np.uint8)] for text in texts]
        with _encoding():
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(one.ids, np.uint32) for one in encoded]

    def encode_long(self, pieces: Iterable[str]) -> Iterator[Integer[np.ndarray, " _"]]:
        """The token ids of a text that comes in pieces, as `encode` gives them for the whole, in pieces.

        Args:
            pieces: the text; it is held in memory as a whole only where its tokens depend on all of it.
        """
        if self._bytes is not None:
            return (self.encode(piece) for piece in pieces)
        return encode_overlapping(self._spans, pieces)

    def _spans(self, texts: Sequence[str]) -> list[Spans]:
        with _encoding():
            encoded = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            Spans(np.asarray(one.ids, np.uint32), np.array(one.offsets, np.int64).reshape(-1, 2)) for one in encoded
        ]

    def around(self, choice: str = DEFAULT) -> tuple[list[int], list[int]]:
        """The ids that go before and after a document in a token file.

        Args:
            choice: a key of `SPECIAL`.

        Raises:
            UsageError: it is none, or BOS is asked for and the tokenizer names none.
        """
        UsageError.choose("data.special_tokens", choice, SPECIAL)
        if choice == "none":
            return [], []
        if choice == "eos":
            return [], [self.end_of_text]
        if choice == "bos-eos":
            begin = self._named("bos")
            if begin is None:
                raise UsageError(
                    "data.special_tokens", expected="a tokenizer that names a bos_token", got="none",
                    remedy="Choose another, such as eos, or name it in tokenizer_config.json.",
                )  # fmt: skip
            return [begin], [self.end_of_text]
        ended = self.after[-1:] == [self.end_of_text]
        return self.before, self.after if ended else [*self.after, self.end_of_text]

    def decode(self, ids: Sequence[int] | Integer[np.ndarray, " tokens"]) -> str:
        """The text of token ids, special tokens written out; ids beyond the vocabulary are left out."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def continuation(self, prompt: Sequence[int], made: Sequence[int]) -> str:
        """The text of token ids that follow those of a prompt, with the space that parts the two.

        Decoders leave out a space at the beginning of a text, so the two are decoded together.
        """
        start, whole = self.decode(prompt), self.decode([*prompt, *made])
        return whole.removeprefix(start) if whole.startswith(start) else self.decode(made)

    def save(self, directory: str | Path) -> Path:
        """Write its files into a directory, as the `tokenizer` folder of a .tprog and transformers want them."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in self._all_files().items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(data)
        return directory

    def _all_files(self) -> dict[str, bytes]:
        tokens = {"bos_token": self.end_of_text_token, "eos_token": self.end_of_text_token}
        if self._backend.token_to_id(PAD) is not None:
            tokens["pad_token"] = PAD
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokens}
        files = dict(self._files) or {TOKENIZER_JSON: self._saved.encode("utf-8")}
        if TOKENIZER_CONFIG not in files:
            files[TOKENIZER_CONFIG] = _json(config)
        if SPECIAL_TOKENS not in files:
            files[SPECIAL_TOKENS] = files.get(HF_SPECIAL_TOKENS) or _json(tokens)
        return files


def byte_symbols() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [shifted.get(byte, chr(byte)) for byte in range(256)]


def _byte_ids(rules: dict[str, Any]) -> Integer[np.ndarray, "256"] | None:
    """The id of each byte where the rules amount to one token a byte: a table look-up, a hundred times as fast."""
    model, before = rules["model"], rules.get("pre_tokenizer") or {}
    plain = (
        model.get("type") == "BPE"
        and not model.get("merges")
        and rules.get("normalizer") is None
        and before.get("type") == "ByteLevel"
        and not before.get("add_prefix_space")
        and all(symbol in model["vocab"] for symbol in byte_symbols())
        and all(token.get("special") for token in rules.get("added_tokens", ()))
    )
    return np.array([model["vocab"][symbol] for symbol in byte_symbols()], np.uint32) if plain else None


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
