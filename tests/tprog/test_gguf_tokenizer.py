"""Tokenizers in GGUF files: what llama.cpp reads there, what is refused, and what goes along."""

import heapq
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
from tprog.errors import FormatError, UsageError
from tprog.gguf import export_gguf
from tprog.gguf_tokenizer import read_vocabulary
from tprog.merge_scores import merge_scores, merges_of

from tests.cli.conftest import tritter  # noqa: F401
from tests.tprog.gguf_files import KINDS, SPACE, config_of, prose, tokenizer_in, value, vocab_size, with_tokenizer

TEXTS = [
    "the cat sat on the mat",
    "in 2024, 31 of 365",
    "  two   spaces\n\tand a tab ",
    "naïve 漢字 🙂 to be",
    "in the a of to in the",
    prose()[:2000],
]


def exported(checkpoint: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(export_gguf(checkpoint, checkpoint.parent / "m.gguf", overwrite=True).path)


def original(checkpoint: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))


def llama_cpp(reader: gguf.GGUFReader, text: str) -> list[int]:
    """llama.cpp's tokenizer of kind `llama`, written out: any neighbours that make up a token, by its score."""
    tokens = {token: number for number, token in enumerate(value(reader, "tokenizer.ggml.tokens"))}
    scores = value(reader, "tokenizer.ggml.scores")
    if value(reader, "tokenizer.ggml.add_space_prefix"):
        text = " " + text
    symbols: list[str] = list(text.replace(" ", SPACE))
    left, right = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]
    queue: list[tuple[float, int, int, str]] = []

    def consider(one: int, other: int) -> None:
        if one >= 0 and other >= 0 and symbols[one] + symbols[other] in tokens:
            joined = symbols[one] + symbols[other]
            heapq.heappush(queue, (-scores[tokens[joined]], one, other, joined))

    for at in range(1, len(symbols)):
        consider(at - 1, at)
    while queue:
        _, one, other, joined = heapq.heappop(queue)
        if not symbols[one] or not symbols[other] or symbols[one] + symbols[other] != joined:
            continue
        symbols[one], symbols[other] = joined, ""
        right[one] = right[other]
        if right[other] >= 0:
            left[right[other]] = one
        consider(left[one], one)
        consider(one, right[one])
    ids = [value(reader, "tokenizer.ggml.bos_token_id")] if value(reader, "tokenizer.ggml.add_bos_token") else []
    for symbol in filter(None, symbols):
        known = tokens.get(symbol)
        ids += [tokens[f"<0x{byte:02X}>"] for byte in symbol.encode()] if known is None else [known]
    return ids


def test_the_tokenizer_of_smollm2_is_written_with_its_splitting_rule(tmp_path):
    checkpoint = with_tokenizer(tmp_path, "byte-level")
    reader, theirs = exported(checkpoint), original(checkpoint)
    count = theirs.get_vocab_size()
    tokens, types = (value(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    assert tokens[:count] == [theirs.id_to_token(i) for i in range(count)]
    assert tokens[-1] == f"[PAD{count + 8}]"
    assert (types[0], types[5], types[-1]) == (3, 1, 5)
    assert (value(reader, "tokenizer.ggml.model"), value(reader, "tokenizer.ggml.pre")) == ("gpt2", "smollm")
    ids = [value(reader, f"tokenizer.ggml.{part}_token_id") for part in ("unknown", "bos", "eos")]
    assert ids == [0, 1, 2]
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    model = json.loads(theirs.to_str())["model"]
    assert value(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in model["merges"]]


@pytest.mark.parametrize("text", TEXTS)
def test_scores_merge_a_text_as_the_merges_of_llama_2_do(tmp_path, text):
    checkpoint = with_tokenizer(tmp_path, "sentence-piece", family="mistral")
    reader, theirs = exported(checkpoint), original(checkpoint)
    assert llama_cpp(reader, text) == theirs.encode(text).ids
    assert value(reader, "tokenizer.ggml.model") == "llama"
    types = value(reader, "tokenizer.ggml.token_type")
    assert types[:4] == [2, 3, 3, 6]
    assert types[259] == 1
    assert (value(reader, "tokenizer.ggml.add_bos_token"), value(reader, "tokenizer.ggml.add_eos_token")) == (
        True,
        False,
    )


def test_scores_that_are_shuffled_merge_otherwise(tmp_path):
    """The control of the test above: it can fail."""
    reader = exported(with_tokenizer(tmp_path, "sentence-piece"))
    theirs = original(tmp_path / "t.tprog")
    before = value(reader, "tokenizer.ggml.scores")
    shuffled = np.random.default_rng(0).permutation(before).tolist()
    reader.fields["tokenizer.ggml.scores"] = reader.fields["tokenizer.ggml.scores"]._replace(
        parts=[np.array([score]) for score in shuffled], data=list(range(len(shuffled)))
    )
    assert llama_cpp(reader, TEXTS[-1]) != theirs.encode(TEXTS[-1]).ids


def test_scores_and_merges_are_each_others_inverse():
    model = json.loads(KINDS["sentence-piece"]())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    pieces = {token for token in model["vocab"] if not token.startswith("<")}
    scores, problem = merge_scores(pieces, merges)
    assert problem is None
    lowest = min(scores.values()) - 1
    again = merges_of({token: scores.get(token, lowest) for token in pieces}, model["vocab"])
    assert again == merges


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "", 1)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("pattern", "whole_words", "name"),
    [
        (QWEN_2, False, "qwen2"),
        (LLAMA_3, True, "llama-bpe"),
        (LLAMA_3, False, "dbrx"),  # llama-bpe takes whole words before it merges
        (TEKKEN, True, "tekken"),
    ],
)
def test_a_rule_that_splits_text_has_the_name_of_all_that_it_does(tmp_path, pattern, whole_words, name):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False, "trim_offsets": False}

    def change(data):
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, last]}
        data["model"]["ignore_merges"] = whole_words

    assert value(exported(with_tokenizer(tmp_path, "byte-level", change)), "tokenizer.ggml.pre") == name


