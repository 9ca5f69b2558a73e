"""Checkpoints to a bucket and back on the command line, and URLs where a directory is meant."""

import fsspec
import pytest

URL = "memory://cli/a.tprog"


@pytest.fixture
def model(tritter, config_file, tmp_path):
    config_file()
    assert tritter("init", "--config", "small.json", "--out", "a.tprog").code == 0
    yield tmp_path / "a.tprog"
    files = fsspec.filesystem("memory")
    if files.exists("/cli"):
        files.rm("/cli", recursive=True)


def test_a_checkpoint_goes_there_and_comes_back(tritter, model, tmp_path):
    assert tritter("push", model, URL, "--json").json["path"] == URL
    assert "--overwrite" in tritter("push", model, URL).error
    assert tritter("push", model, URL, "--overwrite").code == 0
    assert "something there already" in tritter("pull", URL).error
    assert tritter("pull", URL, "b.tprog", "--json").json["path"] == str(tmp_path / "b.tprog")
    assert tritter("verify", "b.tprog").code == 0


def test_options_for_the_hub_are_refused(tritter, model):
    assert "Leave out all but --overwrite" in tritter("push", model, URL, "--private").error
    assert "Leave out all but --overwrite" in tritter("pull", URL, "--parts", "weights").error


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--set", "model.size=test", "--out", "gs://bucket/run"),
        ("expand", "--from", "a.tprog", "--to", "larger.json", "--out", "gs://bucket/b.tprog"),
        ("import", "a.tprog", "gs://bucket/b.tprog"),
    ],
)
def test_a_url_is_no_directory_here(tritter, model, config_file, tmp_path, arguments):
    config_file("larger.json", num_hidden_layers=3)
    error = tritter(*arguments).error
    assert "got a URL. Mount the bucket (gcsfuse)" in error
    assert ("output.checkpoints" if arguments[0] == "train" else "tritter push") in error
    assert not list(tmp_path.glob("gs*"))
