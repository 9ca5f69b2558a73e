"""tritter tokenizer train."""

import pytest
import transformers

from tests.cli.conftest import entries, tritter  # noqa: F401 - a fixture
from tritter_jax.data import load_tokenizer


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("low lower lowest slow slower slowest\n" * 20)
    (tmp_path / "notes" / "b.bin").write_bytes(b"\0\1")
    return tmp_path / "notes"


def test_it_writes_a_tokenizer_that_transformers_loads(tritter, notes, tmp_path):  # noqa: F811
    outcome = tritter("tokenizer", "train", "--data", notes, "--vocab-size", 270, "--out", "mine", "--json")
    assert outcome.code == 0, outcome.err
    result = outcome.json
    assert (result["vocab_size"], result["documents"], result["skipped"]) == (270, 1, 1)
    assert result["bytes_per_token"] > 2
    assert entries(tmp_path / "mine") == {"tokenizer.json", "tokenizer_config.json", "special_tokens.json"}
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "mine")
    assert theirs("slowest")["input_ids"] == load_tokenizer(tmp_path / "mine").encode("slowest").tolist()


def test_several_data_and_a_vocabulary_that_the_text_does_not_fill(tritter, notes):  # noqa: F811
    outcome = tritter(
        "tokenizer", "train", "--data", notes, "--data", notes / "a.txt", "--vocab-size", 5000, "--out", "mine"
    )
    assert outcome.code == 0, outcome.err
    assert "5,000 were asked for" in outcome.out
    assert "2 documents" in outcome.out


def test_training_twice_gives_the_same_files(tritter, notes, tmp_path):  # noqa: F811
    for out in ("one", "two"):
        tritter("tokenizer", "train", "--data", notes, "--vocab-size", 280, "--out", out)
    for name in entries(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data", "builtin:pros", "--vocab-size", 300), "Did you mean builtin:prose?"),
        (("--data", "nowhere", "--vocab-size", 300), "nothing there"),
        (("--data", "notes", "--vocab-size", 5), "at least 258"),
        (("--data", "notes/b.bin", "--vocab-size", 300), "expected running text, got b.bin"),
        (("--data", "notes", "--vocab-size", 300, "--min-frequency", 0), "expected 1 to"),
    ],
)
def test_a_mistake_is_named_and_leaves_nothing(tritter, notes, tmp_path, options, said):  # noqa: F811
    assert said in tritter("tokenizer", "train", *options, "--out", "mine").error
    assert entries(tmp_path) == {"notes"}


def test_what_is_there_is_replaced_only_when_asked_and_only_a_tokenizer(tritter, notes, tmp_path):  # noqa: F811
    command = ("tokenizer", "train", "--data", notes, "--vocab-size", 270, "--out")
    assert tritter(*command, "mine").code == 0
    assert "something there already" in tritter(*command, "mine").error
    assert tritter(*command, "mine", "--overwrite").code == 0
    assert "not" in tritter(*command, "notes", "--overwrite").error
    assert entries(tmp_path / "notes") == {"a.txt", "b.bin"}
