"""Broken tensor files and broken directories, above a hundred of each, for every reader to refuse or take."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tprog.parts import Parts
from tprog.writer import write_checkpoint

from tests.tprog.files import entry, random_arrays, raw_file, small_config

HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\x00[red]\n" + "n" * 3000
NAMES = [
    HOSTILE,
    "",
    "a/../b",
    "/etc/passwd",
    "__metadata__x",
    "\u2028",
    "model.norm.weight",
    "x" * 100_000,
    "{layer}",
]
VALUES = [
    *(None, True, -1, 0.5, 2**63, 10**400, "F32", HOSTILE, "x" * 99),
    *([], [[]], [-1], [0.5], [True], [2**63], {}, {"a": {}}),
]
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "zeros": b"\0" * 64,
    "cut": b'{"a": [1, ',
    "list": b"[]",
    "number": b"7",
    "null fields": b'{"model": null, "weight_map": null, "format_version": null, "eos_token": null}',
    "many digits": b'{"format_version": "' + b"9" * 5000 + b'", "hidden_size": ' + b"9" * 4000 + b"}",
    "too many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "deep": b'{"a": ' + b"[" * 600 + b"]" * 600 + b"}",
    "too deep": b'{"a": ' * 50_000,
    "surrogate": rb'{"a": "\ud800", "model_type": "\udfff"}',
    "infinite": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "twice": b'{"a": 1, "a": 2}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "not utf-8": b'{"\xff\xfe": 1}',
    "hostile": json.dumps({HOSTILE: HOSTILE, "model_type": HOSTILE, "weight_map": {HOSTILE: HOSTILE}}).encode(),
    "wrong types": json.dumps({key: [1] for key in ("weight_map", "model", "eos_token", "chat_template")}).encode(),
}
FILES = (
    *("config.json", "progressive.json", "model.safetensors.index.json", "weights.safetensors"),
    *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "training/scheduler.json"),
    *("training/optimizer.safetensors", "ewc/fisher.safetensors"),
)


def tensor_files() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Name and writer of each broken tensor file."""
    good = entry(0, 4)
    for field in ("dtype", "shape", "data_offsets"):
        for number, value in enumerate(VALUES):
            yield f"{field} {number}", lambda path, f=field, v=value: raw_file(path, {"a": good | {f: v}}, b"\0" * 4)
    for number, value in enumerate(VALUES):
        yield f"entry {number}", lambda path, v=value: raw_file(path, {"a": v}, b"\0" * 4)
        yield f"metadata {number}", lambda path, v=value: raw_file(path, {"__metadata__": v, "a": good}, b"\0" * 4)
    for number, name in enumerate(NAMES):
        yield f"name {number}", lambda path, n=name: raw_file(path, {n: good}, b"\0" * 4)
    for name, text in TEXTS.items():
        yield f"text {name}", lambda path, t=text: path.write_bytes(t)
        yield f"header {name}", lambda path, t=text: raw_file(path, t, b"\0" * 4)
    for length in (0, 1, 2**31, 2**63, 2**64 - 1):
        yield f"length {length}", lambda path, n=length: raw_file(path, {"a": good}, b"\0" * 4, length=n)


def directories(root: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Name and maker of each broken directory; `root` holds the whole checkpoint that they are copies of."""
    for file in FILES:
        for name, text in TEXTS.items():
            yield (
                f"{file}: {name}",
                lambda path, f=file, t=text: _changed(root, path, f, lambda at: at.write_bytes(t)),
            )
        yield f"{file}: loop", lambda path, f=file: _changed(root, path, f, lambda at: at.symlink_to(at.name))
        yield (
            f"{file}: outside",
            lambda path, f=file: _changed(root, path, f, lambda at: at.symlink_to("/etc/passwd")),
        )
        yield f"{file}: folder", lambda path, f=file: _changed(root, path, f, lambda at: at.mkdir())
        yield f"{file}: pipe", lambda path, f=file: _changed(root, path, f, os.mkfifo)
        yield f"{file}: missing", lambda path, f=file: _changed(root, path, f, lambda at: None)


def whole(path: Path) -> Path:
    """A checkpoint with a file of every kind."""
    from tritter_jax.data import byte_tokenizer

    config = small_config(vocab_size=260)
    arrays = random_arrays(config)
    optimizer = {"exp_avg.model.norm.weight": np.zeros(12, np.float32), "step": np.array(1)}
    parts = Parts(scheduler={"a": 1}, optimizer=optimizer, fisher={"model.norm.weight": np.ones(12, np.float32)})
    byte_tokenizer().save(path.with_name("words"))
    return write_checkpoint(path, config, arrays, parts=parts, tokenizer_from=path.with_name("words"))


def _changed(root: Path, path: Path, file: str, change: Callable[[Path], object]) -> None:
    shutil.copytree(root, path)
    place = path / file
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    change(place)
