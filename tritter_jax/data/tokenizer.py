"""Tokenizers of the Hugging Face `tokenizers` library: byte-level, trained here, or read from a tokenizer.json."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Integer
from tprog import FormatError, UsageError
from tprog.jsonio import parse_json
from tprog.layout import HF_SPECIAL_TOKENS, SPECIAL_TOKENS, TOKENIZER_CONFIG
from tprog.tokenizer import tokenizer_files

TOKENIZER_JSON = "tokenizer.json"
BYTES = "builtin:bytes"
END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"

_KNOWN_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "<eos>", "[SEP]")


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
        self._bytes = _byte_ids(json.loads(self._saved))

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
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(one.ids, np.uint32) for one in encoded]

    def decode(self, ids: Sequence[int] | Integer[np.ndarray, " tokens"]) -> str:
        """The text of token ids, special tokens written out; ids beyond the vocabulary are left out."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def save(self, directory: str | Path) -> Path:
        """Write its files into a directory, as the `tokenizer` folder of a .tprog and transformers want them."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in self._all_files().items():
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


def byte_tokenizer() -> Tokenizer:
    """One token a byte: id 0 to 255 is the byte, 256 ends a document, 257 pads, and reserved ids fill up to 320.

    Sixty-four divides 320, so the embedding splits over devices as it is.

    Example:
        >>> byte_tokenizer().vocab_size
        320
    """
    vocabulary = {symbol: byte for byte, symbol in enumerate(_symbols())}
    backend = _byte_level(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.add_special_tokens([END_OF_TEXT, PAD, *(f"<|reserved_{i}|>" for i in range(62))])
    return Tokenizer(backend, end_of_text=END_OF_TEXT)


def train_bpe(texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> Tokenizer:
    """Train a byte-level BPE tokenizer; the same texts give the same tokenizer.

    Args:
        texts: what it learns from.
        vocab_size: number of token ids, the 256 bytes and two special tokens among them; it comes out smaller where
            the texts hold too few pairs that repeat.
        min_frequency: how often a pair must occur to become a token.

    Raises:
        UsageError: `vocab_size` leaves no room for the bytes, or there is no text.

    Example:
        >>> tokenizer = train_bpe(["low lower lowest slow slower"] * 2, 262)
        >>> tokenizer.vocab_size, tokenizer.decode(tokenizer.encode("slowest"))
        (262, 'slowest')
        >>> len(tokenizer.encode("lower"))
        2
    """
    special = [END_OF_TEXT, PAD]
    least = 256 + len(special)
    if vocab_size < least:
        raise UsageError(
            "--vocab-size", expected=f"at least {least}: every byte and {len(special)} special tokens",
            got=vocab_size, remedy="Choose a larger vocabulary.",
        )  # fmt: skip
    if min_frequency < 1:
        raise UsageError("min_frequency", expected="at least 1", got=min_frequency, remedy="Choose 2.")
    seen = 0

    def counted() -> Iterable[str]:
        nonlocal seen
        for text in texts:
            seen += len(text)
            yield text

    backend = _byte_level(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(counted(), trainer)
    if not seen:
        raise UsageError("tokenizer", expected="text to learn from", got="none", remedy="Give another --data.")
    return Tokenizer(backend, end_of_text=END_OF_TEXT)


def load_tokenizer(path: str | Path, *, end_of_text: str | None = None) -> Tokenizer:
    """Read a tokenizer from a tokenizer.json, from a directory that holds one, or from a `.tprog`.

    Args:
        path: where it is, or `builtin:bytes` for `byte_tokenizer()`.
        end_of_text: the token that ends a document; by default the one its tokenizer_config.json or special tokens
            name as `eos_token`, or else a well-known one of its vocabulary.

    Raises:
        UsageError: there is no tokenizer.json, or no token is known to end a document.
        FormatError: a file is damaged.
    """
    if str(path) == BYTES:
        return byte_tokenizer()
    path = Path(path).expanduser()
    found = {TOKENIZER_JSON: path} if path.is_file() else tokenizer_files(path) if path.is_dir() else {}
    if TOKENIZER_JSON not in found:
        raise UsageError(
            path, expected="a tokenizer.json, or a directory that holds one", got="none",
            remedy="Train one with `tritter tokenizer train`, or save one of transformers with save_pretrained.",
        )  # fmt: skip
    files = {name: file.read_bytes() for name, file in found.items()}
    try:
        backend = tokenizers.Tokenizer.from_str(files[TOKENIZER_JSON].decode("utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise FormatError(
            found[TOKENIZER_JSON], expected="a tokenizer of the tokenizers library", got=str(error)[:200],
            remedy="Fetch the file anew.",
        ) from None  # fmt: skip
    chosen = end_of_text or _end_of_text(backend, files, path)
    return Tokenizer(backend, end_of_text=chosen, files=files)


def _end_of_text(backend: tokenizers.Tokenizer, files: Mapping[str, bytes], path: Path) -> str:
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS, HF_SPECIAL_TOKENS):
        token: Any = parse_json(files[name], path / name).get("eos_token") if name in files else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and backend.token_to_id(token) is not None:
            return token
    for token in _KNOWN_ENDS:
        if backend.token_to_id(token) is not None:
            return token
    raise UsageError(
        path, expected="a token that ends a document (eos_token)", got="none",
        remedy="Add eos_token to its tokenizer_config.json.",
    )  # fmt: skip


def _byte_level(model: tokenizers.models.Model) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def _symbols() -> list[str]:
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
        and all(symbol in model["vocab"] for symbol in _symbols())
        and all(token.get("special") for token in rules.get("added_tokens", ()))
    )
    return np.array([model["vocab"][symbol] for symbol in _symbols()], np.uint32) if plain else None


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
