"""Files made to be expensive are refused or read within bounded memory and work; counted, as times vary."""

import gc
import json
import tracemalloc

import pytest
from tprog.config_json import config_to_json
from tprog.errors import FormatError, TritterError
from tprog.reader import open_checkpoint
from tprog.tensorheader import parse_header
from tprog.verify import verify

from tests.tprog.files import raw_file, small_config

MEBIBYTE = 1 << 20


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(small_config())))
    return tmp_path


def peak_of(action) -> float:
    """Most memory that an action takes in Python, in mebibytes; it must refuse what it is given."""
    tracemalloc.start()
    try:
        with pytest.raises(TritterError):
            action()
        return tracemalloc.get_traced_memory()[1] / MEBIBYTE
    finally:
        tracemalloc.stop()


def test_an_index_of_more_names_than_the_model_could_have_is_refused_before_it_is_parsed(directory):
    raw_file(directory / "model-00001-of-00002.safetensors", {})
    names = {f"model.layers.{number}.mlp.experts.up_proj.weight": "a.safetensors" for number in range(150_000)}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    size = index.stat().st_size / MEBIBYTE
    assert peak_of(lambda: open_checkpoint(directory)) < size + 8
    with pytest.raises(FormatError, match="more than 65536 values"):
        open_checkpoint(directory)
    assert not verify(directory).ok


def test_a_config_of_a_million_fields_is_refused_before_it_is_parsed(directory):
    fields = ",".join(f'"f{number}":1' for number in range(500_000))
    (directory / "config.json").write_text(f"{{{fields}}}")
    assert peak_of(lambda: open_checkpoint(directory)) < 16


def test_a_header_of_many_tensors_is_read_without_going_through_it_again_and_again():
    entry = '"model.layers.%d.up":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    text = "{" + ",".join(entry % (number, 4 * number, 4 * number + 4) for number in range(16_000)) + "}"
    collections: list[int] = []

    def count(phase: str, info: dict) -> None:
        collections.append(info["generation"])

    gc.callbacks.append(count)
    try:
        header = parse_header(text.encode(), 8 + len(text) + 4 * 16_000, "x")
    finally:
        gc.callbacks.remove(count)
    assert len(header.specs) == 16_000
    assert collections.count(2) <= 4
    assert gc.isenabled()


def test_a_huge_model_that_is_not_there_has_its_first_missing_tensors_named(directory):
    config = config_to_json(small_config()) | {"num_hidden_layers": 1_000, "hidden_size": 1 << 26}
    (directory / "config.json").write_text(json.dumps(config | {"num_attention_heads": 1 << 20, "head_dim": 64}))
    raw_file(directory / "model.safetensors", {})
    report = verify(directory)
    assert report.wrong == 101
    assert report.findings[-1].problem.endswith("more")
