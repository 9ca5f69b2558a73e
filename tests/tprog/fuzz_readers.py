"""Coverage-guided fuzzing of everything that reads bytes which nobody vouches for.

    pip install atheris
    python -m tests.tprog.fuzz_readers -runs=1000000 -max_len=16384 -rss_limit_mb=2048 -timeout=10
    FUZZ_ONLY=tokenizer,run python -m tests.tprog.fuzz_readers -seed=7 -max_total_time=300 -max_len=16384 -timeout=10

An input's first byte chooses the reader. Anything but a `TritterError` is a bug, and so is an accepted input that
breaks what its reader promises, and a message with a control character. Half of the changes are made to the JSON
values, which changes of bytes seldom leave well-formed. `test_fuzz.py` runs the same targets over random changes of
the seeds, without atheris.
"""

import contextlib
import copy
import dataclasses
import json
import math
import os
import random
import re
import struct
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import atheris

    instrumented = atheris.instrument_imports(include=["tprog", "tritter_jax.growth.record", "tritter_jax.report"])
else:
    instrumented = contextlib.nullcontext()

with instrumented:
    import tprog.bounds
    import tprog.card_sections
    import tprog.chat_templates
    import tprog.config_json
    import tprog.gguf_import
    import tprog.gguf_tokenizer
    import tprog.jsonio
    import tprog.parts
    import tprog.paths
    import tprog.schema
    import tprog.tensorheader
    import tprog.tokenizer
    from tprog.errors import TritterError

    import tritter_jax.cli.guide
    import tritter_jax.cli.info
    import tritter_jax.data.vocabulary
    import tritter_jax.growth.record
    import tritter_jax.report.axes
    import tritter_jax.report.facts
    import tritter_jax.train.config

