"""Where tokenizers come from: the bytes, a text to learn from, or a tokenizer.json."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tprog import FormatError, UsageError
from tprog.jsonio import parse_json
from tprog.layout import HF_SPECIAL_TOKENS, SPECIAL_TOKENS, TOKENIZER_CONFIG
from tprog.paths import user_path
from tprog.tokenizer import tokenizer_files

from tritter_jax.data.tokenizer import PAD, TOKENIZER_JSON, Tokenizer, byte_symbols, is_library_fault

BYTES = "builtin:bytes"
END_OF_TEXT = "<|endoftext|>"

_KNOWN_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "<eos>", "[SEP]")


def byte_tokenizer() -> Tokenizer:
    """One token a byte: id 0 to 255 is the byte, 256 ends a document, 257 pads, and reserved ids fill up to 320.

    Sixty-four divides 320, so the embedding splits over devices as it is.

    Example:
        >>> byte_tokenizer().vocab_size
        320
    """
    vocabulary = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    backend = _byte_level(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.add_special_tokens([END_OF_TEXT, PAD, *(f"<|reserved_{i}|>" for i in range(62))])
    return Tokenizer(backend, end_of_text=END_OF_TEXT)


MOST_TOKENS = 1 << 22
"""Largest vocabulary that is trained, four times the largest published: the trainer reserves memory for all of it."""


def train_bpe(texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> Tokenizer:
    """Train a byte-level BPE tokenizer; the same texts give the same tokenizer.

    Args:
        texts: what it learns from.
        vocab_size: number of token ids, the 256 bytes and two special tokens among them; it comes out smaller where
            the texts hold too few pairs that repeat.
        min_frequency: how often a pair must occur to become a token.

    Raises:
        UsageError: `vocab_size` leaves no room for the bytes or is above `MOST_TOKENS`, or there is no text.

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
    if vocab_size > MOST_TOKENS:
        raise UsageError(
            "--vocab-size", expected=f"at most {MOST_TOKENS:,}", got=vocab_size, remedy="Choose a smaller vocabulary."
        )
    if not 1 <= min_frequency < 1 << 31:
        raise UsageError("--min-frequency", expected="1 to 2147483647", got=min_frequency, remedy="Choose 2.")
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

    Example:
        >>> import tempfile
        >>> folder = byte_tokenizer().save(tempfile.mkdtemp())
        >>> load_tokenizer(folder).digest == byte_tokenizer().digest
        True
    """
    if str(path) == BYTES:
        return byte_tokenizer()
    path = user_path(path)
    found = {TOKENIZER_JSON: path} if path.is_file() else tokenizer_files(path) if path.is_dir() else {}
    if TOKENIZER_JSON not in found:
        raise UsageError(
            path, expected="a tokenizer.json, or a directory that holds one", got="none",
            remedy="Train one with `tritter tokenizer train`, or save one of transformers with save_pretrained.",
        )  # fmt: skip
    files = {name: file.read_bytes() for name, file in found.items()}
    try:
        backend = tokenizers.Tokenizer.from_str(files[TOKENIZER_JSON].decode("utf-8"))
    except BaseException as error:
        if not is_library_fault(error):
            raise
        raise FormatError(
            found[TOKENIZER_JSON], expected="a tokenizer of the tokenizers library", got=str(error)[:200],
            remedy="Save it with the installed tokenizers, or update those: `pip install --upgrade tokenizers`.",
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
