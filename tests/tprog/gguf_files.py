"""Tokenizers and checkpoints for the tests of GGUF files."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from tprog.numpy import save
from transformers.tokenization_utils_base import generate_merges

from tests.tprog.files import random_arrays, small_config
from tritter_jax.data import open_corpus

SHAPE = {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 96}
SPECIAL = ["<unk>", "<s>", "</s>"]
SPACE = "▁"


def config_of(family: str, **changes: object):
    return small_config(family=family, **(SHAPE | changes))


def value(reader: gguf.GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


@cache
def prose() -> str:
    return "\n".join(document.text for document in list(open_corpus("builtin:prose"))[:8])


@cache
def _byte_level() -> str:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator([prose()], trainer)
    return backend.to_str()


@cache
def _sentence_piece() -> str:
    words = tokenizers.Tokenizer(models.BPE())
    words.normalizer = normalizers.Replace(" ", SPACE)
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    words.train_from_iterator(prose().split(" "), trainer)
    learned = sorted(words.get_vocab(), key=words.get_vocab().__getitem__)
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [SPACE, *(SPACE + piece for piece in ["the", "a", "of", "to", "in"]), SPACE * 2, SPACE * 3, SPACE * 4]
    pieces += [piece for piece in learned if piece not in pieces]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    ordinary = {piece: number for piece, number in vocab.items() if not piece.startswith("<")}
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab, merges=generate_merges(ordinary), byte_fallback=True, fuse_unk=True, unk_token="<unk>"
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend.to_str()


KINDS = {"byte-level": _byte_level, "sentence-piece": _sentence_piece}
"""A tokenizer.json as SmolLM2 has it, with its splitting rule, and one as Llama 2 has it."""


def tokenizer_in(directory: Path, kind: str, change=lambda data: None, **settings: object) -> Path:
    """A tokenizer's directory: a tokenizer.json of one of `KINDS`, changed, and tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    data = json.loads(KINDS[kind]())
    change(data)
    (directory / "tokenizer.json").write_text(json.dumps(data))
    known = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(known | settings))
    return directory


def vocab_size(kind: str) -> int:
    return tokenizers.Tokenizer.from_str(KINDS[kind]()).get_vocab_size()


def with_tokenizer(
    directory: Path, kind: str, change=lambda data: None, family: str = "llama", **fields: object
) -> Path:
    """A checkpoint with such a tokenizer, and a few ids to spare."""
    folder = tokenizer_in(directory / "words", kind, change)
    config = config_of(family, **({"vocab_size": vocab_size(kind) + 9} | fields))
    return save(directory / "t.tprog", random_arrays(config), config, tokenizer_from=folder)
