"""Tokenizers are the ones transformers loads, travel in a .tprog, and are trained alike every time."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tprog.flax
import transformers
from tprog import FormatError, UsageError
from tprog.reader import open_checkpoint

from tests.support import odd_config, random_params
from tritter_jax.data import byte_tokenizer, load_tokenizer, open_corpus, train_bpe

TEXTS = [
    "The quick brown fox.",
    "  two  spaces\tand\ttabs\n\n\n",
    "Ünïcödé, 日本語, 🦊, \u200b\u00a0",
    "it's 3.14159 'quoted' don't",
    "def f(x):\n    return x ** 2\n",
    "\x01\x7f control",
    "",
]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe((document.text for document in open_corpus("builtin:prose")), 1024)


@pytest.fixture(params=["bytes", "bpe"])
def tokenizer(request, bpe):
    return byte_tokenizer() if request.param == "bytes" else bpe


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_byte_ids_are_the_bytes():
    tokenizer = byte_tokenizer()
    text = "".join(TEXTS)
    assert tokenizer.encode(text).tolist() == list(text.encode())
    assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.decode([256])) == (320, 256, "<|endoftext|>")


def test_the_byte_table_gives_what_the_library_gives():
    tokenizer = byte_tokenizer()
    assert tokenizer._bytes is not None
    text = "".join(map(chr, range(0x800))) + "日🦊"
    assert tokenizer.encode(text).tolist() == tokenizer._backend.encode(text).ids


def test_a_special_token_in_a_text_is_text(tokenizer):
    text = "a<|endoftext|>b<|pad|>"
    ids = tokenizer.encode(text)
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == text


def test_batches_are_encoded_as_one_by_one(tokenizer):
    for together, text in zip(tokenizer.encode_batch(TEXTS), TEXTS, strict=True):
        np.testing.assert_array_equal(together, tokenizer.encode(text))


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_loads_it_from_a_tprog_and_agrees(tokenizer, tprog_with, text):
    theirs = transformers.AutoTokenizer.from_pretrained(tprog_with, subfolder="tokenizer")
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.encode(text).tolist() == theirs(text)["input_ids"]
    assert theirs.decode(ids) == tokenizer.decode(ids) == text
    assert theirs.eos_token_id == tokenizer.end_of_text
    assert theirs.pad_token_id == tokenizer.end_of_text + 1
    assert len(theirs) == tokenizer.vocab_size


@pytest.fixture
def tprog_with(tokenizer, tmp_path):
    """A .tprog that the tokenizer travels in."""
    config = odd_config("llama")
    folder = tokenizer.save(tmp_path / "saved")
    return tprog.flax.save(tmp_path / "m-1M-0.tprog", random_params(config), config, tokenizer_from=folder)


def test_it_comes_back_out_of_a_tprog(tokenizer, tprog_with):
    again = load_tokenizer(tprog_with)
    assert again.digest == tokenizer.digest
    assert again.end_of_text == tokenizer.end_of_text
    assert (again._bytes is None) == (tokenizer._bytes is None)
    assert {"tokenizer.json", "special_tokens.json", "tokenizer_config.json"} <= set(
        open_checkpoint(tprog_with).tokenizer_files
    )


def test_a_loaded_tokenizer_is_saved_with_every_file_it_came_with(tokenizer, tmp_path):
    folder = tokenizer.save(tmp_path / "one")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 77}))
    other = load_tokenizer(folder).save(tmp_path / "two")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}


def test_a_bare_tokenizer_json_will_do(bpe, tmp_path):
    path = bpe.save(tmp_path) / "tokenizer.json"
    alone = path.rename(tmp_path / "other-name.json")
    assert load_tokenizer(alone).digest == bpe.digest
    assert load_tokenizer("builtin:bytes").digest == byte_tokenizer().digest != bpe.digest


def test_truncation_and_added_tokens_of_a_file_do_not_touch_the_data(tmp_path):
    from tokenizers import Tokenizer, processors

    backend = Tokenizer.from_file(str(byte_tokenizer().save(tmp_path) / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=50)
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode("abcdefgh").tolist() == list(b"abcdefgh")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"eos_token": "<|pad|>"}, 257),
        ({"eos_token": {"content": "<|pad|>"}}, 257),
        ({}, 256),
        ({"eos_token": "<x>"}, 256),
    ],
)
def test_the_end_of_text_token_is_the_one_the_configuration_names(tmp_path, config, expected):
    byte_tokenizer().save(tmp_path)
    (tmp_path / "special_tokens.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).end_of_text == expected
    assert load_tokenizer(tmp_path, end_of_text="<|reserved_0|>").end_of_text == 258


def test_training_is_the_same_in_every_process(tmp_path):
    command = (
        "import sys; from tritter_jax.data import open_corpus, train_bpe;"
        "print(train_bpe((d.text for d in open_corpus('builtin:prose')), 600).digest)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", command], check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel},
        ).stdout
        for seed, parallel in (("1", "true"), ("2", "false"))
    }  # fmt: skip
    assert len(runs) == 1


def test_training_depends_on_the_text(bpe):
    other = train_bpe(["some other text, some other tokens"] * 9, 280)
    assert other.digest != bpe.digest
    assert bpe.vocab_size == 1024
    assert other.vocab_size <= 280


def test_bpe_is_shorter_than_bytes(bpe):
    text = open_corpus("builtin:prose").documents[5].text
    assert 2 * len(bpe.encode(text)) < len(text.encode())


@pytest.mark.parametrize(
    ("texts", "size", "said"),
    [(["abc"], 257, "at least 258"), (["abc"], 0, "at least 258"), ([], 300, "none"), ([""], 300, "none")],
)
def test_training_that_cannot_be_done_is_refused(texts, size, said):
    with pytest.raises(UsageError, match=said):
        train_bpe(texts, size)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"expected a tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UsageError, match=r"expected a tokenizer\.json"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match="eos_token"):
        load_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="token b in its vocabulary"):
        load_tokenizer(tmp_path, end_of_text="b")
    assert load_tokenizer(tmp_path, end_of_text="a").end_of_text == 0


def without_a(tmp_path, model):
    """A tokenizer that has no token for the letter a."""
    from tokenizers import Tokenizer, processors

    backend = Tokenizer(model)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    return load_tokenizer(tmp_path, end_of_text="</s>")


def test_bos_and_eos_are_found_where_the_vocabulary_lacks_the_letter_a(tmp_path):
    from tokenizers import models

    vocabulary = {"b": 0, "<s>": 1, "</s>": 2}
    for model in (models.BPE(vocabulary, []), models.WordLevel(vocabulary, unk_token="<unk>")):
        tokenizer = without_a(tmp_path, model)
        assert (tokenizer.before, tokenizer.after) == ([1], [2])


def test_a_text_that_the_rules_do_not_encode_is_refused_however_long_it_is(tmp_path):
    from tokenizers import models

    tokenizer = without_a(tmp_path, models.WordLevel({"b": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    with pytest.raises(FormatError, match="rules that encode every text"):
        tokenizer.encode("a")
    with pytest.raises(FormatError, match="rules that encode every text"):
        list(tokenizer.encode_long(["a" * 10_000, "c" * 10_000]))


@pytest.mark.parametrize(
    ("size", "frequency", "said"),
    [
        (10**22, 2, "--vocab-size: expected at most 4,194,304"),
        (2**22 + 1, 2, "--vocab-size: expected at most 4,194,304"),
        (300, 10**20, "--min-frequency: expected 1 to"),
        (300, 0, "--min-frequency: expected 1 to"),
    ],
)
def test_sizes_that_the_trainer_cannot_take_are_refused(size, frequency, said):
    with pytest.raises(UsageError, match=said):
        train_bpe(["some text"], size, min_frequency=frequency)