DIRECTORY = Path("/nowhere/checkpoint")
SMALL = tprog.config_json.config_from_json(
    {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
     "num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 400}
)  # fmt: skip


def header(data: bytes) -> None:
    """Two bytes of file length, then a header; the views it allows lie inside the file and do not touch."""
    size = int.from_bytes(data[:2], "little")
    found = tprog.tensorheader.parse_header(data[2:], size, "fuzz")
    ends = [found.offsets[name] + spec.nbytes for name, spec in found.specs.items()]
    starts = list(found.offsets.values())
    assert starts == sorted(starts)
    assert starts[1:] == ends[:-1]
    assert not ends or (starts[0], ends[-1]) == (8 + len(data) - 2, size)


def progressive(data: bytes) -> None:
    """Metadata that is accepted is written and read again without a change."""
    first = tprog.schema.parse_progressive(tprog.jsonio.parse_json(data, "fuzz")).to_json()
    again = tprog.schema.parse_progressive(json.loads(json.dumps(first, allow_nan=False))).to_json()
    assert again == first
    tprog.jsonio.to_bytes(first)


def config(data: bytes) -> None:
    """A configuration that is accepted is written and read again without a change."""
    first = tprog.config_json.config_from_json(tprog.jsonio.parse_json(data, "fuzz"))
    text = tprog.jsonio.to_bytes(tprog.config_json.config_to_json(first))
    assert tprog.config_json.config_from_json(json.loads(text)) == first
    if first.num_layers < 64:
        tprog.sizes.size_label(first)
        list(tprog.hf_names.hf_tensors(first))


def path(data: bytes) -> None:
    """A name that is accepted stays inside its directory."""
    found = tprog.paths.safe_file(DIRECTORY, data.decode("utf-8", "surrogateescape"))
    assert found.resolve().is_relative_to(DIRECTORY)


def plans(data: bytes) -> None:
    """What is shown of a past, its plans among it: in `info`, in a card, in a report and by `tritter` alone."""
    known = tprog.schema.parse_progressive(tprog.jsonio.parse_json(data, "fuzz", tprog.bounds.METADATA))
    for entry in known.expansion_history:
        tritter_jax.cli.info._lineage(entry)
    tritter_jax.cli.guide._advice("a", known)
    tritter_jax.cli.guide._just_grown(known)
    tritter_jax.cli.guide._larger(known)
    tprog.card_sections._lineage(known.expansion_history)
    tprog.card_sections._new_layers(known.expansion_history)
    tprog.forgetting.forgetting_matrix(known.to_json().get("task_losses"))
    tritter_jax.report.facts._growths(known)
    for entry in known.expansion_history:
        growth = tritter_jax.report.facts._growth(entry, _grown())
        str(entry.exact), str(entry.drift)
        if growth.plan is not None:
            tritter_jax.report.axes.grown_axes(growth.plan)
        with contextlib.suppress(TritterError):
            tritter_jax.growth.record.plan_from_record(entry.plan or {}, _grown())


def tokenizer(data: bytes) -> None:
    """The files of a tokenizer by name, as one JSON object: read for training, for GGUF, and to be written."""
    files = tprog.jsonio.parse_json(data, "fuzz")
    with tempfile.TemporaryDirectory(dir=_memory()) as place:
        folder = Path(place)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.json"):
            if name in files:
                (folder / name).write_text(json.dumps(files[name]))
        found = tprog.tokenizer.tokenizer_files(folder)
        readers: list[Callable[[], Any]] = [
            lambda: tprog.chat_templates.read_chat_templates(found),
            lambda: tprog.gguf_tokenizer.read_vocabulary(found, SMALL).add_to(_Writer()),
            lambda: tritter_jax.data.vocabulary.load_tokenizer(folder).encode("a b"),
            lambda: _written(found),
        ]
        refused = []
        for reader in readers:
            try:
                reader()
            except TritterError as error:
                refused.append(error)
        if refused:
            raise refused[0]


def _written(found: dict[str, Path]) -> None:
    with tempfile.TemporaryDirectory(dir=_memory()) as place:
        tprog.tokenizer.write_tokenizer(Path(place), found)


def run(data: bytes) -> None:
    """A run's TOML that is accepted is validated again from its own values without a change."""
    with tempfile.NamedTemporaryFile(dir=_memory(), suffix=".toml") as file:
        Path(file.name).write_bytes(data)
        settings = tritter_jax.train.config.RunConfig.load(Path(file.name))
    again = settings.model_dump(by_alias=True)
    assert tritter_jax.train.config.RunConfig.parse(again) == settings
    json.dumps(settings.portable())


def optimizer(data: bytes) -> None:
    """Names of an optimizer's tensors, as a header has them: those that fit the table have its shapes."""
    found = tprog.tensorheader.parse_header(data[2:], int.from_bytes(data[:2], "little"), "fuzz")
    findings = tprog.parts.misfits("optimizer", found.specs, SMALL)
    shapes = {tensor.name: tensor.shape for tensor in tprog.hf_names.hf_tensors(SMALL)}
    for name, spec in [] if findings else found.specs.items():
        slot, _, tensor = name.partition(".")
        assert slot == tprog.parts.STEP or not slot.startswith("exp_avg") or spec.shape == shapes[tensor]
    if findings:
        raise tprog.errors.FormatError(
            "fuzz", expected="an optimizer", got=len(findings), remedy="-", findings=findings
        )


def gguf_file(data: bytes) -> None:
    """A GGUF file: its model, and its tokenizer, which goes into another such file as it is."""
    with tempfile.NamedTemporaryFile(dir=_memory(), suffix=".gguf") as file:
        Path(file.name).write_bytes(data)
        model = tprog.gguf_import.GGUFModel(tprog.gguf_header.read_header(Path(file.name)))
        for name, spec in model.specs.items():
            assert model.tensor(name).shape == spec.shape
        files = tprog.gguf_words.tokenizer_from_gguf(model.header, model.config.vocab_size)
    rules = tprog.tokenizer_rules.TokenizerRules.of(json.loads(files["tokenizer.json"]), Path("fuzz"))
    assert rules.merges or rules.tokens


class _Writer:
    """Takes what a GGUFWriter takes, and holds it to the types that it can store."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def check(*values: Any) -> None:
            kind = {"add_token_list": str, "add_token_merges": str, "add_token_types": int}.get(name)
            for value in values:
                assert value is not None, name
                assert kind is None or all(type(item) is kind for item in value), name
                assert not name.endswith("_token_id") or type(value) is int, name
                json.dumps(value, ensure_ascii=False).encode("utf-8")

        return check


@cache
def _grown() -> Any:
    return dataclasses.replace(SMALL, num_layers=3)


@cache
def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


TARGETS: tuple[Callable[[bytes], None], ...] = (
    *(header, progressive, config, path, plans, tokenizer, run, optimizer, gguf_file),
)
_ONLY = [name for name in os.environ.get("FUZZ_ONLY", "").split(",") if name]
_CHOSEN = tuple(target for target in TARGETS if not _ONLY or target.__name__ in _ONLY)
_WITH_LENGTH = (header, optimizer)
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


VALUES = [
    None,
    True,
    0,
    -1,
    1,
    7,
    2**63,
    -(2**70),
    10**400,
    0.5,
    1e308,
    "",
    "a",
    "F32",
    "BF16",
    "\ud800",
    "\x1b[2J",
    [],
    [0],
    [0, 8],
    [[]],
    {},
    {"a": 1},
    [{}],
]


def changed_value(value: Any, chooser: random.Random) -> Any:
    """A JSON value with one part of it replaced, removed, doubled or renamed."""
    if not isinstance(value, dict | list) or not value or chooser.random() < 0.1:
        if isinstance(value, int | float) and chooser.random() < 0.5:
            return value + chooser.choice((-1, 1, 8, -8))
        return copy.deepcopy(chooser.choice(VALUES))
    value = copy.copy(value)
    key = chooser.choice(list(value) if isinstance(value, dict) else range(len(value)))
    kind = chooser.randrange(8)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, list):
        value.insert(key, copy.deepcopy(value[key]))
    elif kind == 1:
        value[key + chooser.choice("_a\0")] = copy.deepcopy(value[key])
    else:
        value[key] = changed_value(value[key], chooser)
    return value


def target_of(data: bytes) -> Callable[[bytes], None]:
    """The reader that an input's first byte chooses."""
    return _CHOSEN[data[0] % len(_CHOSEN)]


def changed_json(data: bytes, chooser: random.Random) -> bytes:
    """An input whose JSON is changed as a value, and for a header mostly with the file length that then fits."""
    head = 3 if target_of(data) in _WITH_LENGTH else 1
    try:
        value = json.loads(data[head:])
    except (ValueError, RecursionError):
        return data
    text = json.dumps(changed_value(value, chooser)).encode()
    if head == 1 or chooser.random() < 0.2:
        return data[:head] + text
    size = int.from_bytes(data[1:3], "little") + len(text) - len(data[head:])
    return data[:1] + (size % 65536).to_bytes(2, "little") + text


def run_one(data: bytes) -> bool:
    """Give one input to the reader its first byte chooses; says whether it was accepted."""
    if not data:
        return False
    try:
        target_of(data)(data[1:])
    except TritterError as error:
        assert not _UNSAFE.search(str(error))
        assert len(str(error)) < 50_000
        return False
    return True


def seeds() -> list[bytes]:
    """Inputs that their readers accept."""
    found = []
    for number, target in enumerate(_CHOSEN):
        found += [bytes([number]) + content for content in _contents(target)]
    return found


def _gguf_file(kind: str) -> bytes:
    """A GGUF file of one layer with a tokenizer."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def stored(value: Any) -> bytes:
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        if isinstance(value, list):
            items = b"".join(stored(item)[4:] for item in value)
            return struct.pack("<I", 9) + stored(value[0])[:4] + struct.pack("<Q", len(value)) + items
        return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)

    words = (
        ["a", "b", "ab", *(f"<0x{byte:02X}>" for byte in range(256))] if kind == "llama" else ["a", "b", "ab", "</s>"]
    )
    sizes = {"context_length": 8, "embedding_length": 4, "block_count": 1, "feed_forward_length": 4}
    attention = {"head_count": 1, "layer_norm_rms_epsilon": 1e-5}
    fields: dict[str, Any] = {"general.architecture": "llama", "tokenizer.ggml.model": kind}
    fields |= {f"llama.{key}": value for key, value in sizes.items()}
    fields |= {f"llama.attention.{key}": value for key, value in attention.items()}
    fields |= {"tokenizer.ggml.tokens": words, "tokenizer.ggml.token_type": [1] * len(words)}
    fields |= {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.eos_token_id": 3}
    fields |= {"tokenizer.ggml.scores": [0.5] * len(words), "tokenizer.chat_template": "{{ messages }}"}
    tensors = {"token_embd.weight": (len(words), 4), "output_norm.weight": (4,)}
    tensors |= {f"blk.0.{name}_norm.weight": (4,) for name in ("attn", "ffn")}
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors |= {f"blk.0.{name}.weight": (4, 4) for name in matrices}
    found = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    found += b"".join(text(key) + stored(value) for key, value in fields.items())
    place = 0
    for name, shape in tensors.items():
        found += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        found += struct.pack("<IQ", 0, place)
        place += 4 * math.prod(shape)
    return found + b"\0" * (-len(found) % 32) + b"\0" * place


def _contents(target: Callable[[bytes], None]) -> list[bytes]:
    examples = [
        json.loads(each.read_text()) for each in sorted(Path(__file__).with_name("data").glob("progressive_*"))
    ]
    if target is header:
        return [_header({
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b.c": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
            "empty": {"dtype": "I64", "shape": [0, 7], "data_offsets": [26, 26]},
        })]  # fmt: skip
    if target is optimizer:
        norm = "model.norm.weight"
        return [_header({
            f"exp_avg.{norm}": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]},
            "step": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
            f"step.{norm}": {"dtype": "I64", "shape": [], "data_offsets": [40, 48]},
            "optax[1].x": {"dtype": "F32", "shape": [1], "data_offsets": [48, 52]},
        })]  # fmt: skip
    if target is progressive:
        return [json.dumps(example).encode() for example in examples]
    if target is config:
        known = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                 "original_max_position_embeddings": 8192}  # fmt: skip
        llama = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100,
                 "rope_scaling": known}  # fmt: skip
        return [json.dumps(llama | {"model_type": kind}).encode() for kind in ("llama", "qwen2", "qwen3", "mistral")]
    if target is plans:
        return [json.dumps(examples[0] | _past()).encode()]
    if target is tokenizer:
        return [
            json.dumps(_tokenizer(template)).encode() for template in ("{{ x }}", [{"name": "a", "template": "b"}])
        ]
    if target is gguf_file:
        return [_gguf_file(kind) for kind in ("gpt2", "llama")]
    if target is run:
        return [
            b'[model]\nsize = "test"\n[data]\ntrain = ["builtin:prose"]\n[optimizer]\nlearning_rate = 1e-3\n',
            b'[mesh]\ndata = -1\nrules = {heads = "none"}\n[ewc]\nlambda = 2.0\n[output]\ndirectory = "a"\n',
        ]
    return [b"weights-00001-of-00002.safetensors"]


def _header(entries: dict[str, Any]) -> bytes:
    text = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    end = max(entry["data_offsets"][1] for entry in entries.values())
    return (8 + len(text) + end).to_bytes(2, "little") + text


@cache
def _past() -> dict[str, Any]:
    """Two growths in depth and width with the plans that `tritter expand` records."""
    from tritter_jax.growth import make_plan, plan_to_record

    wide = dataclasses.replace(_grown(), hidden_size=16, num_heads=4, num_kv_heads=2)
    deeper, wider = make_plan(SMALL, _grown(), layers=[1]), make_plan(_grown(), wide)
    entry = {"from_size": "1K", "to_size": "2K", "method": "depth_upscaling", "tokens_after": 7,
             "guarantee": {"exact": True, "reason": "so"}, "measured_drift": {"max_relative": 1e-7}}  # fmt: skip
    losses = {"tasks": ["a", "b"], "losses": [[1.0, 2.0], [1.5, None]], "forgetting": 0.5}
    history = [entry | {"plan": plan_to_record(plan)} for plan in (deeper, wider, deeper.then(wider))]
    return {"expansion_history": history, "task_losses": losses}


def _tokenizer(template: Any) -> dict[str, Any]:
    from tritter_jax.data import byte_tokenizer

    with tempfile.TemporaryDirectory() as place:
        byte_tokenizer().save(place)
        rules = json.loads((Path(place) / "tokenizer.json").read_text())
    rules["model"]["vocab"] = dict(list(rules["model"]["vocab"].items())[:40])
    first, second, *_ = list(rules["model"]["vocab"])
    rules["model"]["vocab"][first + second] = max(rules["model"]["vocab"].values()) + 300
    rules["model"]["merges"] = [[first, second]]
    settings = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}, "chat_template": template}
    return {"tokenizer.json": rules, "tokenizer_config.json": settings, "special_tokens_map.json": {"eos_token": "a"}}


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """What atheris calls for a new input."""
    chooser = random.Random(seed)
    if data and chooser.random() < 0.5:
        return changed_json(data, chooser)[:max_size]
    return atheris.Mutate(data, max_size)


if __name__ == "__main__":
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, seed in enumerate(seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    words = sorted(
        {*tprog.tensorheader.BY_CODE, *tprog.schema.Progressive.model_fields, "NaN", "\\\\u0061", "data_offsets"}
    )
    (corpus.parent / f"{corpus.name}.dict").write_text("".join(f'"{word}"\n' for word in words))
    atheris.Setup([*sys.argv, f"-dict={corpus}.dict", str(corpus)], run_one, custom_mutator=mutate)
    atheris.Fuzz()