def template(*pieces: str) -> dict:
    steps = [
        {"Sequence": {"id": "A", "type_id": 0}} if piece == "$A" else {"SpecialToken": {"id": piece, "type_id": 0}}
        for piece in pieces
    ]
    ids = {"<s>": [1], "</s>": [2], "a": [262]}
    special = {token: {"id": token, "ids": ids[token], "tokens": [token]} for token in ids}
    return {"type": "TemplateProcessing", "single": steps, "pair": steps, "special_tokens": special}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [("$A",), ("<s>", "$A"), ("$A", "</s>"), ("<s>", "$A", "</s>")])
def test_what_is_put_around_a_text_is_said(tmp_path, kind, pieces):
    reader = exported(with_tokenizer(tmp_path, kind, lambda data: data.update(post_processor=template(*pieces))))
    said = [value(reader, f"tokenizer.ggml.add_{part}_token") for part in ("bos", "eos")]
    assert said == ["<s>" in pieces, "</s>" in pieces]


METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize(("scheme", "prefix"), [("first", True), ("always", True), ("never", False)])
def test_a_space_before_the_text_is_kept_and_where_llama_cpp_differs_is_said(tmp_path, tritter, scheme, prefix):  # noqa: F811
    def change(data):
        data.update(normalizer=None, pre_tokenizer=METASPACE | {"prepend_scheme": scheme})

    checkpoint = with_tokenizer(tmp_path, "sentence-piece", change)
    outcome = tritter("export", checkpoint, "--gguf", "m.gguf")
    assert outcome.code == 0, outcome.err
    assert ("begins with a space gets one more" in outcome.out) == prefix
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert value(reader, "tokenizer.ggml.add_space_prefix") is prefix
    assert llama_cpp(reader, "the cat 漢") == original(checkpoint).encode("the cat 漢").ids


