"""Files and directories of other kinds, recognised so that an error can say what they are and what to do."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_MOST_ENTRIES = 10_000
HEAD_BYTES = 64
"""How much of a file `foreign_file` looks at."""


@dataclass(frozen=True)
class Foreign:
    """What was found, and what to do about it; both for the text of an error."""

    got: str
    remedy: str


_LFS = Foreign("a Git LFS pointer, which stands for a file that was not fetched", "Run `git lfs pull` in its clone.")
_PAGE = Foreign("a web page", "Download the file itself: on the Hub the link with /resolve/ in place of /blob/.")
_GGUF = Foreign("a GGUF file", "Import it: `tritter import FILE.gguf DESTINATION`.")
_PICKLE = Foreign(
    "a pickle, which can run code when it is read",
    "If you trust it, load it with torch and transformers, and write it with `model.save_pretrained(DIRECTORY)`.",
)
_BY_HEAD = (
    (b"version https://git-lfs.github.com/spec/", _LFS),
    (b"<!doctype html", _PAGE),
    (b"<html", _PAGE),
    (b"gguf", _GGUF),
    (b"pk\x03\x04", _PICKLE),
    *((b"\x80" + bytes([protocol]), _PICKLE) for protocol in (2, 3, 4, 5)),
)
ADAPTER = "adapter_config.json"
"""Where this file lies, transformers loads the adapter and its base in place of the weights beside it."""
# Patterns of file names, and what a directory is that holds them and no weights of ours.
_BY_NAME = (
    (
        (ADAPTER, "adapter_model.safetensors", "adapter_model.bin"),
        "an adapter, which is no model without the one that it was trained on",
        "Merge the two: `from peft import AutoPeftModelForCausalLM as M; "
        "M.from_pretrained({where!r}).merge_and_unload().save_pretrained('merged')`.",
    ),
    (
        ("consolidated*.safetensors", "consolidated*.pth"),
        "{name}, weights under the names of the model's authors",
        "Fetch config.json and model*.safetensors from the same repository, or convert these weights with "
        "transformers' convert_*_weights_to_hf.py.",
    ),
    (
        ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt"),
        "{name}, a pickle, which can run code when it is read",
        "If you trust it, convert it: `from transformers import AutoModelForCausalLM as M; "
        "M.from_pretrained({where!r}, dtype='auto').save_pretrained('converted')`.",
    ),
    (
        ("tf_model*.h5", "flax_model*.msgpack", "*.onnx", "rust_model.ot", "openvino_model*.bin"),
        "{name}, weights of another framework",
        "Convert it to safetensors with the framework that wrote it, or with transformers 4 "
        "(`from_pretrained(..., from_flax=True)` or `from_tf=True`).",
    ),
    (("*.gguf",), "{name}, a GGUF file", "Import that file: `tritter import {name} DESTINATION`."),
    (
        ("model_index.json",),
        "a pipeline of several networks (model_index.json)",
        "Only decoder-only language models are supported.",
    ),
    (
        ("snapshots/*/config.json", "checkpoint-*/config.json", "*/config.json"),
        "directories with a model in each: {names}",
        "Give one of them, for example {folder}.",
    ),
    (
        ("*.safetensors",),
        "{name}, which is no name that loaders look for",
        "Rename it to model.safetensors if it holds the whole model.",
    ),
)


def foreign_file(head: bytes) -> Foreign | None:
    """What a file is that begins with these bytes, where it is of a kind that is often taken for another.

    Asked of what is found not to be a tensor file alone: the length of a header may have the bytes of a pickle.

    Example:
        >>> foreign_file(b"version https://git-lfs.github.com/spec/v1\\noid sha256:0a").remedy
        'Run `git lfs pull` in its clone.'
    """
    head = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return next((kind for begin, kind in _BY_HEAD if head.startswith(begin)), None)


def kind_of_file(path: Path) -> Foreign:
    """What a file is that was given where a directory, or a file of another kind, should be.

    Example:
        >>> kind_of_file(Path("model.safetensors")).got
        'a tensor file'
    """
    try:
        with path.open("rb") as file:
            kind = foreign_file(file.read(HEAD_BYTES))
    except OSError:
        kind = None
    if kind is None and path.suffix == ".safetensors":
        return Foreign("a tensor file", "Give the directory that holds it and its config.json.")
    return kind or Foreign("another kind of file", "Check the path.")


def foreign_names(names: Iterable[str], where: object) -> Foreign | None:
    """What a directory or repository without weights of ours is, by the relative names of its files.

    Args:
        names: of all its files, or of those at the top and each config.json below it.
        where: the directory, for the way out.

    Example:
        >>> foreign_names(["adapter_config.json", "adapter_model.safetensors"], "lora").got
        'an adapter, which is no model without the one that it was trained on'
    """
    names = sorted(names, key=_in_order)
    for patterns, got, remedy in _BY_NAME:
        found = [name for pattern in patterns for name in names if _fits(name, pattern)]
        if found:
            folders = list(dict.fromkeys(name.rpartition("/")[0] for name in found))
            shown = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
            said = {"where": str(where), "name": found[0], "names": shown, "folder": f"{where}/{folders[-1]}"}
            return Foreign(got.format(**said), remedy.format(**said))
    return None


def foreign_directory(directory: Path) -> Foreign | None:
    """The same of a directory here."""
    entries = list(itertools.islice(directory.iterdir(), _MOST_ENTRIES))
    names = [entry.name for entry in entries if entry.is_file()]
    for pattern in ("*/config.json", "snapshots/*/config.json"):
        found = itertools.islice(directory.glob(pattern), _MOST_ENTRIES)
        names += [path.relative_to(directory).as_posix() for path in found]
    return foreign_names(names, directory)


def other_head(architectures: object) -> str | None:
    """The class that `architectures` of a config.json names, where that is a model with a head of another kind.

    Example:
        >>> other_head(["LlamaForSequenceClassification"]), other_head(["LlamaForCausalLM"]), other_head(None)
        ('LlamaForSequenceClassification', None, None)
    """
    names = architectures if isinstance(architectures, list) else []
    known = [name for name in names if isinstance(name, str) and "For" in name]
    return known[0] if known and not any("ForCausalLM" in name for name in known) else None


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sorts checkpoint-500 before checkpoint-1000."""
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d{1,18})", name)]


def _fits(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)
