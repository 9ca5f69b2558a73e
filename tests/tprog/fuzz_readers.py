"""Coverage-guided fuzzing of everything that reads bytes which nobody vouches for.

    pip install atheris
    python -m tests.tprog.fuzz_readers -runs=1000000 -max_len=4096 -rss_limit_mb=512 -timeout=5

An input's first byte chooses the reader. Anything but a `TritterError` is a bug, and so is an accepted input that
breaks what its reader promises. Half of the changes are made to the JSON values, which changes of bytes seldom leave
well-formed. `test_fuzz.py` runs the same targets over random changes of the seeds, without atheris.
"""

import copy
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["tprog"]):
        import tprog.config_json
        import tprog.jsonio
        import tprog.paths
        import tprog.schema
        import tprog.tensorheader
else:
    import tprog.config_json
    import tprog.jsonio
    import tprog.paths
    import tprog.schema
    import tprog.tensorheader

from tprog.errors import TritterError

DIRECTORY = Path("/nowhere/checkpoint")


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


def config(data: bytes) -> None:
    """A configuration that is accepted is written and read again without a change."""
    first = tprog.config_json.config_from_json(tprog.jsonio.parse_json(data, "fuzz"))
    text = json.dumps(tprog.config_json.config_to_json(first), allow_nan=False)
    assert tprog.config_json.config_from_json(json.loads(text)) == first


def path(data: bytes) -> None:
    """A name that is accepted stays inside its directory."""
    found = tprog.paths.safe_file(DIRECTORY, data.decode("utf-8", "surrogateescape"))
    assert found.resolve().is_relative_to(DIRECTORY)


TARGETS: tuple[Callable[[bytes], None], ...] = (header, progressive, config, path)


VALUES = [
    None,
    True,
    0,
    -1,
    1,
    7,
    2**63,
    -(2**70),
    0.5,
    1e308,
    "",
    "a",
    "F32",
    "BF16",
    "\ud800",
    [],
    [0],
    [0, 8],
    {},
    {"a": 1},
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


def changed_json(data: bytes, chooser: random.Random) -> bytes:
    """An input whose JSON is changed as a value, and for a header mostly with the file length that then fits."""
    head = 3 if data[0] % len(TARGETS) == 0 else 1
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
        TARGETS[data[0] % len(TARGETS)](data[1:])
    except TritterError:
        return False
    return True


def seeds() -> list[bytes]:
    """Inputs that their readers accept."""
    entries = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.c": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
        "empty": {"dtype": "I64", "shape": [0, 7], "data_offsets": [26, 26]},
    }
    text = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    known = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 8192}  # fmt: skip
    llama = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100, "rope_scaling": known}  # fmt: skip
    examples = sorted(Path(__file__).with_name("data").glob("progressive_*.json"))
    return [
        b"\0" + (8 + len(text) + 26).to_bytes(2, "little") + text,
        *(b"\1" + json.dumps(json.loads(example.read_text())).encode() for example in examples),
        *(b"\2" + json.dumps(llama | {"model_type": kind}).encode() for kind in ("llama", "qwen2", "qwen3")),
        b"\3weights-00001-of-00002.safetensors",
    ]


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
