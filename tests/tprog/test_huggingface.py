"""A .tprog is a Hugging Face directory: transformers loads it, and directories go in and out bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import tprog.flax
import tprog.numpy
import tprog.torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from tprog.errors import FormatError, UsageError
from tprog.huggingface import export_directory, export_torch, import_directory
from tprog.reader import open_checkpoint

from tests.support import odd_config, random_tokens, torch_model
from tests.tprog.files import assert_same_bits

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "bitnet"]
TIED = {"qwen3", "bitnet"}


def model_of(family: str, dtype: torch.dtype = torch.float32, **changes):
    """A random transformers model of plain linear layers, and our configuration of it."""
    ternary = {"ternary": False} if family == "bitnet" else {}
    config = odd_config(family, dtype=str(dtype).removeprefix("torch."), **(ternary | changes))
    return torch_model(config, dtype=dtype), config


def saved_model(directory: Path, family: str, *, shards: bool = False, **options):
    model, config = model_of(family, **options)
    # Bytes as transformers takes them: a text such as 20KB.
    model.save_pretrained(directory, max_shard_size="20KB" if shards else "5GB")
    return model, config


def logits(model, config) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(random_tokens(config)).long()).logits


def state(model) -> dict[str, np.ndarray]:
    tied = "lm_head.weight" if model.config.tie_word_embeddings else None
    return {name: tprog.torch.as_numpy(tensor) for name, tensor in model.state_dict().items() if name != tied}


@pytest.mark.parametrize("shard_size", [10**9, 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_a_tprog(tmp_path, family, dtype, shard_size):
    model, config = model_of(family, dtype, tie_embeddings=family in TIED)
    path = tprog.torch.save(tmp_path / "a.tprog", model, config, shard_size=shard_size)
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.dtype == dtype
    assert_same_bits(state(loaded), state(model))
    # The reference is loaded too: rotary frequencies are computed in float32 then, as they are for the other.
    model.save_pretrained(tmp_path / "reference")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "reference", attn_implementation="eager")
    assert torch.equal(logits(loaded, config), logits(reference, config))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_import_and_export_keep_every_bit(tmp_path, family, shards, tied):
    model, config = saved_model(tmp_path / "hf", family, shards=shards, tie_embeddings=tied)
    assert (len(list((tmp_path / "hf").glob("*.safetensors"))) > 1) == shards
    path = import_directory(tmp_path / "hf", tmp_path / "a.tprog", shard_size=20_000 if shards else 10**9)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.family == family
    assert checkpoint.config.tie_embeddings == tied
    assert_same_bits(tprog.numpy.load(checkpoint), state(model))
    back = export_directory(path, tmp_path / "back", shard_size=20_000 if shards else 10**9)
    assert {file.name for file in back.glob("*.safetensors")} != set()
    assert not list(back.glob("weights*")) and not (back / "progressive.json").exists()
    again = transformers.AutoModelForCausalLM.from_pretrained(back, attn_implementation="eager")
    assert_same_bits(state(again), state(model))
    assert torch.equal(logits(again, config), logits(model.eval(), config))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trees_of_jax_hold_the_same_bits(tmp_path, family):
    _, config = saved_model(tmp_path / "hf", family, dtype=torch.bfloat16)
    checkpoint = open_checkpoint(tmp_path / "hf")
    params = tprog.flax.load(checkpoint)
    path = tprog.flax.save(tmp_path / "a.tprog", params, checkpoint.config)
    assert_same_bits(tprog.numpy.load(path), tprog.numpy.load(checkpoint))
    assert open_checkpoint(path).config.dtype == config.dtype


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # transformers 5.23's ternary layer
def test_transformers_runs_a_ternary_tprog_on_ternary_weights(tmp_path):
    config = odd_config("bitnet")
    path = tprog.torch.save(tmp_path / "a.tprog", torch_model(config), config)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    assert type(loaded.model.layers[0].mlp.up_proj).__name__ == "AutoBitLinear"
    assert_same_bits(state(loaded), tprog.numpy.load(path))
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        tprog.torch.save(tmp_path / "b.tprog", torch_model(config), odd_config("bitnet", ternary=False)),
        attn_implementation="eager",
    )
    assert not torch.equal(logits(loaded, config), logits(plain, config))


def test_a_changed_bit_is_seen(tmp_path):
    """The comparison itself can fail."""
    model, config = saved_model(tmp_path / "hf", "llama")
    arrays = state(model)
    arrays["model.norm.weight"] = arrays["model.norm.weight"].copy()
    arrays["model.norm.weight"][0] *= 1.001
    path = tprog.numpy.save(tmp_path / "a.tprog", arrays, config)
    changed = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    assert not torch.equal(logits(changed, config), logits(model, config))
    with pytest.raises(AssertionError):
        assert_same_bits(state(changed), state(model))


def test_generation_config_is_kept_in_and_out(tmp_path):
    model, _ = model_of("llama")
    model.generation_config = transformers.GenerationConfig(do_sample=True, top_k=7)
    model.save_pretrained(tmp_path / "hf")
    path = import_directory(tmp_path / "hf", tmp_path / "a.tprog")
    back = export_directory(path, tmp_path / "back")
    for directory in (path, back):
        assert json.loads((directory / "generation_config.json").read_text())["top_k"] == 7


def tokenizer_in(directory: Path):
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(directory)
    return tokenizer


@pytest.mark.parametrize("with_map", [False, True])
def test_the_tokenizer_travels(tmp_path, with_map):
    saved_model(tmp_path / "hf", "llama")
    tokenizer = tokenizer_in(tmp_path / "hf")
    if with_map:
        (tmp_path / "hf" / "special_tokens_map.json").write_text('{"eos_token": "</s>", "bos_token": "<s>"}')
    path = import_directory(tmp_path / "hf", tmp_path / "a.tprog")
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens.json", "chat_template.jinja"} <= {
        file.name for file in (path / "tokenizer").iterdir()
    }
    assert json.loads((path / "tokenizer" / "special_tokens.json").read_text())["eos_token"] == "</s>"
    back = export_directory(path, tmp_path / "back")
    assert not (back / "special_tokens.json").exists()
    for loaded in (
        transformers.AutoTokenizer.from_pretrained(path, subfolder="tokenizer"),
        transformers.AutoTokenizer.from_pretrained(path / "tokenizer"),
        transformers.AutoTokenizer.from_pretrained(back),
    ):
        assert loaded("b a zzz").input_ids == tokenizer("b a zzz").input_ids == [4, 3, 2]
        assert loaded.special_tokens_map == tokenizer.special_tokens_map
        assert loaded.chat_template == tokenizer.chat_template
    again = import_directory(back, tmp_path / "b.tprog")
    for file in (path / "tokenizer").iterdir():
        assert (again / "tokenizer" / file.name).read_bytes() == file.read_bytes()


def test_a_tokenizer_that_is_a_link_out_is_refused(tmp_path):
    saved_model(tmp_path / "hf", "llama")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "hf" / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="a link to"):
        import_directory(tmp_path / "hf", tmp_path / "a.tprog")


@pytest.mark.parametrize("name", ["a.pt", "a.bin"])
def test_export_to_one_torch_file(tmp_path, name):
    model, _ = saved_model(tmp_path / "hf", "llama", dtype=torch.bfloat16)
    path = export_torch(tmp_path / "hf", tmp_path / name)
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert_same_bits({key: tprog.torch.as_numpy(value) for key, value in loaded.items()}, state(model))
    with pytest.raises(UsageError, match="--overwrite"):
        export_torch(tmp_path / "hf", path)
    assert export_torch(tmp_path / "hf", path, overwrite=True) == path
    assert {entry.name for entry in tmp_path.iterdir()} == {"hf", name}


def test_export_to_a_torch_directory_that_transformers_loads(tmp_path):
    model, config = saved_model(tmp_path / "hf", "qwen2", tie_embeddings=True)
    path = export_torch(tmp_path / "hf", tmp_path / "bin")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    assert torch.equal(logits(loaded, config), logits(model, config))


def test_export_is_whole_or_not_at_all(tmp_path, monkeypatch):
    saved_model(tmp_path / "hf", "llama")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tprog.huggingface.export_tokenizer", fail)
    with pytest.raises(KeyboardInterrupt):
        export_directory(tmp_path / "hf", tmp_path / "back")
    assert [entry.name for entry in tmp_path.iterdir()] == ["hf"]
