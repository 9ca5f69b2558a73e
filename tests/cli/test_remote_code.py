"""config.json and tokenizer_config.json name code that no checkpoint takes along: neither do they name it there."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from tprog.hf_names import hf_tensors
from tprog.huggingface import export_directory, import_directory
from tprog.reader import open_checkpoint
from tprog.remote_code import named_code, without_code

from tests.support import odd_config, random_tokens, torch_model

AUTO_MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "org/other--modeling_own.OwnModel"}
MODULES = ("configuration_own", "modeling_own", "poem", "tokenization_own")
PIPELINES = {"poem": {"impl": "poem.PoemPipeline", "pt": ["AutoModelForCausalLM"]}}
TOKENIZER_MAP = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}


@pytest.fixture
def model(tmp_path) -> Path:
    """A model and a tokenizer with code of their own, as their authors publish them."""
    directory = tmp_path / "hf"
    torch_model(odd_config("llama", num_layers=2)).save_pretrained(directory)
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="b").save_pretrained(directory)
    for name, fields in (
        ("config.json", {"auto_map": AUTO_MAP, "custom_pipelines": PIPELINES, "eos_token_id": 1}),
        ("tokenizer_config.json", {"auto_map": TOKENIZER_MAP}),
    ):
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    for name in MODULES:
        (directory / f"{name}.py").write_text("raise RuntimeError('never run here')\n")
    return directory


def named_files(directory: Path) -> set[str]:
    """What any JSON of a directory says that could be a module's name."""
    texts = [path.read_text() for path in directory.rglob("*.json")]
    return {name for name in MODULES for text in texts if name in text}


def test_what_is_written_names_no_code(tmp_path, model):
    assert named_files(model) == set(MODULES)
    path = import_directory(model, tmp_path / "a.tprog")
    back = export_directory(path, tmp_path / "back")
    directly = export_directory(model, tmp_path / "directly")
    tokens = torch.from_numpy(random_tokens(odd_config("llama"))).long()
    reference = transformers.AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False)(tokens).logits
    for directory in (path, back, directly):
        assert named_files(directory) == set()
        assert not list(directory.rglob("*.py"))
        loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
        assert torch.equal(loaded(tokens).logits, reference)
        assert json.loads((directory / "config.json").read_text())["eos_token_id"] == 1
    for directory in (path / "tokenizer", back, directly):
        assert transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=True)("b").input_ids == [1]


def test_import_and_expand_say_what_is_left_out(tritter, tmp_path, model):
    done = tritter("import", model, tmp_path / "a.tprog")
    said = done.err
    assert "config.json names code in auto_map (configuration_own.py, modeling_own.py): left out" in said
    assert "config.json names code in custom_pipelines (poem.py): left out" in said
    assert "tokenizer_config.json names code in auto_map (tokenization_own.py): left out" in said
    again = tritter("import", tmp_path / "a.tprog", tmp_path / "b.tprog")
    assert "names code" not in again.err


def test_a_tokenizer_that_names_no_code_keeps_its_bytes(tmp_path, model):
    odd = b'{ "eos_token":"b",\t"model_max_length": 1e30,  "about": "auto_map" }'
    (model / "tokenizer_config.json").write_bytes(odd)
    path = import_directory(model, tmp_path / "a.tprog")
    assert (path / "tokenizer" / "tokenizer_config.json").read_bytes() == odd
    assert without_code(odd, "x") == odd


DEEP = json.loads("[" * 20 + "]" * 20)
ODD = ["modeling_own", 7, {"AutoModel": None}, {"AutoModel": ["a.B", [None, {"x": "c.D"}]]}, [], DEEP, {"impl": 3}]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_any_value_of_auto_map_is_read(model, value):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": value, "custom_pipelines": value}))
    assert "auto_map" not in open_checkpoint(model).config.extra
    assert all("names code in" in line for line in named_code(model))
    assert len(list(hf_tensors(open_checkpoint(model).config))) == 21
