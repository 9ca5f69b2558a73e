"""What is pushed is what is pulled: all of it, or the parts asked for, in one commit, and nothing else."""

import json
import re
from pathlib import Path

import gguf
import pytest
from huggingface_hub import constants
from tprog.errors import FormatError, UsageError
from tprog.hub import fetch, pull
from tprog.hub_push import push
from tprog.numpy import load, save
from tprog.reader import open_checkpoint
from tprog.verify import verify

from tests.hub.server import sha256
from tests.tprog.files import assert_same_bits, random_arrays, small_config
from tritter_jax.data import byte_tokenizer, train_bpe
from tritter_jax.train.config import RunConfig
from tritter_jax.train.setup import choose_model


def test_a_pulled_checkpoint_is_the_one_that_was_pushed(hub, checkpoint, tmp_path):
    done = push(checkpoint, "org/poet")
    pulled = pull("org/poet", tmp_path / "b.tprog")
    assert pulled.commit == done.commit
    assert verify(pulled.path).ok
    before = {path.relative_to(checkpoint): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    after = {path.relative_to(pulled.path): path.read_bytes() for path in pulled.path.rglob("*") if path.is_file()}
    assert after.pop((pulled.path / "README.md").relative_to(pulled.path))
    assert after == before


def without_copies(path) -> None:
    """Make it a checkpoint whose tokenizer is in tokenizer/ alone, as earlier versions wrote it."""
    known = json.loads((path / "progressive.json").read_text())
    del known["manifest"]["files"]["tokenizer.json"]
    (path / "progressive.json").write_text(json.dumps(known))
    (path / "tokenizer.json").unlink()


def test_a_pushed_checkpoint_has_its_tokenizer_at_the_top_though_the_directory_has_not(hub, checkpoint, tmp_path):
    whole = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    without_copies(checkpoint)
    push(checkpoint, "org/poet")
    assert whole < hub.repositories["org/poet"].files().keys()
    assert "tokenizer.json" in open_checkpoint(pull("org/poet", tmp_path / "b.tprog").path).progressive.manifest.files
    assert not (checkpoint / "tokenizer.json").exists()
    push(checkpoint, "org/light", parts=["weights"])
    assert not [name for name in hub.repositories["org/light"].files() if "tokenizer" in name]


def test_a_checkpoint_pulled_from_an_older_repository_has_its_tokenizer_at_the_top(hub, checkpoint, tmp_path):
    without_copies(checkpoint)
    files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
    hub.create("org/poet", {name: path.read_bytes() for name, path in files.items()})
    path = pull("org/poet", tmp_path / "b.tprog").path
    assert (path / "tokenizer.json").read_bytes() == (path / "tokenizer" / "tokenizer.json").read_bytes()
    assert "tokenizer.json" in open_checkpoint(path).progressive.manifest.files
    assert verify(path).ok


def test_a_push_is_one_commit_and_is_not_sent_twice(hub, checkpoint):
    push(checkpoint, "org/poet")
    assert len(hub.asked("POST", "/commit/")) == 1
    assert hub.asked("PUT", "/lfs/")
    hub.requests.clear()
    push(checkpoint, "org/poet")
    assert not hub.asked("PUT", "/lfs/")
    assert not hub.asked("POST", "/commit/")


def test_files_of_an_earlier_model_are_removed_and_others_stay(hub, checkpoint, tmp_path):
    push(checkpoint, "org/poet")
    hub.repositories["org/poet"].files()["notes.txt"] = b"mine"
    config = small_config()
    other = save(tmp_path / "c.tprog", random_arrays(config, 1), config)
    done = push(other, "org/poet")
    files = hub.repositories["org/poet"].files()
    assert {"weights-00001-of-00002.safetensors", "training/scheduler.json"} < set(done.deleted)
    assert not set(done.deleted) & files.keys()
    assert files["notes.txt"] == b"mine"
    assert verify(pull("org/poet", tmp_path / "d.tprog").path).ok


def test_what_is_no_part_of_a_checkpoint_stays_here(hub, checkpoint):
    (checkpoint / "secrets.env").write_text("x")
    done = push(checkpoint, "org/poet")
    assert done.left_out == ("secrets.env",)
    assert "secrets.env" not in hub.repositories["org/poet"].files()


def test_a_branch_is_made_and_is_another_model(hub, checkpoint, tmp_path):
    hub.create("org/poet")
    push(checkpoint, "org/poet@later")
    assert "config.json" not in hub.repositories["org/poet"].files("main")
    assert verify(pull("org/poet@later", tmp_path / "b.tprog").path).ok
    with pytest.raises(FormatError, match="got none"):
        pull("org/poet", tmp_path / "c.tprog")


def test_a_new_repository_is_private_where_that_is_asked(hub, checkpoint, tmp_path, monkeypatch):
    push(checkpoint, "org/poet", private=True)
    assert hub.repositories["org/poet"].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="a private one that you may not read"):
        pull("org/poet", tmp_path / "b.tprog")


