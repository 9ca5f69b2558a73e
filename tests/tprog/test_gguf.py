"""GGUF files, read back by gguf's own reader: every tensor, what describes it, and the tokenizer."""

import sys
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import transformers
from tprog import RopeScaling, hf_tensors
from tprog.errors import FormatError, UsageError
from tprog.gguf import export_gguf
from tprog.numpy import save
from tprog.reader import open_checkpoint
from tprog.wavelengths import inverse_wavelengths

from tests.cli.conftest import tritter  # noqa: F401
from tests.tprog.files import random_arrays
from tests.tprog.gguf_files import config_of, value
from tritter_jax.data import open_corpus, train_bpe

without_tokenizer = partial(export_gguf, tokenizer=False)


def made(directory: Path, config) -> Path:
    return save(directory / "m.tprog", random_arrays(config), config)


def hugging_face_names(config) -> dict[str, str]:
    """Names of a GGUF file's tensors for those of transformers, written out."""
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    layer = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{short}_proj": f"attn_{short}" for short in "qkv"},
        **{f"self_attn.{short}_norm": f"attn_{short}_norm" for short in "qk"},
        "self_attn.o_proj": "attn_output",
        **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
    }
    for i in range(config.num_layers):
        names |= {f"model.layers.{i}.{theirs}": f"blk.{i}.{ours}" for theirs, ours in layer.items()}
    return names