def template_of(ids: list) -> dict:
    found = template("<s>", "$A")
    return found | {"special_tokens": {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"]}}}


def drop_byte(data):
    del data["model"]["vocab"]["<0x41>"]


def drop_merges(data):
    data["model"]["merges"] = data["model"]["merges"][::2]


def split_at_spaces(data):
    data.update(normalizer=None, pre_tokenizer=METASPACE | {"split": True})


def disorder(data):
    merges = data["model"]["merges"]
    pairs = [pair for pair in merges if "".join(pair) == SPACE * 4]
    data["model"]["merges"] = [*pairs[:1], *[pair for pair in merges if pair not in pairs], *pairs[1:]]


@pytest.mark.parametrize(
    ("kind", "change", "fields", "said"),
    [
        ("byte-level", lambda data: data["model"].update(type="Unigram", vocab=[["a", 0.0]]), {}, "kind Unigram"),
        ("byte-level", lambda data: data["model"].update(merges=[]), {}, "merges nothing"),
        ("byte-level", lambda data: data["model"].update(end_of_word_suffix="</w>"), {}, "end_of_word_suffix"),
        ("byte-level", lambda data: data.update(pre_tokenizer=None), {}, "no name for"),
        ("byte-level", lambda data: data.update(normalizer={"type": "Lowercase"}), {}, "normalizer Lowercase"),
        ("byte-level", lambda data: data.update(post_processor=template("a", "$A")), {}, "puts tokens [262]"),
        ("byte-level", lambda data: data.update(post_processor={"type": "BertProcessing"}), {}, "BertProcessing"),
        ("byte-level", lambda data: None, {"vocab_size": 300}, "the model has only 300"),
        ("sentence-piece", drop_byte, {}, "<0x41> is missing"),
        ("sentence-piece", drop_merges, {}, "never merges"),
        ("sentence-piece", disorder, {}, "which no score does"),
        ("sentence-piece", lambda data: data["model"].update(ignore_merges=True), {}, "ignores merges"),
        ("sentence-piece", lambda data: data.update(normalizer={"type": "NFKC"}), {}, "NFKC"),
        ("sentence-piece", split_at_spaces, {}, "splits text at spaces"),
    ],
)  # fmt: skip
def test_a_tokenizer_without_a_place_in_gguf_is_refused_unless_left_out(
    tmp_path,
    tritter,  # noqa: F811
    kind,
    change,
    fields,
    said,
):
    checkpoint = with_tokenizer(tmp_path, kind, change, **fields)
    outcome = tritter("export", checkpoint, "--gguf", "m.gguf")
    assert outcome.code != 0
    assert said in outcome.error
    assert not (tmp_path / "m.gguf").exists()
    assert "--no-tokenizer" in outcome.error
    assert tritter("export", checkpoint, "--gguf", "m.gguf", "--no-tokenizer").code == 0
    assert value(gguf.GGUFReader(tmp_path / "m.gguf"), "tokenizer.ggml.model") == "none"


def test_a_tokenizer_that_names_no_end_of_text_is_written_and_what_llama_cpp_takes_for_it_is_said(tmp_path):
    checkpoint = with_tokenizer(tmp_path, "byte-level")
    for path in (checkpoint / "tokenizer").glob("*token*s*.json"):
        path.write_text("{}")
    (checkpoint / "tokenizer" / "tokenizer_config.json").write_text("{}")
    (checkpoint / "tokenizer" / "tokenizer.json").write_text(KINDS["byte-level"]())
    done = export_gguf(checkpoint, tmp_path / "m.gguf")
    assert done.differences == ("no end of text is named; it takes token 11",)


def test_a_checkpoint_without_a_tokenizer_is_refused_unless_that_is_meant(tmp_path):
    checkpoint = with_tokenizer(tmp_path, "byte-level")
    (checkpoint / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"no tokenizer\.json.*--no-tokenizer"):
        export_gguf(checkpoint, tmp_path / "m.gguf")
    assert export_gguf(checkpoint, tmp_path / "m.gguf", tokenizer=False).tokenizer is None


def two_tokens_of_one_id(data):
    data["model"]["vocab"]["zzzz"] = 7


def two_ids_of_one_token(data):
    data["added_tokens"].append(data["added_tokens"][0] | {"id": 77})


BROKEN = {
    "half a surrogate pair": lambda data: data["model"]["vocab"].update({"\ud800": 399}),
    "a number as content": lambda data: data["added_tokens"][0].update(content=5),
    "an id that is text": lambda data: data["added_tokens"][0].update(id="1"),
    "an id that is a list": lambda data: data["added_tokens"][0].update(id=[1]),
    "an id below 0": lambda data: data["model"]["vocab"].update(zzzz=-1),
    "a huge id": lambda data: data["model"]["vocab"].update(zzzz=10**12),
    "one id twice": two_tokens_of_one_id,
    "one token twice": two_ids_of_one_token,
    "no vocabulary": lambda data: data.update(model=data["model"] | {"vocab": {}}, added_tokens=[]),
    "a vocabulary that is a list": lambda data: data["model"].update(vocab=[["a", 1.0]]),
    "no model": lambda data: data.pop("model"),
    "merges of three": lambda data: data["model"]["merges"].insert(0, ["a", "b", "c"]),
    "a merge of numbers": lambda data: data["model"]["merges"].insert(0, [1, 2]),
    "merges that are a number": lambda data: data["model"].update(merges=1.5),
    "a template of a token that is none": lambda data: data.update(post_processor=template_of([10**6])),
    "a template of an id that is text": lambda data: data.update(post_processor=template_of(["1"])),
    "a template of text": lambda data: data.update(post_processor={"type": "TemplateProcessing", "single": "<s>"}),
    "added tokens that are text": lambda data: data.update(added_tokens="x"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_tokenizer_is_named(tmp_path, kind, broken):
    folder = tokenizer_in(tmp_path, kind, BROKEN[broken])
    files = {path.name: path for path in folder.iterdir()}
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        read_vocabulary(files, with_size(vocab_size(kind) + 100))


@pytest.mark.parametrize("text", ["[]", "{", '{"model": 5}', "{}", "\x00", "[" * 100_000])
def test_a_tokenizer_json_that_is_none_is_named(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        read_vocabulary({path.name: path}, with_size(100))


def with_size(count: int):
    return config_of("llama", vocab_size=count)
