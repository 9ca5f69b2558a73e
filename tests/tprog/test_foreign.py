"""Directories as they are found: read as transformers reads them, or told as what they are, with the way out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import tprog.numpy
import transformers
from safetensors.numpy import load_file, save_file
from tprog.errors import FormatError, TritterError
from tprog.gguf_header import read_header
from tprog.hub_files import Listing, RemoteFile, check_parts
from tprog.huggingface import import_directory
from tprog.reader import open_checkpoint
from tprog.tensorfile import TensorFile
from tprog.verify import verify

from tests.support import odd_config, random_tokens, torch_model
from tests.tprog.files import assert_same_bits

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0a" * 32 + "\nsize 2471645608\n"
CONFIG = odd_config("llama", num_layers=2)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def saved(directory: Path, **changes: object) -> Path:
    torch_model(odd_config("llama", num_layers=2, **changes)).save_pretrained(directory)
    return directory


def rewritten(directory: Path, change) -> Path:
    """Another set of tensors in the place of those that were saved."""
    save_file(change(load_file(directory / "model.safetensors")), directory / "model.safetensors", {"format": "pt"})
    return directory


def in_two_shards(directory: Path, *stale: str) -> Path:
    """As two files, with an index that has further names for the second."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    place = {name: files[number % 2] for number, name in enumerate(sorted(tensors))}
    for file in files:
        save_file(
            {name: tensors[name] for name in tensors if place[name] == file}, directory / file, {"format": "pt"}
        )
    index = {"metadata": {"total_size": 1}, "weight_map": place | dict.fromkeys(stale, files[1])}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def head_for_embedding(tensors):
    return {HEAD if name == EMBEDDING else name: tensor for name, tensor in tensors.items()}


def without_base(tensors):
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def with_buffers(tensors):
    return tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(7, np.float32)}


def bare_buffers(tensors):
    return without_base(with_buffers(tensors))


BUFFER = "model.layers.1.self_attn.rotary_emb.inv_freq"


@pytest.mark.parametrize(
    ("tied", "change"),
    [
        (True, head_for_embedding),
        (True, without_base),
        (False, without_base),
        (True, bare_buffers),
        (True, lambda tensors: without_base(head_for_embedding(tensors))),
        (True, lambda tensors: in_two_shards_of(tensors)),
    ],
    ids=["head alone", "no base, tied", "no base, untied", "buffers too", "head alone, no base", "half with base"],
)
def test_weights_under_other_names_are_the_model_that_transformers_loads(tmp_path, tied, change):
    directory = saved(tmp_path / "hf", tie_embeddings=tied)
    whole = load_file(directory / "model.safetensors")
    rewritten(directory, change)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    theirs = {name: tensor.numpy() for name, tensor in loaded.state_dict().items() if not tied or name != HEAD}
    assert_same_bits(theirs, whole)
    checkpoint = open_checkpoint(directory)
    assert_same_bits(tprog.numpy.load(checkpoint), whole)
    assert verify(directory).ok
    path = import_directory(directory, tmp_path / "a.tprog")
    assert_same_bits(load_file(path / "weights.safetensors"), whole)
    again = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    tokens = torch.from_numpy(random_tokens(CONFIG)).long()
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, loaded(tokens).logits)


def in_two_shards_of(tensors):
    """Some of the names without their base."""
    return {name if number % 2 else name.removeprefix("model."): tensors[name] for number, name in enumerate(tensors)}


def test_pieces_and_files_are_those_of_the_names_in_the_table(tmp_path):
    directory = rewritten(saved(tmp_path / "hf"), without_base)
    checkpoint = open_checkpoint(directory)
    whole = np.concatenate(list(checkpoint.pieces(EMBEDDING)))
    assert whole.tobytes() == load_file(directory / "model.safetensors")["embed_tokens.weight"].tobytes()
    assert checkpoint.file_of(EMBEDDING).tensor(EMBEDDING).tobytes() == whole.tobytes()
    assert checkpoint.file_of(EMBEDDING).path.samefile(directory / "model.safetensors")


def test_a_name_with_and_without_its_base_is_refused(tmp_path):
    def twice(tensors):
        return tensors | {"norm.weight": tensors["model.norm.weight"] + 1}

    directory = rewritten(saved(tmp_path / "hf"), twice)
    with pytest.raises(FormatError, match=r"norm\.weight is unknown"):
        open_checkpoint(directory)


