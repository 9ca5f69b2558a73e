"""What is published fits the bounds on size, and files that are no part of a model are no reason to fail it."""

import json
import subprocess
import sys

import pytest
from tprog import bounds
from tprog.bounds import HEADER, INDEX, JSON, LARGEST_KNOWN, MAX_TOKENIZER_BYTES, Bound, bound_of
from tprog.errors import FormatError
from tprog.hub_files import Listing, RemoteFile, check_parts
from tprog.huggingface import export_directory, import_directory
from tprog.jsonio import check_large_json, read_json
from tprog.reader import open_checkpoint
from tprog.verify import verify
from tprog.weights import read_index

from tests.support import odd_config, torch_model

TOKENIZER = Bound(nbytes=MAX_TOKENIZER_BYTES, values=0)


@pytest.fixture
def model(tmp_path):
    torch_model(odd_config("llama", num_layers=2)).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def tokenizer_json(words: int, merges: int, indent: int | None = 2) -> str:
    """A BPE tokenizer as tokenizers 0.20 writes it: each merge is a list of two."""
    vocabulary = {f"t{number:05d}": number for number in range(words)}
    pairs = [[f"a{number % 9999:04d}", f"b{number // 9:05d}"] for number in range(merges)]
    whole = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": pairs}}
    return json.dumps(whole, indent=indent)


@pytest.mark.parametrize("name", LARGEST_KNOWN)
def test_the_largest_known_of_each_kind_fits_four_times(name):
    nbytes, values = LARGEST_KNOWN[name]
    bound = {"header": HEADER, "tokenizer.json": TOKENIZER, "tekken.json": TOKENIZER}.get(name) or bound_of(name)
    assert bound.nbytes >= 4 * nbytes
    assert bound.values >= 4 * values
    assert f"{nbytes / 1e6:.3g} MB".replace("19.4", "19") in bounds.__doc__


@pytest.mark.parametrize(("words", "merges", "indent"), [(128_000, 280_147, 2), (262_144, 514_906, None)])
def test_a_tokenizer_as_llama_3_and_gemma_3_have_it_passes_in_and_out(tmp_path, model, words, merges, indent):
    text = tokenizer_json(words, merges, indent)
    assert len(text) > 16 << 20 or text.count(",") > JSON.values
    (model / "tokenizer.json").write_text(text)
    path = import_directory(model, tmp_path / "a.tprog")
    back = export_directory(path, tmp_path / "back")
    for directory in (model, path, back):
        assert verify(directory).ok, directory
    assert (back / "tokenizer.json").read_bytes() == text.encode()


@pytest.mark.parametrize("text", ["", "[" + "1," * 9 + "1]", "{" + '"a": 1' * 3, "version https://git-lfs"])
@pytest.mark.parametrize("size", [0, 17 << 20])
def test_a_tokenizer_that_is_no_json_object_is_found(model, text, size):
    (model / "tokenizer.json").write_text(text + " " * size)
    assert [finding.file for finding in verify(model).findings] == ["tokenizer.json"]


def test_a_tokenizer_cut_short_is_found(model):
    whole = tokenizer_json(128_000, 280_147)
    (model / "tokenizer.json").write_text(whole[:-1000])
    assert [finding.file for finding in verify(model).findings] == ["tokenizer.json"]


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_a_tokenizer_beyond_the_bound_is_refused_before_it_is_read(model, name):
    with (model / name).open("wb") as file:
        file.truncate(MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(FormatError, match="at most 268435456 bytes"):
        open_checkpoint(model)
    with pytest.raises(FormatError, match="at most 268435456 bytes"):
        check_large_json(model / name, MAX_TOKENIZER_BYTES)


def test_an_index_of_a_published_size_is_read_and_one_beyond_is_not(tmp_path):
    names = {
        f"model.layers.{n}.mlp.experts.0.gate_proj.weight": "model-00001-of-00062.safetensors" for n in range(209_000)
    }
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert len(read_index(path)) == 209_000
    with path.open("wb") as file:
        file.truncate(INDEX.nbytes + 1)
    with pytest.raises(FormatError, match="at most"):
        read_index(path)


READ_A_HEADER = """
import numpy as np
from tprog.tensorheader import TensorSpec, build_header, parse_header
names = [f"model.layers.{n}.mlp.experts.0.gate_proj.qweight" for n in range(4 * 18_700)]
head, _ = build_header(dict.fromkeys(names, TensorSpec(np.dtype("int8"), (1,))), {"format": "pt"})
assert len(parse_header(head[8:], len(head) + len(names), "x").specs) == len(names)
"""


def test_a_header_of_four_times_the_largest_published_is_written_and_read():
    """In a process of its own: where annotations are checked each entry takes two milliseconds."""
    subprocess.run([sys.executable, "-c", READ_A_HEADER], check=True)


def test_a_config_beyond_the_bound_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{" + ",".join(f'"f{number}": 0' for number in range(bound_of("config.json").values + 1)) + "}")
    with pytest.raises(FormatError, match="more than 180000 values"):
        read_json(path)


STRANGERS = {
    "trainer_state.json": '{"best_metric": NaN, "log_history": [{"loss": Infinity}]}',
    "modules.json": '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]',
    "all_results.json": '{"perplexity": Infinity}',
    "1_Pooling/config.json": "[]",
    "checkpoint-500/trainer_state.json": '{"loss": NaN}',
    "checkpoint-500/model.safetensors": "cut short",
    "onnx/decoder.safetensors": "not one",
    "consolidated.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    ".cache/huggingface/x.json": "nothing",
}


def with_strangers(directory):
    for name, text in STRANGERS.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def test_files_that_are_no_part_of_the_model_are_passed_over(tmp_path, model):
    alone = verify(model)
    whole = verify(with_strangers(model))
    assert whole.ok, whole.findings
    assert (whole.files, whole.nbytes, whole.tensors) == (alone.files, alone.nbytes, alone.tensors)
    path = import_directory(model, tmp_path / "a.tprog")
    assert verify(path).ok
    remote = RemoteFile(size=1, sha256=None, blob="0")
    files = dict.fromkeys([*STRANGERS, "config.json", "model.safetensors"], remote)
    chosen = Listing(commit="0", private=False, files=files).choose(check_parts(None), None, "org/model")
    assert set(chosen) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    "name", ["generation_config.json", "tokenizer_config.json", "model.safetensors", "config.json"]
)
def test_a_broken_file_of_the_model_is_found_among_them(model, name):
    (with_strangers(model) / name).write_text('{"x": NaN}')
    findings = verify(model).findings
    assert name in {finding.file for finding in findings}


def test_code_and_weights_that_are_not_on_record_are_found_anywhere_in_a_checkpoint(tmp_path, model):
    path = import_directory(model, tmp_path / "a.tprog")
    (path / "extra").mkdir()
    for name in ("hidden.safetensors", "extra/run.py", "extra/more.safetensors"):
        (path / name).write_bytes(b"")
    found = {finding.file: finding.problem for finding in verify(path).findings}
    assert found == dict.fromkeys(
        ("extra/more.safetensors", "extra/run.py", "hidden.safetensors"), "is there, but not on record"
    )