def test_a_public_repository_does_not_pass_for_a_private_one(hub, checkpoint):
    hub.create("org/poet")
    with pytest.raises(UsageError, match="exists and is public"):
        push(checkpoint, "org/poet", private=True)
    assert not hub.asked("PUT", "/lfs/")


@pytest.mark.parametrize("to_hub", [True, False])
def test_parts_that_are_not_asked_for_are_neither_sent_nor_fetched(hub, checkpoint, tmp_path, to_hub):
    parts = {"parts": ["weights"]}
    push(checkpoint, "org/poet", **(parts if to_hub else {}))
    hub.requests.clear()
    pulled = pull("org/poet", tmp_path / "b.tprog", **({} if to_hub else parts))
    opened = open_checkpoint(pulled.path)
    assert verify(pulled.path).ok
    assert opened.parts == ()
    assert not opened.tokenizer_files
    assert not opened.progressive.ewc_config.enabled
    assert open_checkpoint(checkpoint).progressive.ewc_config.enabled
    assert not hub.asked("GET", "training|ewc|tokenizer")
    assert_same_bits(load(pulled.path), load(checkpoint))


def test_of_a_large_repository_only_the_weights_in_use_are_fetched(hub, plain, tmp_path):
    files = {path.name: path.read_bytes() for path in plain.iterdir()}
    strange = {
        "pytorch_model.bin": b"a pickle",
        "consolidated.safetensors": b"not the index's",
        "original/params.json": b"{}",
        "../outside.safetensors": b"x",
        "onnx/model.onnx": b"x",
        "tokenizer.json": b"{}",
    }
    hub.create("org/model", files | strange)
    path = pull("org/model", tmp_path / "model").path
    assert {entry.name for entry in path.iterdir()} == files.keys() | {"tokenizer.json"}
    assert not hub.asked("GET", "pickle|pytorch_model|consolidated|original|outside|onnx")
    assert_same_bits(load(path), load(plain))


def indexed(plain, names):
    """The files of a model with an index that names its tensors, and others."""
    files = {path.name: path.read_bytes() for path in plain.iterdir()}
    known = dict.fromkeys(open_checkpoint(plain).specs, "model.safetensors")
    index = {"weight_map": known | {f"x{number}": "model.safetensors" for number in range(names)}}
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}


@pytest.mark.parametrize("get", [fetch, pull])
def test_an_index_of_more_names_than_the_model_may_have_is_refused_before_its_weights_are_fetched(
    hub, plain, tmp_path, monkeypatch, get
):
    monkeypatch.chdir(tmp_path)
    hub.create("org/model", indexed(plain, 1 << 16))
    with pytest.raises(FormatError, match="more than 65536 values"):
        get("org/model")
    assert not hub.asked("GET", "/model.safetensors$")


def test_an_index_that_arrived_changed_is_fetched_again(hub, plain, tmp_path):
    files = indexed(plain, 0)
    hub.create("org/model", files)
    index = sha256(files["model.safetensors.index.json"])
    hub.fail("GET", f"/cdn/{index}|/model.safetensors.index.json$", flip=True)
    with pytest.raises(FormatError, match="as the Hub lists it"):
        pull("org/model", tmp_path / "a")
    assert verify(pull("org/model", tmp_path / "a").path).ok


