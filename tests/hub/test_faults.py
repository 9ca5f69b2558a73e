"""What the network and the Hub do wrong: retried, told, gone on from; never put in place."""

import pytest
from huggingface_hub import constants
from tprog.errors import FormatError, UsageError
from tprog.hub import fetch, pull
from tprog.hub_push import push
from tprog.numpy import load

from tests.hub.server import Fault, sha256
from tests.tprog.files import assert_same_bits

FOREVER = 100


def address(checkpoint, name: str) -> str:
    """Where the Hub serves a file's content, as a regular expression."""
    path = next(checkpoint.rglob(name))
    return f"/cdn/{sha256(path.read_bytes())}|/{name}$"


def hidden(directory) -> set[str]:
    return {entry.name for entry in directory.iterdir() if entry.name.startswith(".")}


@pytest.fixture
def poet(hub, checkpoint, monkeypatch):
    files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
    hub.create("org/poet", {name: path.read_bytes() for name, path in files.items()})
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256)
    return hub


def test_a_connection_cut_in_the_middle_of_a_file_is_resumed_there(poet, checkpoint, tmp_path):
    poet.fail("GET", "/cdn/", cut=1024)
    path = pull("org/poet", tmp_path / "b.tprog").path
    assert_same_bits(load(path), load(checkpoint))
    assert "bytes=1024-" in {range_ for _, _, range_ in poet.requests}


