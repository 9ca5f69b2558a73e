"""GGUF files as checkpoints: what was exported comes back bit for bit, and what is broken is named."""

import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tprog import RopeScaling
from tprog.errors import ConfigError, FormatError, UsageError
from tprog.gguf import export_gguf
from tprog.gguf_import import import_gguf
from tprog.numpy import load, save
from tprog.reader import open_checkpoint
from tprog.verify import verify

from tests.cli.conftest import tritter  # noqa: F401
from tests.tprog.files import assert_same_bits, random_arrays
from tests.tprog.gguf_files import KINDS, config_of, prose, with_tokenizer

CASES = {
    "llama": {},
    "llama, tied": {"family": "llama", "tie_embeddings": True},
    "llama with biases": {"family": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"tie_embeddings": True},
}


@pytest.mark.parametrize(
    ("case", "stored"), [*((case, "bfloat16") for case in CASES), ("llama", "float32"), ("qwen3", "float16")]
)
def test_what_was_exported_comes_back_bit_for_bit(tmp_path, case, stored):
    fields = {"family": case} | CASES[case]
    config = config_of(**fields, dtype=stored, norm_eps=1e-6, rope_theta=54321.0, extra={"eos_token_id": 3})
    arrays = random_arrays(config)
    checkpoint = save(tmp_path / "m.tprog", arrays, config)
    export_gguf(checkpoint, tmp_path / "m.gguf", tokenizer=False)
    done = import_gguf(tmp_path / "m.gguf", tmp_path / "b.tprog", tokenizer=False)
    assert_same_bits(load(done.path), arrays)
    again, family = open_checkpoint(done.path).config, "llama" if case == "mistral" else config.family
    assert again == replace(config, family=family, extra={})
    assert done.types == ({"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[stored],)
    assert verify(done.path).ok


def test_norms_that_a_narrow_type_does_not_hold_stay_float32(tmp_path):
    config = config_of("llama", dtype="bfloat16")
    arrays = random_arrays(config) | {"model.norm.weight": np.full(64, 1.001, np.float32)}
    export_gguf(save(tmp_path / "m.tprog", arrays, config), tmp_path / "m.gguf", tokenizer=False)
    back = load(import_gguf(tmp_path / "m.gguf", tmp_path / "b.tprog", tokenizer=False).path)
    assert (back["model.norm.weight"] == np.float32(1.001)).all()
    assert back["model.embed_tokens.weight"].dtype == arrays["model.embed_tokens.weight"].dtype


LLAMA_31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SCALINGS = {
    "linear": RopeScaling.of("linear", factor=4.0),
    "llama 3.1": RopeScaling.of("llama3", **LLAMA_31),
    "llama 3.2": RopeScaling.of("llama3", **(LLAMA_31 | {"factor": 32.0})),
    "one pair in between": RopeScaling.of("llama3", **(LLAMA_31 | {"original_max_position_embeddings": 64})),
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("head_dim", [16, 64])
def test_the_stretching_of_the_rotary_embedding_comes_back(tmp_path, name, head_dim):
    fields = {"rope_scaling": SCALINGS[name], "rope_theta": 500_000.0 if "3." in name else 10_000.0}
    config = config_of("llama", head_dim=head_dim, **fields)
    export_gguf(save(tmp_path / "m.tprog", random_arrays(config), config), tmp_path / "m.gguf", tokenizer=False)
    back = open_checkpoint(import_gguf(tmp_path / "m.gguf", tmp_path / "b.tprog", tokenizer=False).path).config
    if head_dim == 64 or name != "llama 3.1":
        assert back.rope_scaling == config.rope_scaling
    from tprog.wavelengths import inverse_wavelengths

    np.testing.assert_allclose(inverse_wavelengths(back), inverse_wavelengths(config), rtol=1e-6)


def tokenizer_of(checkpoint: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_and_its_templates_come_back(tmp_path, kind):
    checkpoint = with_tokenizer(tmp_path, kind)
    folder = checkpoint / "tokenizer"
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    export_gguf(checkpoint, tmp_path / "m.gguf")
    path = import_gguf(tmp_path / "m.gguf", tmp_path / "b.tprog").path
    before, after = (
        tokenizers.Tokenizer.from_file(str(p / "tokenizer" / "tokenizer.json")) for p in (checkpoint, path)
    )
    for text in (prose()[:5000], "  <s>a\nb</s> 12 漢 \t", ""):
        assert after.encode(text).ids == before.encode(text).ids
        assert after.decode(after.encode(text).ids) == before.decode(before.encode(text).ids)
    assert after.get_vocab() == before.get_vocab()
    theirs = transformers.AutoTokenizer.from_pretrained(path / "tokenizer")
    assert theirs.chat_template == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    assert (theirs.bos_token, theirs.eos_token, theirs.unk_token) == ("<s>", "</s>", "<unk>")
    assert open_checkpoint(path).config.extra["eos_token_id"] == 2
    export_gguf(path, tmp_path / "again.gguf")
    one, other = (gguf.GGUFReader(tmp_path / name).fields for name in ("m.gguf", "again.gguf"))
    assert {key: one[key].contents() for key in one if key.startswith("tokenizer")} == {
        key: other[key].contents() for key in other if key.startswith("tokenizer")
    }


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_logits_are_those_of_transformers_reading_the_same_file(tmp_path, kind, tritter):  # noqa: F811
    checkpoint = with_tokenizer(tmp_path, "sentence-piece")
    export_gguf(checkpoint, tmp_path / "m.gguf", type_=kind)
    outcome = tritter("import", "m.gguf", "b.tprog")
    assert outcome.code == 0, outcome.err
    assert kind.upper() in outcome.out
    tokens = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = []
    for options in ({"gguf_file": "m.gguf"}, {}):
        path = tmp_path if options else tmp_path / "b.tprog"
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
        with torch.no_grad():
            logits.append(model(tokens).logits)
    assert torch.equal(*logits)


def written(path: Path, arch: str = "llama", **changes: object) -> Path:
    """A GGUF file by gguf's own writer: of one layer, with a byte-level tokenizer, and what is changed in it."""
    fields = {
        "context_length": 64, "embedding_length": 8, "block_count": 1, "feed_forward_length": 8,
        "attention.head_count": 2, "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": 4,
    }  # fmt: skip
    fields = {f"{arch}.{key}": number for key, number in fields.items()}
    fields |= {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": ["a", "b", "ab", "c"],
        "tokenizer.ggml.token_type": [1, 1, 1, 1], "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 3,
    }  # fmt: skip
    tensors: dict[str, object] = {"token_embd.weight": (4, 8), "output_norm.weight": (8,), "output.weight": (4, 8)}
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    layer = {"attn_norm": (8,), "ffn_norm": (8,)} | dict.fromkeys(matrices, (8, 8))
    tensors |= {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    writer = gguf.GGUFWriter(path, arch)
    for key, found in (fields | changes).items():
        if key in tensors or key.endswith(".weight"):
            tensors[key] = found
        elif isinstance(found, bool):
            writer.add_bool(key, found)
        elif isinstance(found, int):
            writer.add_uint32(key, found)
        elif isinstance(found, float):
            writer.add_float32(key, found)
        elif isinstance(found, str):
            writer.add_string(key, found)
        elif found is not None:
            writer.add_array(key, found)
    for name, shape in tensors.items():
        if shape is not None:
            writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_of_gguf_s_own_writer_is_read(tmp_path):
    path = import_gguf(written(tmp_path / "a.gguf"), tmp_path / "a.tprog").path
    checkpoint = open_checkpoint(path)
    assert (checkpoint.config.head_dim, checkpoint.config.rope_theta, checkpoint.config.norm_eps) == (
        4,
        10_000.0,
        1e-5,
    )
    assert not checkpoint.config.tie_embeddings
    assert tokenizers.Tokenizer.from_file(str(path / "tokenizer" / "tokenizer.json")).encode("abc").ids == [2, 3]
    tied = import_gguf(written(tmp_path / "t.gguf", **{"output.weight": None}), tmp_path / "t.tprog").path
    assert open_checkpoint(tied).config.tie_embeddings


SP = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0, 0.0, 1.0, 0.0]}
BOOK = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["a" * 10**6, *(f"<0x{number:02X}>" for number in range(256))],
    "tokenizer.ggml.scores": [0.0] * 257,
    "tokenizer.ggml.token_type": [1] * 257,
    "token_embd.weight": (257, 8),
    "output.weight": (257, 8),
}
BAD = {
    "another architecture": ({"arch": "gemma3"}, ConfigError, "architecture llama, qwen2, qwen3, got 'gemma3'"),
    "an adapter": ({"general.type": "adapter"}, ConfigError, "file of type 'adapter'"),
    "a part": ({"split.count": 3}, ConfigError, "llama-gguf-split --merge"),
    "no width": ({"llama.embedding_length": None}, FormatError, "llama.embedding_length"),
    "no epsilon": ({"llama.attention.layer_norm_rms_epsilon": None}, FormatError, "layer_norm_rms_epsilon"),
    "a width that is text": ({"llama.embedding_length": "8"}, FormatError, "a whole number, got '8'"),
    "heads by layer": ({"llama.attention.head_count": [2, 2]}, FormatError, "a whole number"),
    "experts": ({"llama.expert_count": 8}, ConfigError, "llama.expert_count 0, got 8"),
    "experts by layer": ({"llama.expert_count": [0, 8]}, ConfigError, "llama.expert_count 0, got array"),
    "a list of parts": ({"split.count": [1, 2]}, FormatError, "split.count: expected a whole number"),
    "a list of types": ({"general.type": ["model"]}, ConfigError, "file of type ['model']"),
    "a key that is not known": ({"llama.residual_scale": 2.0}, ConfigError, "residual_scale no such key"),
    "a window": ({"llama.attention.sliding_window": 16}, ConfigError, "sliding_window none, got 16"),
    "part of each head": ({"llama.rope.dimension_count": 2}, ConfigError, "rope.dimension_count 4, got 2"),
    "yarn": ({"llama.rope.scaling.type": "yarn"}, ConfigError, "none or linear, got 'yarn'"),
    "other rope factors": ({"rope_freqs.weight": (7,)}, ConfigError, "rope_freqs.weight"),
    "a width of 0": ({"llama.feed_forward_length": 0}, ConfigError, "intermediate_size"),
    "a million layers": ({"llama.block_count": 10**6}, ConfigError, "num_layers"),
    "a tensor less": ({"blk.0.attn_q.weight": None}, FormatError, "blk.0.attn_q.weight is missing"),
    "a tensor more": ({"blk.0.ffn_gate_exps.weight": (2, 2)}, FormatError, "ffn_gate_exps.weight is unknown"),
    "another shape": ({"blk.0.attn_q.weight": (8, 16)}, FormatError, "has shape [8, 16]"),
    "no embedding": ({"token_embd.weight": None}, FormatError, "token_embd.weight"),
    "one token twice": ({"tokenizer.ggml.tokens": ["a", "b", "ab", "a"]}, FormatError, "'a' twice"),
    "more tokens than rows": (
        {"tokenizer.ggml.tokens": list("abcde"), "tokenizer.ggml.token_type": [1] * 5}, FormatError, "1 to 4 tokens",
    ),
    "tokens that are numbers": ({"tokenizer.ggml.tokens": [1, 2, 3, 4]}, FormatError, "a list of text"),
    "types of another number": ({"tokenizer.ggml.token_type": [1]}, FormatError, "for each of 4 tokens"),
    "no merges": ({"tokenizer.ggml.merges": None}, FormatError, "tokenizer.ggml.merges"),
    "a merge of what is no token": ({"tokenizer.ggml.merges": ["a x"]}, FormatError, "'a x'"),
    "a merge of one": ({"tokenizer.ggml.merges": ["ab"]}, FormatError, "'ab'"),
    "an eos that is none": ({"tokenizer.ggml.eos_token_id": 9}, FormatError, "below 4, got 9"),
    "an eos that is text": ({"tokenizer.ggml.eos_token_id": "c"}, FormatError, "eos_token_id"),
    "a tokenizer of another kind": ({"tokenizer.ggml.model": "bert"}, UsageError, "--no-tokenizer"),
    "a rule that is not known": ({"tokenizer.ggml.pre": "kimi-k2"}, UsageError, "--no-tokenizer"),
    "no tokenizer": ({"tokenizer.ggml.model": None}, UsageError, "--no-tokenizer"),
    "no byte tokens": (SP, FormatError, "no <0x00>"),
    "a token that is a book": (BOOK, FormatError, "at most 512 characters, got 1000000"),
    "a hostile template": ({"tokenizer.chat_template.../../x": "x"}, FormatError, "letters and digits"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_read_is_refused_in_one_paragraph(tmp_path, case):
    changes, error, said = BAD[case]
    path = written(tmp_path / "a.gguf", **changes)
    with pytest.raises(error) as caught:
        import_gguf(path, tmp_path / "a.tprog")
    text = str(caught.value)
    assert said in text
    assert "\n" not in text or caught.value.findings
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.gguf"}


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    whole = written(tmp_path / "a.gguf").read_bytes()
    path = tmp_path / "b.gguf"
    for length in [*range(0, 200, 7), *range(200, len(whole) - 1, 211), len(whole) - 32]:
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"b\.gguf.*(cut off|GGUF)"):
            import_gguf(path, tmp_path / "b.tprog")


def damaged(whole: bytes, at: int, replacement: bytes) -> bytes:
    return whole[:at] + replacement + whole[at + len(replacement) :]


@pytest.mark.parametrize(
    ("at", "replacement", "said"),
    [
        (0, b"PK\x03\x04", "expected a GGUF file, got"),
        (4, struct.pack(">I", 3), "big-endian"),
        (4, struct.pack("<I", 1), "version 1"),
        (8, struct.pack("<Q", 2**60), "tensors, where at most"),
        (16, struct.pack("<Q", 2**60), "keys, where at most"),
        (24, struct.pack("<Q", 2**62), "a text of"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused_before_it_is_read(tmp_path, at, replacement, said):
    path = written(tmp_path / "a.gguf")
    path.write_bytes(damaged(path.read_bytes(), at, replacement))
    with pytest.raises(FormatError, match=said):
        import_gguf(path, tmp_path / "a.tprog")


def test_random_damage_never_gives_anything_but_our_own_errors(tmp_path):
    whole = written(tmp_path / "a.gguf").read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / "b.gguf"
    refused = 0
    for _ in range(100):
        data = bytearray(whole)
        for at in generator.integers(0, 1400, size=2):
            data[at] = int(generator.integers(256))
        path.write_bytes(data)
        try:
            import_gguf(path, tmp_path / "b.tprog", overwrite=True)
        except (FormatError, ConfigError, UsageError):
            refused += 1
    assert refused > 25


def test_the_command_says_what_to_do(tmp_path, tritter, monkeypatch):  # noqa: F811
    written(tmp_path / "a.gguf", **{"tokenizer.ggml.pre": "kimi-k2"})
    assert "--no-tokenizer" in tritter("import", "a.gguf", "a.tprog").error
    outcome = tritter("import", "a.gguf", "a.tprog", "--no-tokenizer", "--json")
    assert outcome.json["stored_in_gguf_as"] == ["F32"]
    assert not (tmp_path / "a.tprog" / "tokenizer").exists()
    assert "--overwrite" in tritter("import", "a.gguf", "a.tprog", "--no-tokenizer").error
    assert "a GGUF file to read" in tritter("import", "a.tprog", "b.tprog", "--no-tokenizer").error
    (tmp_path / "x.txt").write_text("hello")
    assert "a GGUF file" in tritter("import", "x.txt", "b.tprog").error
    assert "run directory" in tritter("import", "a.gguf", "b.tprog", "--step", "3").error