def test_a_source_is_fetched_once_and_then_read_without_a_network(hub, checkpoint, monkeypatch):
    push(checkpoint, "org/poet")
    path = fetch("org/poet")
    assert verify(path).ok
    assert open_checkpoint(path).progressive.base_model == "org/poet"
    hub.requests.clear()
    assert fetch("org/poet") == path
    assert not hub.asked("GET", "/cdn/|/resolve/")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("org/poet") == path
    with pytest.raises(UsageError, match="no network"):
        fetch("org/other")


def test_without_a_connection_the_cache_is_read(hub, checkpoint, monkeypatch):
    push(checkpoint, "org/poet")
    path = fetch("org/poet")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    assert fetch("org/poet") == path
    with pytest.raises(UsageError, match="no connection"):
        pull("org/poet")


def deeper(checkpoint, path) -> None:
    """The configuration of the same model with a layer more."""
    path.write_text(json.dumps(json.loads((checkpoint / "config.json").read_text()) | {"num_hidden_layers": 3}))


def test_commands_take_models_of_the_hub(hub, tritter, checkpoint, tmp_path):
    push(checkpoint, "org/poet")
    assert tritter("info", "org/poet@main", "--json").json["parameters"] == 1956
    deeper(checkpoint, tmp_path / "deeper.json")
    outcome = tritter("expand", "--from", "org/poet", "--to", "deeper.json", "--json")
    assert outcome.code == 0, outcome.err
    made = open_checkpoint(outcome.json["path"])
    assert made.path.name.startswith("poet-")
    assert made.progressive.base_model == "org/poet"
    assert tritter("push", made.path, "org/deeper").code == 0
    assert "base_model: org/poet\n" in hub.repositories["org/deeper"].files()["README.md"].decode()


def test_a_gguf_file_is_named_after_the_repository(hub, tritter, plain, tmp_path):
    hub.create("org/model", {path.name: path.read_bytes() for path in plain.iterdir() if "token" not in path.name})
    outcome = tritter("export", "org/model", "--gguf", "a.gguf", "--no-tokenizer")
    assert outcome.code == 0, outcome.err
    assert gguf.GGUFReader(tmp_path / "a.gguf").fields["general.name"].contents() == "org/model"


def test_a_plan_reads_no_weights(hub, tritter, checkpoint, tmp_path):
    push(checkpoint, "org/poet")
    hub.requests.clear()
    deeper(checkpoint, tmp_path / "deeper.json")
    assert tritter("plan", "--from", "org/poet", "--to", "deeper.json", "--layers", "0").code == 0
    assert hub.asked("GET", "config.json")
    assert len(hub.asked("GET", "/cdn/|/resolve/")) == 2


def test_what_a_model_is_can_be_asked_without_its_weights(hub, tritter, checkpoint, tmp_path):
    push(checkpoint, "org/poet")
    hub.requests.clear()
    here, there = (tritter("info", source, "--json").json for source in (checkpoint, "org/poet"))
    assert {name: here[name] for name in ("size", "parameters")} == {
        name: there[name] for name in ("size", "parameters")
    }
    assert here["files"].items() <= there["files"].items()
    assert tritter("report", "org/poet").code == 0
    assert "org/poet" in (tmp_path / "report.html").read_text()
    assert not hub.asked("GET", r"weights.*safetensors|ewc|training")


def test_losses_are_not_stored_in_the_cache(hub, tritter, checkpoint, tmp_path):
    push(checkpoint, "org/poet")
    (tmp_path / "text").write_text("a poem")
    words = ("eval", "org/poet", "--baseline", "org/poet", "--data", "text", "--all")
    assert "tritter pull org/poet" in tritter(*words, "--store").error
    assert not hub.asked("GET", "config.json")


