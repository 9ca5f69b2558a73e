"""Names of checkpoint directories."""

import json
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


def test_the_newest_is_that_of_the_most_steps_whenever_it_was_changed(tmp_path):
    for number, name in enumerate(["a-3B-50.tprog", "b-3B-10.tprog", "c-7B-90.tprog", ".a-3B-99.tprog"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (number, number))
    (tmp_path / "d-3B-99.tprog").write_text("a file")
    assert newest("3B", tmp_path).name == "a-3B-50.tprog"
    assert newest("3b", tmp_path).name == "a-3B-50.tprog"
    assert newest(directory=tmp_path).name == "c-7B-90.tprog"


def test_steps_that_are_recorded_outweigh_those_in_a_name_then_growths_then_time(tmp_path):
    def make(name: str, time: int, **known: object) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "progressive.json").write_text(json.dumps(known))
        os.utime(tmp_path / name, (time, time))

    make("a-3B-900.tprog", 9, training_progress={"steps": 7})
    make("a-3B-0.tprog", 1, training_progress={"steps": 20})
    assert newest(directory=tmp_path).name == "a-3B-0.tprog"
    make("a-7B-20.tprog", 0, training_progress={"steps": 20}, expansion_history=[{}])
    assert newest(directory=tmp_path).name == "a-7B-20.tprog"
    make("b-7B-20.tprog", 5, training_progress={"steps": 20}, expansion_history=[{}])
    assert newest(directory=tmp_path).name == "b-7B-20.tprog"
    make("old-3B-1.tprog", 0, training_state={"current_step": 21})
    assert newest(directory=tmp_path).name == "old-3B-1.tprog"


@pytest.mark.parametrize("text", ["{", "[]", '{"training_progress": {"steps": "99"}}', '{"training_progress": 3}'])
def test_where_no_steps_are_recorded_the_name_tells(tmp_path, text):
    for name in ("a-3B-5.tprog", "a-3B-10.tprog"):
        (tmp_path / name).mkdir()
    (tmp_path / "a-3B-5.tprog" / "progressive.json").write_text(text)
    assert newest(directory=tmp_path).name == "a-3B-10.tprog"


def test_none_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"\*-7B-\*\.tprog"):
        newest("7B", tmp_path)
