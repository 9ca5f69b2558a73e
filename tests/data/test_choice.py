"""Text is read with the tokenizer that belongs to a model or that was chosen, never with bytes for want of one."""

import json
import tomllib

import numpy as np
import pytest
from tprog import UsageError
from tprog.numpy import save
from tprog.reader import open_checkpoint

from tests.support import odd_config
from tests.tprog.files import random_arrays
from tritter_jax.data import byte_tokenizer, choose_tokenizer, train_bpe
from tritter_jax.train.config import RunConfig
from tritter_jax.train.evaluate import batches_of
from tritter_jax.train.setup import prepare


@pytest.fixture
def bare(tmp_path):
    """A checkpoint without a tokenizer."""
    config = odd_config("llama")
    return save(tmp_path / "bare.tprog", random_arrays(config), config)


@pytest.fixture
def words(tmp_path):
    """A tokenizer that is not bytes, in a directory."""
    return train_bpe(["low lower lowest slow slower"] * 2, 262).save(tmp_path / "words")


def test_a_model_without_a_tokenizer_is_not_read_as_bytes(bare, tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 100)
    with pytest.raises(UsageError, match=r"expected a tokenizer \(tokenizer.json\) to read text with, got none"):
        batches_of(open_checkpoint(bare), str(tmp_path / "a.txt"), batch_size=2, sequence_length=8)


@pytest.mark.parametrize("name", ["tekken.json", "tokenizer.model"])
def test_what_is_not_read_is_named_and_goes_along(bare, tmp_path, name):
    (bare / "tokenizer").mkdir()
    (bare / "tokenizer" / name).write_text("{}")
    checkpoint = open_checkpoint(bare)
    with pytest.raises(UsageError, match=rf"got {name} \(.*\) alone. Name one with --tokenizer DIR"):
        choose_tokenizer(checkpoint)
    again = save(tmp_path / "b.tprog", random_arrays(checkpoint.config), checkpoint.config, tokenizer_from=bare)
    assert name in open_checkpoint(again).tokenizer_files


def test_a_choice_goes_before_what_the_checkpoint_has(bare, words):
    checkpoint = open_checkpoint(bare)
    assert choose_tokenizer(checkpoint, "bytes").digest == byte_tokenizer().digest
    chosen = choose_tokenizer(checkpoint, str(words))
    assert chosen.vocab_size == 262
    both = save(bare.parent / "c.tprog", random_arrays(checkpoint.config), checkpoint.config, tokenizer_from=words)
    assert choose_tokenizer(open_checkpoint(both)).digest == chosen.digest
    assert choose_tokenizer(open_checkpoint(both), "bytes").digest == byte_tokenizer().digest


def settings(path, tmp_path, **data):
    (tmp_path / "text.txt").write_text("low lower lowest slow slower " * 200)
    data = {"train": str(tmp_path / "text.txt"), "sequence_length": 8, "cache": str(tmp_path / "cache")} | data
    return RunConfig.parse({"model": {"checkpoint": str(path)}, "data": data})


@pytest.fixture
def worded(tmp_path, words):
    """A checkpoint with a tokenizer of its own, and room for the bytes."""
    config = odd_config("llama", vocab_size=320)
    return save(tmp_path / "worded.tprog", random_arrays(config), config, tokenizer_from=words)


@pytest.mark.parametrize(
    ("asked", "used", "size"), [({}, "checkpoint", 262), ({"tokenizer": "bytes"}, "bytes", 320)], ids=["own", "bytes"]
)
def test_bytes_are_taken_where_they_are_asked_for_and_run_toml_names_them(worded, tmp_path, asked, used, size):
    run = prepare(settings(worded, tmp_path, **asked))
    assert run.tokenizer.vocab_size == size
    assert tomllib.loads(run.settings.to_toml())["data"]["tokenizer"] == used


def test_training_a_model_without_a_tokenizer_asks_for_one(bare, tmp_path):
    with pytest.raises(UsageError, match="--tokenizer bytes for a model that was trained on bytes"):
        prepare(settings(bare, tmp_path))


def test_a_new_model_reads_bytes_and_has_no_tokenizer_of_a_checkpoint(tmp_path):
    (tmp_path / "text.txt").write_text("text " * 200)
    data = {"train": str(tmp_path / "text.txt"), "sequence_length": 8, "cache": str(tmp_path / "cache")}
    run = prepare(RunConfig.parse({"model": {"size": "test"}, "data": data}))
    assert (run.tokenizer.vocab_size, run.settings.data.tokenizer) == (320, "bytes")
    with pytest.raises(UsageError, match="where no checkpoint is gone on from"):
        prepare(RunConfig.parse({"model": {"size": "test"}, "data": data | {"tokenizer": "checkpoint"}}))


def test_import_says_that_there_is_no_tokenizer_and_takes_one(monkeypatch, tmp_path, words, capsys):
    from safetensors.numpy import save_file
    from tprog import config_to_json

    from tritter_jax.cli.main import main

    config = odd_config("llama")
    source = tmp_path / "hf"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config_to_json(config)))
    arrays = {name: np.ascontiguousarray(array) for name, array in random_arrays(config).items()}
    save_file(arrays, source / "model.safetensors", metadata={"format": "pt"})

    def run(*words):
        monkeypatch.setattr("sys.argv", ["tritter", "import", str(source), *map(str, words), "--json"])
        capsys.readouterr()
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    assert run(tmp_path / "a.tprog")["no_tokenizer"] == "no tokenizer found"
    found = run(tmp_path / "b.tprog", "--tokenizer", words)
    assert "no_tokenizer" not in found
    assert choose_tokenizer(open_checkpoint(tmp_path / "b.tprog")).vocab_size == 262
    assert (
        choose_tokenizer(open_checkpoint(run(tmp_path / "c.tprog", "--tokenizer", "bytes")["path"])).vocab_size == 320
    )
