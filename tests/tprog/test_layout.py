"""Names of checkpoint directories."""

import os

import pytest
from tprog.errors import UsageError
from tprog.layout import CheckpointName, default_name, newest


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("poet-3B-1000.tprog", ("poet", "3B", 1000)),
        ("/a/b/poet-large-v2-350M-0.tprog", ("poet-large-v2", "350M", 0)),
        ("poet-1.1B-7.tprog", ("poet", "1.1B", 7)),
    ],
)
def test_names_are_taken_apart_and_put_together(text, parts):
    name = CheckpointName.parse(text)
    assert name is not None
    assert (name.model, name.size, name.step) == parts
    assert str(name) == text.rpartition("/")[2]


@pytest.mark.parametrize("text", ["poet.tprog", "poet-3B.tprog", "poet-3B-x.tprog", "poet-3B-1000", "-3B-1.tprog"])
def test_other_names_have_no_parts(text):
    assert CheckpointName.parse(text) is None


def test_a_grown_model_keeps_its_name():
    assert default_name("runs/poet-3B-1000.tprog/", "7B", 1000) == "poet-7B-1000.tprog"
    assert default_name("Llama-3.2-1B", "7B", 0) == "Llama-3.2-1B-7B-0.tprog"
    assert default_name("plain.tprog", "7B", 5) == "plain-7B-5.tprog"


def test_the_newest_is_found(tmp_path):
    for number, name in enumerate(["a-3B-50.tprog", "b-3B-10.tprog", "c-7B-90.tprog", ".a-3B-99.tprog"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (number, number))
    (tmp_path / "d-3B-99.tprog").write_text("a file")
    assert newest("3B", tmp_path).name == "b-3B-10.tprog"
    assert newest("3b", tmp_path).name == "b-3B-10.tprog"
    os.utime(tmp_path / "a-3B-50.tprog", (1, 1))
    assert newest("3B", tmp_path).name == "a-3B-50.tprog"


def test_none_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"\*-7B-\*\.tprog"):
        newest("7B", tmp_path)
