"""The tokens of a long document are those of transformers, whatever the tokenizer does at the beginning of a text."""

import json

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from tritter_jax.data import Corpus, Document, Tokenizer, load_tokenizer, overlap, text, tokenize

WORDS = (
    "The cat  sat on 1234567 mats.\n\n\nDon't — said Élan, 日本語のテキスト;"
    " e\u0301 aaaa bbbb!!! a_b=c\t\tx \n y ﬁne <pad> Ⅷ\r\nz "
)
LONG = WORDS * 60 + " " * 700 + "a" * 900 + WORDS * 20 + "1" * 333 + "日" * 500 + WORDS * 5


def bpe(**options):
    return tokenizers.Tokenizer(models.BPE(**options)), trainers.BpeTrainer


def byte_level(add_prefix_space):
    backend, trainer = bpe()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.post_processor = processors.ByteLevel()
    return backend, trainer


def sentencepiece_bpe():
    backend, trainer = bpe(unk_token="<unk>", fuse_unk=True)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return backend, trainer


def metaspace_unigram(scheme):
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return backend, trainers.UnigramTrainer


def word_piece():
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(strip_accents=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend, trainers.WordPieceTrainer


def digits_in_threes():
    backend, trainer = bpe()
    split = pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}|\s+(?!\S)|\s+|[^\s\p{N}]+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(use_regex=False)])
    backend.normalizer = normalizers.NFC()
    return backend, trainer


def stripped_words():
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend, trainers.WordLevelTrainer


KINDS = {
    "byte-level": lambda: byte_level(False),
    "byte-level with a space first": lambda: byte_level(True),
    "Prepend": sentencepiece_bpe,
    "Metaspace always": lambda: metaspace_unigram("always"),
    "Metaspace first": lambda: metaspace_unigram("first"),
    "WordPiece": word_piece,
    "digits in threes": digits_in_threes,
    "stripped words": stripped_words,
}


@pytest.fixture(params=KINDS)
def both(request, tmp_path):
    """A tokenizer of ours and of transformers, with BOS added."""
    backend, trainer = KINDS[request.param]()
    special = ["<s>", "</s>", "<unk>", "<pad>"]
    options = {"unk_token": "<unk>"} if trainer is trainers.UnigramTrainer else {}
    backend.train_from_iterator(
        [WORDS], trainer(vocab_size=330, special_tokens=special, show_progress=False, **options)
    )
    if backend.post_processor is None:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", split_special_tokens=True
    )
    theirs.save_pretrained(tmp_path)
    return load_tokenizer(tmp_path), theirs


@pytest.fixture
def short_pieces(monkeypatch):
    """Pieces so short that the text is cut in many places."""
    monkeypatch.setattr(text, "PIECE", 640)
    monkeypatch.setattr(overlap, "MARGIN", 160)


def test_a_document_in_pieces_has_the_tokens_of_transformers(both, short_pieces, tmp_path):
    ours, theirs = both
    due = theirs(LONG)["input_ids"]
    file = tokenize(
        Corpus(label="a", documents=(Document.of("a", LONG),)), ours, held_out=0, cache=tmp_path / "cache"
    )
    assert file.ids.tolist() == [*due, ours.end_of_text]


def test_pieces_encoded_alone_have_other_tokens(short_pieces, tmp_path):
    """The control of the test above, for a tokenizer that puts a character before every text."""
    backend, trainer = sentencepiece_bpe()
    special = ["<s>", "</s>", "<unk>", "<pad>"]
    backend.train_from_iterator([WORDS], trainer(vocab_size=330, special_tokens=special, show_progress=False))
    ours, pieces = Tokenizer(backend, end_of_text="</s>"), list(text.cut_pieces([LONG]))
    assert len(pieces) > 10
    alone, whole = (np.concatenate(found).tolist() for found in (ours.encode_batch(pieces), [ours.encode(LONG)]))
    assert len(alone) > len(whole)
    assert np.concatenate(list(ours.encode_long(pieces))).tolist() == whole


def test_text_that_is_one_token_is_joined_until_it_is_whole(short_pieces):
    backend = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ours = Tokenizer(backend, end_of_text="</s>")
    found = np.concatenate(list(ours.encode_long(text.cut_pieces(["x" * 20_000 + " a" * 2_000]))))
    assert found.tolist() == [0, *[2] * 2_000]


@pytest.mark.parametrize(
    ("choice", "around"),
    [("transformers", ([0], [1])), ("eos", ([], [1])), ("bos-eos", ([0], [1])), ("none", ([], []))],
)
def test_bos_and_eos_go_where_the_choice_says(tmp_path, choice, around):
    backend = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    theirs.save_pretrained(tmp_path / "words")
    ours = load_tokenizer(tmp_path / "words")
    documents = (Document.of("a", "a a a"), Document.of("b", "a"))
    file = tokenize(
        Corpus(label="a", documents=documents), ours, held_out=0, special_tokens=choice, cache=tmp_path / "cache"
    )
    before, after = around
    assert file.ids.tolist() == [*before, 2, 2, 2, *after, *before, 2, *after]
    assert file.records["tokens"].tolist() == [3 + len(before + after), 1 + len(before + after)]


@pytest.mark.parametrize("fields", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}])
@pytest.mark.parametrize("template", [None, "<s> $A", "$A </s>"])
@pytest.mark.parametrize(
    "kind", ["PreTrainedTokenizerFast", "LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer", None]
)
def test_what_is_added_is_what_transformers_adds_whatever_tokenizer_config_says(tmp_path, kind, fields, template):
    backend = tokenizers.Tokenizer(
        models.BPE({"<s>": 0, "</s>": 1, "<unk>": 2, "▁": 3, "a": 4, "▁a": 5}, [("▁", "a")])
    )
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    if template:
        special = [("<s>", 0), ("</s>", 1)]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    backend.save(str(tmp_path / "tokenizer.json"))
    # Written by hand: save_pretrained leaves out the two fields, and puts what they say into tokenizer.json.
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    kept = {} if kind is None else {"tokenizer_class": kind}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named | kept | fields))
    if kind is None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    ours = load_tokenizer(tmp_path)
    due = transformers.AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"]
    # Some classes put ▁ before the text.
    assert [*ours.before, 4, *ours.after] == [4 if token == 5 else token for token in due]


@pytest.mark.parametrize("fields", [{"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}])
@pytest.mark.parametrize("template", [None, "<s> $A"])
def test_what_is_added_is_known_of_a_tokenizer_that_transformers_saved(tmp_path, fields, template):
    backend = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    if template:
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **fields
    ).save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    due = transformers.AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"]
    assert [*ours.before, 2, *ours.after] == due
    assert due != [2]
