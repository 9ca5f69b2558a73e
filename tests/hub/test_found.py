"""Repositories as they are found on the Hub: pulled where they hold a model, else told as what they are."""

import json

import pytest
from tprog.errors import FormatError
from tprog.hub import fetch, peek, pull
from tprog.huggingface import export_directory
from tprog.verify import verify

from tests.tprog.test_bounds import STRANGERS, tokenizer_json
from tests.tprog.test_foreign import ADAPTER


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (ADAPTER, "an adapter"),
        ({"poet.gguf": "GGUF"}, "a GGUF file"),
        ({"params.json": "{}", "consolidated.00.pth": "x"}, "consolidated.00.pth"),
        ({"checkpoint-5/config.json": "{}", "checkpoint-5/model.safetensors": "x"}, "checkpoint-5"),
    ],
)
@pytest.mark.parametrize("reader", [fetch, peek, pull])
def test_a_repository_without_a_model_is_told_as_what_it_is(hub, tmp_path, monkeypatch, reader, files, said):
    monkeypatch.chdir(tmp_path)
    hub.create("org/found", {name: text.encode() for name, text in files.items()})
    with pytest.raises(FormatError, match=said) as caught:
        reader("org/found")
    assert len(str(caught.value).splitlines()) == 1


def test_a_model_with_a_tokenizer_of_17_mb_and_files_of_its_training_is_pulled(hub, checkpoint, tmp_path):
    plain = export_directory(checkpoint, tmp_path / "plain")
    files = {path.name: path.read_bytes() for path in plain.iterdir() if path.is_file()}
    text = tokenizer_json(128_000, 280_147).encode()
    assert len(text) > 16 << 20
    strangers = {name: content.encode() for name, content in STRANGERS.items() if not name.startswith(".")}
    hub.create("org/model", files | strangers | {"tokenizer.json": text})
    path = pull("org/model", tmp_path / "model").path
    assert (path / "tokenizer.json").read_bytes() == text
    assert verify(path).ok
    assert not {entry.name for entry in path.rglob("*")} & {name.rpartition("/")[2] for name in strangers} - {
        "config.json",
        "model.safetensors",
    }


def test_a_pulled_model_that_names_code_says_that_it_is_not_there(hub, tritter, checkpoint, tmp_path):
    plain = export_directory(checkpoint, tmp_path / "plain")
    files = {path.name: path.read_bytes() for path in plain.iterdir() if path.is_file()}
    config = json.loads(files["config.json"]) | {"auto_map": {"AutoModel": "modeling_own.Own"}}
    code = {"config.json": json.dumps(config).encode(), "modeling_own.py": b"raise RuntimeError"}
    hub.create("org/model", files | code)
    done = tritter("pull", "org/model", tmp_path / "model")
    assert done.code == 0
    assert "auto_map (modeling_own.py): code is not fetched" in " ".join(done.err.split())
    assert not (tmp_path / "model" / "modeling_own.py").exists()