def test_an_untied_model_with_one_of_the_two_is_refused(tmp_path):
    directory = rewritten(
        saved(tmp_path / "hf"), lambda tensors: {k: v for k, v in tensors.items() if k != EMBEDDING}
    )
    with pytest.raises(FormatError, match=r"embed_tokens\.weight is missing"):
        open_checkpoint(directory)


@pytest.mark.parametrize("stale", [(HEAD,), (BUFFER,), (HEAD, BUFFER)])
def test_an_index_may_name_what_its_files_need_not_hold(tmp_path, stale):
    directory = saved(tmp_path / "hf", tie_embeddings=True)
    whole = load_file(directory / "model.safetensors")
    in_two_shards(directory, *stale)
    transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert_same_bits(tprog.numpy.load(open_checkpoint(directory)), whole)
    assert verify(directory).ok


@pytest.mark.parametrize(("tied", "stale"), [(False, "model.extra.weight"), (True, "model.norm.bias")])
def test_an_index_that_names_anything_else_is_refused(tmp_path, tied, stale):
    directory = in_two_shards(saved(tmp_path / "hf", tie_embeddings=tied), stale)
    with pytest.raises(FormatError, match=f"{stale} is not in model-00002"):
        open_checkpoint(directory)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_a_model_saved_inside_a_wrapper_is_told_in_one_paragraph(tmp_path, prefix):
    directory = rewritten(saved(tmp_path / "hf"), lambda tensors: {prefix + name: tensors[name] for name in tensors})
    with pytest.raises(FormatError, match="Save the model inside the wrapper") as caught:
        open_checkpoint(directory)
    assert prefix in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "special_tokens_map.json"])
def test_a_git_lfs_pointer_is_told_as_one(tmp_path, name):
    directory = saved(tmp_path / "clone")
    (directory / name).write_text(POINTER)
    for reader in (open_checkpoint, lambda path: import_directory(path, tmp_path / "a.tprog")):
        with pytest.raises(FormatError, match=r"a Git LFS pointer.*git lfs pull") as caught:
            reader(directory)
        assert name in str(caught.value)
    assert any("Git LFS" in str(finding) for finding in verify(directory).findings)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"<!DOCTYPE html>\n<html lang=en>" + b" " * 40, "a web page"),
        (b"GGUF\x03\0\0\0" + b"\0" * 40, "a GGUF file"),
        (b"PK\x03\x04" + b"\0\0\x08\x08" + b"x" * 40, "a pickle"),
        (b"\x80\x02}q\0(X\x0b\0\0\0" + b"x" * 40, "a pickle"),
    ],
)
def test_other_files_under_a_tensor_file_s_name_are_told_as_what_they_are(tmp_path, head, said):
    directory = saved(tmp_path / "hf")
    (directory / "model.safetensors").write_bytes(head)
    with pytest.raises(FormatError, match=said):
        open_checkpoint(directory)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    text = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(0x280)
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert (tmp_path / "a.safetensors").read_bytes().startswith(b"\x80\x02")
    assert list(TensorFile.open(tmp_path / "a.safetensors").specs) == ["x"]