def test_a_pull_that_was_cut_for_good_goes_on_when_it_is_run_again(poet, checkpoint, tmp_path):
    poet.fail("GET", address(checkpoint, "weights-00002-of-00002.safetensors"), cut=0, times=FOREVER)
    with pytest.raises(UsageError, match="the same command goes on"):
        pull("org/poet", tmp_path / "b.tprog")
    assert not (tmp_path / "b.tprog").exists()
    (staging,) = hidden(tmp_path)
    arrived = {entry for entry in (tmp_path / staging).rglob("*.safetensors") if entry.is_file()}
    assert arrived
    poet.faults.clear()
    poet.requests.clear()
    assert_same_bits(load(pull("org/poet", tmp_path / "b.tprog").path), load(checkpoint))
    assert not any(poet.asked("GET", address(checkpoint, entry.name)) for entry in arrived)
    assert not hidden(tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_busy_once_is_asked_again(poet, checkpoint, tmp_path, status):
    poet.fail("HEAD", "weights-00001", status=status)
    poet.fail("GET", "/cdn/", status=429)
    assert_same_bits(load(pull("org/poet", tmp_path / "b.tprog").path), load(checkpoint))


@pytest.mark.parametrize(("status", "said"), [(429, "too many requests"), (500, r"error of the Hub itself \(500\)")])
def test_a_hub_that_stays_busy_is_told(poet, tmp_path, status, said):
    poet.fail("GET", "/cdn/", status=status, times=FOREVER)
    with pytest.raises(UsageError, match=said):
        pull("org/poet", tmp_path / "b.tprog")
    assert not (tmp_path / "b.tprog").exists()


@pytest.mark.parametrize(
    "name", ["weights-00001-of-00002.safetensors", "config.json", "progressive.json", "tokenizer.json"]
)
def test_a_file_that_arrives_changed_is_refused_and_fetched_anew(poet, checkpoint, tmp_path, name):
    poet.fail("GET", address(checkpoint, name), flip=True)
    with pytest.raises(FormatError, match=name):
        pull("org/poet", tmp_path / "b.tprog")
    assert not (tmp_path / "b.tprog").exists()
    poet.requests.clear()
    assert_same_bits(load(pull("org/poet", tmp_path / "b.tprog").path), load(checkpoint))
    # config.json is read, and held against the listing, before any other file is fetched.
    again = poet.asked("GET", "/cdn/|/resolve/")
    assert (len(again) == 1) == (name != "config.json")
    assert sum(name in path for path in again) <= 1


def test_a_changed_file_does_not_stay_in_the_cache(poet, checkpoint):
    poet.fail("GET", "/cdn/", flip=True)
    with pytest.raises(FormatError, match="not what the Hub lists"):
        fetch("org/poet")
    assert_same_bits(load(fetch("org/poet")), load(checkpoint))


def test_a_repository_that_is_not_what_its_manifest_says_is_refused(poet, tmp_path):
    files = poet.repositories["org/poet"].files()
    files["tokenizer/tokenizer.json"] = b'{"a": 1}'
    del files["training/scheduler.json"]
    with pytest.raises(FormatError, match="3 things wrong with it, though it arrived as the Hub lists it") as caught:
        pull("org/poet", tmp_path / "b.tprog")
    assert "training/scheduler.json: is on record, but is not there" in str(caught.value)
    assert "another revision" in caught.value.remedy
    assert "again" not in caught.value.remedy.replace("push the checkpoint again", "")
    assert not hidden(tmp_path)


def test_only_what_was_lost_on_the_way_is_worth_another_try(poet, checkpoint, tmp_path):
    """A repository that is wrong is told as that, also where a file arrives changed the first time."""
    poet.repositories["org/poet"].files()["training/scheduler.json"] = b"{"
    poet.fail("GET", address(checkpoint, "weights-00001-of-00002.safetensors"), flip=True)
    with pytest.raises(FormatError, match="arrived changed") as caught:
        pull("org/poet", tmp_path / "b.tprog")
    assert caught.value.findings == ("weights-00001-of-00002.safetensors is not what the Hub lists",)
    assert "Run the command again" in caught.value.remedy
    with pytest.raises(FormatError, match="arrived as the Hub lists it"):
        pull("org/poet", tmp_path / "b.tprog")


def test_an_interrupted_push_changes_nothing_and_goes_on_when_it_is_run_again(hub, checkpoint):
    hub.create("org/poet")
    before = hub.repositories["org/poet"].branches["main"]
    path = checkpoint / "weights-00001-of-00002.safetensors"
    hub.fail("PUT", sha256(path.read_bytes()), status=500, times=FOREVER)
    with pytest.raises(UsageError, match="the same command goes on"):
        push(checkpoint, "org/poet")
    assert hub.repositories["org/poet"].branches["main"] == before
    sent, hub.faults[:] = set(hub.objects), []
    assert sent
    hub.requests.clear()
    push(checkpoint, "org/poet")
    assert len(hub.asked("PUT", "/lfs/upload/")) == len(set(hub.objects) - sent)


def test_a_commit_that_came_in_between_is_not_overwritten(hub, checkpoint):
    hub.create("org/poet")
    hub.fail("POST", "/commit/", status=412)
    with pytest.raises(UsageError, match="a commit that came in between"):
        push(checkpoint, "org/poet")


def test_an_upload_that_the_hub_finds_damaged_is_refused(hub, checkpoint):
    hub.fail("PUT", "/lfs/upload/", status=400, times=FOREVER)
    with pytest.raises(UsageError, match="400"):
        push(checkpoint, "org/poet")


def test_a_broken_checkpoint_is_not_pushed(hub, checkpoint):
    path = checkpoint / "weights-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(FormatError, match="a whole checkpoint"):
        push(checkpoint, "org/poet")
    assert not hub.requests


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("GET", "/api/models", status=403, code="GatedRepo"), "a gated one"),
        (Fault("GET", "/api/models", status=401), "a token that the Hub knows"),
        (Fault("GET", "/api/models", status=404, code="RepoNotFound"), "a missing repository"),
    ],
)
def test_a_refusal_says_what_would_help(poet, tritter, fault, said):
    poet.faults.append(fault)
    assert said in tritter("pull", "org/poet").error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pull", "org/none"), "a missing repository, or a private one"),
        (("pull", "org/poet@none"), "a branch, tag or commit of that name"),
        (("pull", "nonsense"), "org/name or org/name@revision"),
        (("pull", "org/po--et"), "org/name"),
        (("pull", "org/poet", "--parts", "weigths"), "Did you mean weights?"),
        (("pull", "org/poet", "words"), "a path that does not exist"),
        (("pull", "org/poet", "words/tokenizer.json/x"), "words/tokenizer.json"),
        (("pull", "org/empty"), "weights in safetensors files"),
        (("info", "org/none"), "a directory here, or a repository on the Hub"),
        (("info", "org/empty"), "without config.json"),
        (("push", "poet-2K-3.tprog", "closed/poet"), "a token without it"),
        (("push", "poet-2K-3.tprog", "poet"), "org/name"),
        (("push", "org/poet", "org/other"), "tritter pull org/poet"),
        (("fisher", "org/poet", "--data", "builtin:prose"), "tritter pull org/poet"),
        (("verify", "org/poet", "--repair-index"), "tritter pull org/poet"),
        (("card", "org/poet"), "tritter pull org/poet"),
    ],
)
def test_a_mistake_is_one_paragraph(poet, tritter, arguments, said):
    poet.create("org/empty")
    assert said in tritter(*arguments).error


def test_without_a_token_nothing_is_asked(hub, tritter, checkpoint, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in tritter("push", checkpoint, "org/poet").error
    assert not hub.requests


def test_without_the_extra_the_command_says_how_to_get_it(tritter, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert "tritter-jax[hub]" in tritter("pull", "org/poet").error
