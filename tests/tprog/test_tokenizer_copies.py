"""The tokenizer of a `.tprog` is in tokenizer/ and at the top, where transformers looks: recorded, and held equal."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tprog.flax
import tprog.numpy
import tprog.torch
from tprog.amend import amend
from tprog.card import model_card
from tprog.errors import FormatError, TritterError, UsageError
from tprog.huggingface import export_directory, export_torch, import_directory
from tprog.reader import is_checkpoint, open_checkpoint
from tprog.tokenizer_copies import refresh_tokenizer
from tprog.verify import verify

from tests.cli.conftest import config_file, tritter  # noqa: F401
from tests.support import torch_model
from tests.tprog.files import random_arrays, small_config
from tritter_jax.data import byte_tokenizer, load_tokenizer
from tritter_jax.growth.expand import expand
from tritter_jax.model import init_params
from tritter_jax.train.orbax_export import export_orbax, import_orbax

CONFIG = small_config(vocab_size=320)
TEMPLATES = ("chat_template.jinja", "additional_chat_templates/tool_use.jinja")
AT_TOP = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", *TEMPLATES}


@pytest.fixture
def words(tmp_path) -> Path:
    """A tokenizer with every kind of file."""
    directory = byte_tokenizer().save(tmp_path / "words")
    (directory / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    (directory / "additional_chat_templates").mkdir()
    for name in TEMPLATES:
        (directory / name).write_text(f"{{# {name} #}}")
    return directory


@pytest.fixture
def path(words, tmp_path) -> Path:
    return tprog.numpy.save(tmp_path / "a.tprog", random_arrays(CONFIG), CONFIG, tokenizer_from=words)


def made_old(path: Path) -> Path:
    """The directory as it was written before there were copies."""
    known = json.loads((path / "progressive.json").read_text())
    for name in AT_TOP:
        (path / name).unlink()
        del known["manifest"]["files"][name]
    (path / "additional_chat_templates").rmdir()
    (path / "progressive.json").write_text(json.dumps(known))
    return path


def assert_both(path: Path) -> None:
    """The copies are there, equal, on record, and `verify` has nothing to say."""
    on_record = open_checkpoint(path).progressive.manifest.files
    for name in AT_TOP:
        assert (path / name).read_bytes() == (path / "tokenizer" / name).read_bytes()
        assert on_record[name] == on_record[f"tokenizer/{name}"]
    assert not (path / "special_tokens.json").exists()
    assert not verify(path).findings
    assert is_checkpoint(path)


def problems(path: Path) -> dict[str, str]:
    """What `verify` says of each file; what it says twice of one in one text."""
    found: dict[str, str] = {}
    for finding in verify(path).findings:
        found[finding.file] = f"{found.get(finding.file, '')} {finding.problem}"
    return found


def save_torch(path, to, words):
    return tprog.torch.save(to, torch_model(CONFIG), CONFIG, tokenizer_from=words)


def save_flax(path, to, words):
    return tprog.flax.save(to, init_params(CONFIG), CONFIG, tokenizer_from=words)


def grown(path, to, words):
    return expand(path, to, small_config(vocab_size=320, num_layers=3)).path


def through_hugging_face(path, to, words):
    return import_directory(export_directory(path, to.with_name("hf")), to)


def through_torch(path, to, words):
    export_torch(path, to.with_name("pt"))
    export_directory(path, to.with_name("hf"))
    for file in to.with_name("hf").glob("*.safetensors"):
        shutil.copy(file, to.with_name("pt"))
    return import_directory(to.with_name("pt"), to)


def through_orbax(path, to, words):
    return import_orbax(export_orbax(open_checkpoint(path), to.with_name("orbax")), to)


def amended(path, to, words):
    amend(path, training_progress={"steps": 3})
    return path


WRITERS = {
    "torch": save_torch,
    "flax": save_flax,
    "import": lambda path, to, words: import_directory(path, to),
    "expand": grown,
    "hf and back": through_hugging_face,
    "torch and back": through_torch,
    "orbax and back": through_orbax,
    "amend": amended,
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_puts_the_tokenizer_at_the_top_too(path, words, tmp_path, writer, old):
    source = made_old(path) if old else path
    written = WRITERS[writer](source, tmp_path / "b.tprog", words)
    assert_both(written)
    assert open_checkpoint(written).tokenizer_files.keys() == {*AT_TOP, "special_tokens.json"}


def test_a_directory_without_the_copies_is_read_and_verified(path):
    old = made_old(path)
    assert verify(old).ok
    assert load_tokenizer(old).digest == byte_tokenizer().digest
    assert "subfolder='tokenizer'" in model_card(open_checkpoint(old), "a.tprog")


def test_the_code_of_a_card_reads_the_tokenizer_at_the_top(path):
    card = model_card(open_checkpoint(path), "a.tprog")
    assert "AutoTokenizer.from_pretrained('a.tprog')" in card
    assert "--to hf" in card


def test_a_plain_hugging_face_directory_has_the_files_once(path, tmp_path):
    exported = export_directory(path, tmp_path / "hf")
    names = {entry.relative_to(exported).as_posix() for entry in exported.rglob("*") if entry.is_file()}
    assert names == {"config.json", "model.safetensors", *AT_TOP}


@pytest.mark.parametrize("name", sorted(AT_TOP))
def test_a_copy_that_differs_is_found_and_the_message_says_what_to_do(path, name):
    (path / name).write_text("{ }")
    assert problems(path).keys() == {name}
    assert f"differs from tokenizer/{name}" in problems(path)[name]
    assert "`tritter tokenizer refresh`" in problems(path)[name]
    assert open_checkpoint(path).tokenizer_files[name] == path / "tokenizer" / name


def test_a_file_that_only_the_top_has_is_found(path):
    (path / "vocab.json").write_text("{}")
    assert "is not in tokenizer/" in problems(path)["vocab.json"]


def test_what_is_edited_in_the_folder_is_what_the_top_has_after_refresh(path, tritter):  # noqa: F811
    edited, removed = path / "tokenizer" / "tokenizer_config.json", path / "tokenizer" / TEMPLATES[1]
    edited.write_text(json.dumps(json.loads(edited.read_text()) | {"model_max_length": 7}))
    removed.unlink()
    (path / "tokenizer" / "added_tokens.json").write_text("{}")
    found = problems(path)
    assert found.keys() >= {"tokenizer/tokenizer_config.json", "tokenizer_config.json", TEMPLATES[1]}
    assert "`tritter tokenizer refresh`" in found["tokenizer/tokenizer_config.json"]
    outcome = tritter("tokenizer", "refresh", path, "--json")
    assert set(outcome.json["changed"]) == {
        "added_tokens.json", "tokenizer/added_tokens.json", "tokenizer_config.json",
        "tokenizer/tokenizer_config.json", TEMPLATES[1], f"tokenizer/{TEMPLATES[1]}",
    }  # fmt: skip
    assert json.loads((path / "tokenizer_config.json").read_text())["model_max_length"] == 7
    assert not (path / TEMPLATES[1]).exists()
    assert verify(path).ok
    assert tritter("tokenizer", "refresh", path, "--json").json["changed"] == []
    assert "nothing to do" in tritter("tokenizer", "refresh", path).out


def test_refresh_gives_the_copies_to_an_old_directory_and_to_one_without_a_manifest(path):
    assert set(refresh_tokenizer(made_old(path))) == AT_TOP
    assert_both(path)
    made_old(path)
    (path / "progressive.json").unlink()
    assert set(refresh_tokenizer(path)) == AT_TOP
    assert verify(path).ok


def test_refresh_leaves_a_file_that_somebody_put_at_the_top(path):
    (path / "vocab.json").write_text("mine")
    refresh_tokenizer(path)
    assert (path / "vocab.json").read_text() == "mine"
    assert "is not in tokenizer/" in problems(path)["vocab.json"]


def test_refresh_does_not_vouch_for_a_broken_file(path):
    (path / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(FormatError, match=r"tokenizer/tokenizer\.json"):
        refresh_tokenizer(path)
    assert (path / "tokenizer.json").read_bytes() != b"{"


def test_amend_does_not_vouch_for_what_was_changed(path):
    """Its checksums are those on record: a flipped bit stays a finding."""
    made_old(path)
    (path / "tokenizer" / "tokenizer_config.json").write_text("{}")
    amend(path, training_progress={"steps": 3})
    assert {finding.file for finding in verify(path).findings} == {
        "tokenizer_config.json", "tokenizer/tokenizer_config.json"
    }  # fmt: skip


def test_a_killed_amend_leaves_a_directory_that_verifies(path, monkeypatch):
    made_old(path)
    replaced = []

    def killed(self, target):
        if replaced:
            raise KeyboardInterrupt
        replaced.append(target)
        return shutil.move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            amend(path, training_progress={"steps": 3})
    assert replaced
    assert verify(path).ok
    amend(path, training_progress={"steps": 3})
    assert_both(path)


@pytest.mark.parametrize("make", ["none", "hugging face"])
def test_refresh_of_a_directory_without_the_folder_says_so(tmp_path, path, make):
    if make == "none":
        other = tprog.numpy.save(tmp_path / "b.tprog", random_arrays(CONFIG), CONFIG)
    else:
        other = export_directory(path, tmp_path / "hf")
    with pytest.raises(UsageError, match="folder tokenizer"):
        refresh_tokenizer(other)


def test_a_copy_that_is_a_link_out_of_the_directory_is_a_finding(path, tmp_path):
    (tmp_path / "elsewhere.json").write_bytes((path / "tokenizer.json").read_bytes())
    (path / "tokenizer.json").unlink()
    (path / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    assert "a link to" in str(problems(path))
    with pytest.raises(TritterError, match="nowhere"):
        refresh_tokenizer(tmp_path / "nowhere")


def test_weights_are_not_touched(path):
    before = np.array(open_checkpoint(path).tensor("model.norm.weight"))
    refresh_tokenizer(path)
    assert (open_checkpoint(path).tensor("model.norm.weight") == before).all()


def test_a_copy_has_the_bytes_of_a_folder_that_names_code(path):
    """Old directories kept `auto_map`, which is left out of what is written now."""
    made_old(path)
    edited = path / "tokenizer" / "tokenizer_config.json"
    edited.write_text(json.dumps(json.loads(edited.read_text()) | {"auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    refresh_tokenizer(path)
    assert_both(path)