def test_a_run_goes_on_from_a_model_of_the_hub(hub, plain, tmp_path, monkeypatch):
    files = {path.name: path.read_bytes() for path in plain.iterdir() if path.name != "tokenizer.json"}
    hub.create("org/model", files)
    monkeypatch.chdir(tmp_path)
    settings = RunConfig.parse({}, ["model.checkpoint=org/model", "data.tokenizer=bytes"])
    origin, _, model = choose_model(settings)
    assert origin is not None
    assert origin.config == open_checkpoint(plain).config == model
    with pytest.raises(UsageError, match="a missing repository"):
        choose_model(RunConfig.parse({}, ["model.checkpoint=org/other"]))
    (tmp_path / "org" / "model").mkdir(parents=True)
    with pytest.raises(FormatError, match=r"config\.json"):
        choose_model(settings)  # a directory here goes before the Hub


@pytest.fixture
def words(hub, tmp_path):
    """A tokenizer that learned a few words, alone on the hub and beside a model's weights."""
    tokenizer = train_bpe(["low lower lowest slow slower"] * 2, 262)
    files = {path.name: path.read_bytes() for path in tokenizer.save(tmp_path / "saved").iterdir()}
    weights = {"config.json": b"{}", "model.safetensors": b"x", "vocab.bin": b"x"}
    hub.create("org/words", files)
    hub.create("org/model", files | weights)
    hub.create("org/ours", {f"tokenizer/{name}": data for name, data in files.items()} | weights)
    hub.create("org/none", weights)
    return tokenizer


def tokenizer_of(name: str):
    """The tokenizer that a run takes for what its configuration names."""
    return choose_model(RunConfig.parse({}, ["model.size=test", f"data.tokenizer={name}"]))[1]


@pytest.mark.parametrize("name", ["org/words", "org/model@main"])
def test_a_run_takes_a_tokenizer_of_the_hub_and_nothing_else_of_its_repository(hub, words, name, monkeypatch):
    assert tokenizer_of(name).digest == words.digest != byte_tokenizer().digest
    assert {Path(path).name for path in hub.asked("HEAD", "/resolve/")} == set(hub.repositories["org/words"].files())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert tokenizer_of(name).digest == words.digest


def test_a_tokenizer_is_found_in_the_folder_of_a_checkpoint(hub, words):
    assert tokenizer_of("org/ours").digest == words.digest


def test_a_directory_goes_before_a_tokenizer_of_the_hub(hub, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    byte_tokenizer().save(tmp_path / "org" / "words")
    assert tokenizer_of("org/words").digest == byte_tokenizer().digest
    assert not hub.requests


def test_a_tokenizer_that_arrives_changed_is_refused_and_fetched_anew(hub, words):
    hub.fail("GET", "/cdn/|tokenizer.json", flip=True)
    with pytest.raises(FormatError, match=r"tokenizer\.json is not what the Hub lists"):
        tokenizer_of("org/words")
    assert tokenizer_of("org/words").digest == words.digest


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/other", "a directory here, or a repository on the Hub, got a missing repository"),
        ("org/words@v9", "a branch, tag or commit of that name"),
        ("org/none", "a repository that holds a tokenizer"),
        ("mine/tokenizer.json", r"bytes, a tokenizer\.json, a directory"),
    ],
)
def test_a_tokenizer_that_is_nowhere_is_told_in_a_paragraph(hub, words, tritter, name, said):
    words = ("train", "--set", "model.size=test", "--data", "builtin:prose", "--set", f"data.tokenizer={name}")
    assert re.search(said, " ".join(tritter(*words).error.split()))


def test_without_a_network_a_tokenizer_is_told_to_need_one(hub, words, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="nothing in the cache, and no network"):
        tokenizer_of("org/words")


def test_pull_names_its_directory_after_the_repository(hub, tritter, checkpoint, plain):
    push(checkpoint, "org/poet")
    hub.create("org/model", {path.name: path.read_bytes() for path in plain.iterdir()})
    assert tritter("pull", "org/poet", "--json").json["path"].endswith("/poet.tprog")
    assert tritter("pull", "org/model", "--json").json["path"].endswith("/model")
