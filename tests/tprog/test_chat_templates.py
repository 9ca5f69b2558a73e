"""Chat templates in every way in which transformers stores them: import, export, the Hub's client, GGUF."""

import json
from pathlib import Path

import gguf
import pytest
import transformers
from tprog.bounds import MAX_TEMPLATE_BYTES
from tprog.chat_templates import read_chat_templates
from tprog.errors import FormatError
from tprog.gguf import export_gguf
from tprog.hub_files import part_of
from tprog.huggingface import export_directory, import_directory
from tprog.numpy import save
from tprog.reader import open_checkpoint
from tprog.tokenizer import tokenizer_files
from tprog.verify import verify

from tests.tprog.files import random_arrays
from tests.tprog.gguf_files import config_of, tokenizer_in, vocab_size
from tritter_jax.data import load_tokenizer

PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TOOLS = "{{ tools }}\n{{ messages }}"


def in_config(folder: Path, value: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": value}))


def in_files(folder: Path, **named: str) -> None:
    for name, template in named.items():
        path = folder / "chat_template.jinja"
        if name != "default":
            path = folder / "additional_chat_templates" / f"{name}.jinja"
            path.parent.mkdir(exist_ok=True)
        path.write_text(template)


STORED = {
    "text in tokenizer_config.json": lambda folder: in_config(folder, PLAIN),
    "a list in tokenizer_config.json": lambda folder: in_config(
        folder, [{"name": "tool_use", "template": TOOLS}, {"name": "default", "template": PLAIN}]
    ),
    "an object in tokenizer_config.json": lambda folder: in_config(folder, {"tool_use": TOOLS, "default": PLAIN}),
    "chat_template.jinja": lambda folder: in_files(folder, default=PLAIN),
    "a folder": lambda folder: in_files(folder, default=PLAIN, tool_use=TOOLS),
    "chat_template.json": lambda folder: (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": PLAIN})
    ),
    "files beside another in tokenizer_config.json": lambda folder: (
        in_config(folder, "another"),
        in_files(folder, default=PLAIN, tool_use=TOOLS),
    ),
}


@pytest.fixture(params=STORED)
def stored(request, tmp_path):
    """A Hugging Face directory with a tokenizer and its chat templates, and what they are by name."""
    folder = tokenizer_in(tmp_path / "hf", "byte-level")
    STORED[request.param](folder)
    config = config_of("llama", vocab_size=vocab_size("byte-level"))
    export_directory(save(tmp_path / "bare.tprog", random_arrays(config), config), tmp_path / "plain")
    for path in (tmp_path / "plain").iterdir():
        path.rename(folder / path.name)
    named = (
        "list" in request.param or "object" in request.param or "fold" in request.param or "files" in request.param
    )
    return folder, {"default": PLAIN} | ({"tool_use": TOOLS} if named else {})


def test_they_are_read_as_transformers_reads_them(stored):
    folder, expected = stored
    assert read_chat_templates(tokenizer_files(folder)) == expected
    assert next(iter(read_chat_templates(tokenizer_files(folder)))) == "default"
    if not (folder / "chat_template.json").exists():  # which processors read, and tokenizers do not
        theirs = transformers.AutoTokenizer.from_pretrained(folder).chat_template
        assert theirs == expected or {"default": theirs} == expected


@pytest.mark.parametrize("stored", ["a list in tokenizer_config.json", "a folder"], indirect=True)
def test_they_survive_import_and_export_and_a_tokenizer_that_is_saved_again(stored, tmp_path):
    folder, expected = stored
    path = import_directory(folder, tmp_path / "a.tprog")
    again = import_directory(path, tmp_path / "b.tprog")
    back = export_directory(again, tmp_path / "back")
    saved = load_tokenizer(again).save(tmp_path / "saved")
    for directory in (path, again, back, saved):
        assert read_chat_templates(tokenizer_files(directory)) == expected, directory
    assert verify(again).ok
    assert all(name in open_checkpoint(again).progressive.manifest.files for name in files_of(again))
    export_directory(again, back, overwrite=True)


def files_of(path: Path) -> list[str]:
    return [f"tokenizer/{name}" for name in tokenizer_files(path)]


def test_they_are_written_into_gguf_files(stored, tmp_path):
    folder, expected = stored
    fields = gguf.GGUFReader(export_gguf(folder, tmp_path / "m.gguf").path).fields
    assert fields["tokenizer.chat_template"].contents() == PLAIN
    assert ("tokenizer.chat_template.tool_use" in fields) == ("tool_use" in expected)
    if "tool_use" in expected:
        assert fields["tokenizer.chat_template.tool_use"].contents() == TOOLS
        assert fields["tokenizer.chat_templates"].contents() == ["tool_use"]


def test_the_hub_takes_named_templates_for_a_part_of_the_tokenizer():
    assert part_of("additional_chat_templates/rag.jinja") == part_of("tokenizer/additional_chat_templates/rag.jinja")
    assert part_of("tokenizer/additional_chat_templates/rag.jinja") == "tokenizer"
    assert part_of("additional_chat_templates/rag.py") is None
    assert part_of("elsewhere/rag.jinja") is None


@pytest.mark.parametrize("value", [5, {"default": 5}, ["x"], [{"name": "x"}], [{"name": 1, "template": "x"}]])
def test_a_template_that_is_no_text_is_named(tmp_path, value):
    folder = tokenizer_in(tmp_path, "byte-level", chat_template=value)
    with pytest.raises(FormatError, match="chat_template"):
        read_chat_templates(tokenizer_files(folder))


def test_a_template_that_is_no_utf_8_is_named(tmp_path):
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match=r"chat_template\.jinja"):
        read_chat_templates({path.name: path})


def test_templates_that_gguf_cannot_tell_apart_are_refused(tmp_path):
    folder = tokenizer_in(tmp_path / "hf", "byte-level")
    in_files(folder, **{"default": PLAIN, "a-b": "x", "a_b": "y"})
    config = config_of("llama", vocab_size=vocab_size("byte-level"))
    checkpoint = save(tmp_path / "m.tprog", random_arrays(config), config, tokenizer_from=folder)
    with pytest.raises(FormatError, match="'a-b' and 'a_b'"):
        export_gguf(checkpoint, tmp_path / "m.gguf")


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tool_use.jinja"])
def test_a_template_beyond_the_bound_is_refused_unread(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x" * MAX_TEMPLATE_BYTES)
    assert len(next(iter(read_chat_templates({name: path}).values()))) == MAX_TEMPLATE_BYTES
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="at most 1048576 bytes"):
        read_chat_templates({name: path})
