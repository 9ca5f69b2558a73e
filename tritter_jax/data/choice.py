"""Which tokenizer reads text for a model: the one that was chosen, or the model's own; never a guess."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tprog import UsageError
from tprog.locate import tokenizer_path
from tprog.reader import Checkpoint
from tprog.tokenizer import unread_tokenizer

from tritter_jax.data.tokenizer import TOKENIZER_JSON, Tokenizer
from tritter_jax.data.vocabulary import BYTES, byte_tokenizer, load_tokenizer

BYTE_NAMES = ("bytes", BYTES)
"""What is written for the tokenizer of one token a byte."""


def choose_tokenizer(checkpoint: Checkpoint, chosen: str | None = None, *, option: str = "--tokenizer") -> Tokenizer:
    """The tokenizer that reads text for a checkpoint.

    Args:
        checkpoint: the model.
        chosen: `bytes`, a tokenizer.json, a directory that holds one, or `org/name` on the Hub, instead of the
            checkpoint's own.
        option: what `chosen` is given with, for errors.

    Raises:
        UsageError: none was chosen, and the checkpoint has none that is read here.
        FormatError: the tokenizer is damaged.
    """
    if chosen in BYTE_NAMES:
        return byte_tokenizer()
    if chosen is not None:
        return load_tokenizer(tokenizer_path(chosen))
    if TOKENIZER_JSON in checkpoint.tokenizer_files:
        return load_tokenizer(checkpoint.path)
    raise UsageError(
        checkpoint.path, expected="a tokenizer (tokenizer.json) to read text with",
        got=unread_tokenizer(checkpoint.tokenizer_files) or "none",
        remedy=f"Name one with {option} DIR, or {option} bytes for a model that was trained on bytes.",
    )  # fmt: skip


@contextlib.contextmanager
def tokenizer_folder(chosen: str) -> Iterator[Path]:
    """The files of a tokenizer, chosen as for `choose_tokenizer`, in a directory that lasts as long as the context.

    Raises:
        UsageError: there is none of that name.
        FormatError: it is damaged.
    """
    tokenizer = byte_tokenizer() if chosen in BYTE_NAMES else load_tokenizer(tokenizer_path(chosen))
    with tempfile.TemporaryDirectory() as folder:
        yield tokenizer.save(folder)