ADAPTER = {"adapter_config.json": '{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": ""}
CHECKPOINTS = {f"checkpoint-{number}/config.json": "{}" for number in (500, 1000)}
ELSEWHERE = [
    (ADAPTER, ("an adapter", "merge_and_unload")),
    (ADAPTER | {"config.json": "{}"}, ("an adapter", "merge_and_unload")),
    ({"config.json": "{}", "consolidated.safetensors": ""}, ("consolidated.safetensors", "convert_")),
    ({"params.json": "{}", "consolidated.00.pth": ""}, ("consolidated.00.pth", "convert_")),
    ({"config.json": "{}", "pytorch_model-00001-of-00002.bin": ""}, ("a pickle", "save_pretrained")),
    ({"config.json": "{}", "model.pth": ""}, ("model.pth", "save_pretrained")),
    ({"config.json": "{}", "tf_model.h5": ""}, ("tf_model.h5", "from_tf")),
    ({"config.json": "{}", "flax_model.msgpack": ""}, ("flax_model.msgpack", "from_flax")),
    ({"config.json": "{}", "poet-q8_0.gguf": ""}, ("a GGUF file", "tritter import")),
    ({"poet-q8_0.gguf": ""}, ("a GGUF file", "tritter import poet-q8_0.gguf")),
    ({"config.json": "{}", **CHECKPOINTS}, ("checkpoint-500, checkpoint-1000", "/checkpoint-1000.")),
    (CHECKPOINTS, ("checkpoint-500, checkpoint-1000", "/checkpoint-1000.")),
    ({"a/config.json": "{}", "b/config.json": "{}"}, ("a, b", "Give one of them")),
    ({"refs/main": "x", "snapshots/0f1e/config.json": "{}"}, ("snapshots/0f1e", "Give one of them")),
    ({"model_index.json": "{}", "unet/config.json": "{}"}, ("a pipeline", "decoder-only")),
    ({"config.json": "{}", "weights-final.safetensors": ""}, ("weights-final.safetensors", "Rename")),
]


@pytest.mark.parametrize(("files", "said"), ELSEWHERE, ids=lambda value: " ".join(value))
def test_a_directory_without_our_weights_is_told_as_what_it_is(tmp_path, files, said):
    directory = tmp_path / "found"
    config = (saved(tmp_path / "hf") / "config.json").read_text()
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(config if name == "config.json" else text)
    with pytest.raises(FormatError) as caught:
        open_checkpoint(directory)
    assert len(str(caught.value).splitlines()) == 1
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(("files", "said"), ELSEWHERE, ids=lambda value: " ".join(value))
def test_a_repository_without_our_weights_is_told_as_what_it_is(files, said):
    remote = RemoteFile(size=1, sha256=None, blob="0")
    listing = Listing(commit="0", private=False, files=dict.fromkeys(files, remote))
    with pytest.raises(FormatError) as caught:
        listing.choose(check_parts(None), None, "org/model")
    assert said[0] in str(caught.value)


def test_an_adapter_beside_weights_is_refused(tmp_path):
    """transformers would load the adapter's base in their place where peft is installed."""
    directory = saved(tmp_path / "hf")
    assert open_checkpoint(directory)
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(FormatError, match="an adapter"):
        open_checkpoint(directory)


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_with_another_head_is_named(tmp_path, head, tied):
    config = torch_model(odd_config("llama", num_layers=2)).config
    config.tie_word_embeddings = tied
    getattr(transformers, f"LlamaFor{head}")(config).save_pretrained(tmp_path / "hf")
    with pytest.raises(FormatError, match=f"got those of LlamaFor{head}: .*Only models that predict the next token"):
        open_checkpoint(tmp_path / "hf")
    assert verify(tmp_path / "hf").findings
    with pytest.raises(FormatError, match=f"LlamaFor{head}"):
        import_directory(tmp_path / "hf", tmp_path / "a.tprog")


def test_architectures_alone_are_no_reason_to_refuse(tmp_path):
    """transformers reads the model as a language model whatever it says, and so do we where the tensors fit."""
    directory = saved(tmp_path / "hf")
    config = json.loads((directory / "config.json").read_text())
    for named in (["LlamaForTokenClassification"], ["LlamaModel"], "LlamaForCausalLM", None, [1, None]):
        (directory / "config.json").write_text(json.dumps(config | {"architectures": named}))
        assert open_checkpoint(directory)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("poet.gguf", b"GGUF\x03\0\0\0", "a GGUF file"),
        ("clone.gguf", POINTER.encode(), "git lfs pull"),
        ("poet.pt", b"PK\x03\x04", "a pickle"),
        ("model.safetensors", b"\x40\0\0\0\0\0\0\0{}", "Give the directory that holds it"),
        ("notes.txt", b"hello", "another kind of file"),
    ],
)
def test_a_file_in_place_of_a_directory_is_told_as_what_it_is(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(TritterError, match=said):
        open_checkpoint(tmp_path / name)
    if name != "poet.gguf":
        with pytest.raises(TritterError, match=said):
            read_header(tmp_path / name)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    directory = saved(tmp_path / "hf")
    plain = open_checkpoint(directory).config
    config = directory / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert open_checkpoint(directory).config == plain
    assert verify(directory).ok
    path = import_directory(directory, tmp_path / "a.tprog")
    assert (path / "config.json").read_bytes().startswith(b"{")