def unpermuted(name: str, array: np.ndarray, config) -> np.ndarray:
    """llama's query and key rows in the order of transformers: entry 2i + j of a head comes to jK/2 + i."""
    if config.family not in ("llama", "tritter") or ("attn_q." not in name and "attn_k." not in name):
        return array
    result = np.empty_like(array)
    width = config.head_dim
    for row in range(len(array)):
        head, entry = divmod(row, width)
        result[head * width + (entry % 2) * width // 2 + entry // 2] = array[row]
    return result


def read_back(path: Path, config) -> dict[str, tuple[gguf.GGMLQuantizationType, np.ndarray]]:
    """Tensors of a file by their names in transformers, as float32."""
    known = {ours: theirs for theirs, ours in hugging_face_names(config).items()}
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        stem, _, ending = tensor.name.rpartition(".")
        if stem == "rope_freqs":
            continue
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        found[f"{known[stem]}.{ending}"] = tensor.tensor_type, unpermuted(tensor.name, values, config)
    return found


CASES = {
    "tritter": {},
    "llama": {"tie_embeddings": True},
    "llama-bias": {"family": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "qwen3": {},
}


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_every_tensor_comes_back_as_it_was(tmp_path, case, stored):
    config = config_of(**({"family": case} | CASES[case]), dtype=stored)
    checkpoint = made(tmp_path, config)
    done = without_tokenizer(checkpoint, tmp_path / "m.gguf")
    found = read_back(done.path, config)
    expected = random_arrays(config)
    assert found.keys() == {tensor.name for tensor in hf_tensors(config)}
    for name, array in expected.items():
        assert np.array_equal(found[name][1], array.astype(np.float32)), name
    kinds = {kind.name for kind, array in found.values() if array.ndim == 2}
    assert kinds == {{"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F32"}[stored]}
    assert {kind.name for kind, array in found.values() if array.ndim == 1} == {"F32"}


def test_the_rotated_pairs_of_llama_lie_side_by_side(tmp_path):
    config = config_of("llama")
    done = without_tokenizer(made(tmp_path, config), tmp_path / "m.gguf")
    (raw,) = (t.data for t in gguf.GGUFReader(done.path).tensors if t.name == "blk.0.attn_q.weight")
    ours = random_arrays(config)["model.layers.0.self_attn.q_proj.weight"]
    assert not np.array_equal(raw, ours)
    assert np.array_equal(raw[:4], ours[[0, 8, 1, 9]])


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_narrow_types_stay_within_their_rounding(tmp_path, kind):
    config = config_of("qwen3")
    done = without_tokenizer(made(tmp_path, config), tmp_path / "m.gguf", type_=kind)
    found, expected = read_back(done.path, config), random_arrays(config)
    differ = 0
    for name, array in expected.items():
        got = found[name][1]
        if array.ndim == 1:
            assert np.array_equal(got, array)
            continue
        assert found[name][0].name == kind.upper()
        if kind == "q8_0":  # half a step of each block of 32, whose largest value is 127 steps, in float16
            blocks = array.reshape(-1, 32)
            step = np.abs(blocks).max(axis=1, keepdims=True) / 127
            assert (np.abs(got.reshape(-1, 32) - blocks) <= step * (0.5 + 127 * 2.0**-11) + 1e-7).all()
        else:
            assert (np.abs(got - array) <= np.abs(array) * {"f16": 2.0**-11, "bf16": 2.0**-8}[kind] + 1e-7).all()
        differ += not np.array_equal(got, array)
    assert differ
    assert done.otherwise == ()


def test_rows_that_are_no_whole_blocks_are_f16_and_told(tmp_path):
    config = config_of("llama", intermediate_size=80)
    done = without_tokenizer(made(tmp_path, config), tmp_path / "m.gguf", type_="q8_0")
    assert done.otherwise == ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")
    assert {kind.name for kind, _ in read_back(done.path, config).values()} == {"Q8_0", "F16", "F32"}


@pytest.mark.parametrize(("family", "arch"), [("tritter", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")])
def test_the_model_is_described(tmp_path, family, arch):
    config = config_of(family, rope_theta=12345.0, rope_scaling=RopeScaling.of("linear", factor=4.0))
    reader = gguf.GGUFReader(without_tokenizer(made(tmp_path, config), tmp_path / "m.gguf").path)
    assert value(reader, "general.architecture") == arch
    described = {
        "context_length": 4096,
        "embedding_length": 64,
        "block_count": 2,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "rope.dimension_count": 16,
        "rope.freq_base": 12345.0,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 4.0,
        "vocab_size": 17,
    }
    assert {key: value(reader, f"{arch}.{key}") for key in described} == described
    assert value(reader, f"{arch}.attention.layer_norm_rms_epsilon") == pytest.approx(config.norm_eps)
    assert value(reader, "tokenizer.ggml.model") == "none"


def test_the_stretching_of_llama3_is_a_tensor(tmp_path):
    numbers = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = RopeScaling.of("llama3", original_max_position_embeddings=64, **numbers)
    config = config_of("llama", rope_scaling=scaling)
    reader = gguf.GGUFReader(without_tokenizer(made(tmp_path, config), tmp_path / "m.gguf").path)
    (factors,) = (tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    plain = inverse_wavelengths(config_of("llama"))
    np.testing.assert_allclose(plain / factors, inverse_wavelengths(config), rtol=1e-6)
    assert factors.max() == 8.0
    with pytest.raises(UsageError, match="rope_scaling llama3"):
        without_tokenizer(made(tmp_path / "q", config_of("qwen2", rope_scaling=scaling)), tmp_path / "q.gguf")


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_transformers_reads_the_same_model(tmp_path, stored):
    """A reader that is neither ours nor the writer's: its own map of names and its own undoing of the permutation."""
    config = config_of("llama", dtype=stored, vocab_size=512)
    words = tmp_path / "words"
    train_bpe((document.text for document in open_corpus("builtin:prose")), 512).save(words)
    arrays = random_arrays(config)
    checkpoint = save(tmp_path / "m.tprog", arrays, config, tokenizer_from=words)
    export_gguf(checkpoint, tmp_path / "m.gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
    state = model.state_dict()
    assert {
        name: (state[name].float().numpy() == array.astype(np.float32)).all() for name, array in arrays.items()
    } == (dict.fromkeys(arrays, True))


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        ("mistral", {"sliding_window": 64}, "sliding_window"),
        ("bitnet", {}, "family bitnet"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
    ],
)
def test_what_gguf_cannot_hold_is_refused_by_name(tmp_path, family, fields, said):
    with pytest.raises(UsageError, match=said):
        without_tokenizer(made(tmp_path, config_of(family, **fields)), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("number", [1e6, np.nan, -np.inf])
def test_numbers_that_do_not_fit_are_refused(tmp_path, number):
    config = config_of("llama")
    arrays = random_arrays(config)
    arrays["lm_head.weight"][3, 3] = number
    checkpoint = save(tmp_path / "m.tprog", arrays, config)
    with pytest.raises(FormatError, match=r"lm_head\.weight"):
        without_tokenizer(checkpoint, tmp_path / "m.gguf", type_="f16")
    assert {path.name for path in tmp_path.iterdir()} == {"m.tprog"}


def test_the_command_takes_either_form_and_refuses_mistakes(tmp_path, tritter, monkeypatch):  # noqa: F811
    checkpoint = made(tmp_path, config_of("llama"))
    assert (
        tritter("export", checkpoint, "--gguf", "a.gguf", "--type", "q8_0", "--json", "--no-tokenizer").json["dtype"]
        == "q8_0"
    )
    assert tritter("export", checkpoint, "b.gguf", "--to", "gguf", "--type", "q8_0", "--no-tokenizer").code == 0
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert "--overwrite" in tritter("export", checkpoint, "--gguf", "a.gguf", "--no-tokenizer").error
    assert tritter("export", checkpoint, "--gguf", "a.gguf", "--overwrite", "--no-tokenizer").code == 0
    assert (
        "f32, f16, bf16, q8_0"
        in tritter("export", checkpoint, "--gguf", "c.gguf", "--type", "q4_0", "--no-tokenizer").error
    )
    assert "--gguf FILE" in tritter("export", checkpoint, "x", "--gguf", "c.gguf", "--no-tokenizer").error
    assert "Leave --type out" in tritter("export", checkpoint, "x", "--type", "f16").error
    assert (
        "outside the source" in tritter("export", checkpoint, "--gguf", checkpoint / "m.gguf", "--no-tokenizer").error
    )
    assert (
        "a path for a new"
        in tritter("export", checkpoint, "--gguf", tmp_path / "a.gguf" / "b.gguf", "--no-tokenizer").error
    )
    assert open_checkpoint(checkpoint).names
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "tritter-jax[gguf]" in tritter("export", checkpoint, "--gguf", "c.gguf", "--no-tokenizer").error
