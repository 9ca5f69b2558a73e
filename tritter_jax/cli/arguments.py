"""What users may write for a source, a target, a list of layers, a number of bytes."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from tprog import ModelConfig, UsageError, load_config, locate, named_size
from tprog.config import DTYPES
from tprog.layout import CONFIG
from tprog.locate import hub_source, is_size, user_path

from tritter_jax.cli import completion
from tritter_jax.cli.output import err
from tritter_jax.cli.progress import aside

Source = Annotated[
    str,
    typer.Argument(
        help="A .tprog, a Hugging Face directory, org/name on the Hub, or a size: the most trained one here.",
        autocompletion=completion.sources,
    ),
]
"""A checkpoint that is read."""
Own = Annotated[
    str,
    typer.Argument(
        help="A checkpoint in a directory here, or a size: the most trained one here.",
        autocompletion=completion.sources,
    ),
]
"""A checkpoint that is written into."""

ReadWith = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Read text with this tokenizer instead of the checkpoint's: a tokenizer.json, a directory with one, "
        "org/name on the Hub, or bytes.",
    ),
]
"""A tokenizer chosen for text that is read; `tritter_jax.data.choose_tokenizer` finds it."""

MAX_SEED = (1 << 32) - 1
"""Largest seed: jax keeps 32 bits of it."""


def source_path(text: str, *, parts: Iterable[str] | None = None) -> Path:
    """The checkpoint a source means, as `tprog.locate.source_path` finds it, with the Hub's progress shown."""
    with aside():
        return locate.source_path(text, parts=parts)


def own_path(text: str) -> Path:
    """The checkpoint a source means, where a command writes into it: never a model in the Hub's cache.

    Raises:
        UsageError: there is none, or it lies on the Hub.
    """
    if (source := hub_source(text)) is not None:
        raise UsageError(
            text, expected="a directory here, which this writes into", got="none; perhaps a model of the Hub",
            remedy=f"Check the path, or run `tritter pull {source}` first.",
        )  # fmt: skip
    return source_path(text)


def target_size(text: str) -> ModelConfig | Path:
    """A named size's configuration, or the path of a config.json."""
    path = user_path(text)
    if is_size(text) and not path.is_file():
        return named_size(text)
    if path.is_dir():
        path = path / CONFIG
    if path.is_file():
        return path
    if path.suffix == ".json":
        raise UsageError(text, expected="a config.json", got="nothing there", remedy="Check the path.")
    return named_size(text)  # raises, naming the nearest size


def plan_record(text: str) -> dict[str, Any] | None:
    """What a plan that `tritter plan --save` wrote says; None where a target is anything else.

    Raises:
        FormatError: it is a file, and no JSON.
    """
    from tprog.jsonio import read_json

    path = user_path(text)
    if not path.is_file():
        return None
    record = read_json(path)
    return record if "layer_sources" in record else None


def target_for(source: ModelConfig, text: str, dtype: str | None, *, exact_shape: bool = False) -> ModelConfig:
    """The configuration a source is to grow into.

    A named size sets the sizes, fitted to the source by `named_target`, and keeps everything else of the source. A
    config.json must agree in all that makes the function; its other fields are ignored, as standard error says.

    Raises:
        ConfigError: no such size, or the file is no configuration.
        GrowthError: the source is as large as the named size.
        UsageError: an exact shape is asked for beside a config.json, which is one.
    """
    from dataclasses import replace

    size = target_size(text)
    if isinstance(size, Path):
        if exact_shape:
            raise UsageError("--exact-shape", expected="a named size", got=text, remedy=_EXACT_BESIDE_FILE)
        target = load_config(size)
    else:
        target = _named(source, text, exact_shape)
    for name in ("max_position_embeddings", "initializer_range", "extra") + (() if dtype else ("dtype",)):
        kept, asked = getattr(source, name), getattr(target, name)
        if kept != asked:
            what = "token ids and other fields" if name == "extra" else f"{name} {kept}, not {asked}"
            err().print(f"kept from the source: {what}", style="dim", markup=False)
    return replace(target, dtype=check_dtype(dtype) or source.dtype)


_EXACT_BESIDE_FILE = "Leave it out: a file is always taken as it is."


def _named(source: ModelConfig, name: str, exact_shape: bool) -> ModelConfig:
    from tritter_jax.growth.named_target import departures, named_target

    target = named_target(source, name, exact_shape=exact_shape)
    if line := departures(target, name):
        err().print(f"{line}; --exact-shape takes the table's shape or refuses", style="dim", markup=False)
    return target


def is_run_directory(path: Path) -> bool:
    """Whether a directory is one that `tritter train` made, told without loading what reads it."""
    return has(path, "run.toml") and has(path, "checkpoints")


def has(directory: Path, name: str) -> bool:
    """Whether a directory has something of that name; one that may not be looked into has nothing."""
    try:
        return (directory / name).exists()
    except OSError:
        return False


def output_file(path: Path) -> Path:
    """A file that is to be written, refused before any work is done for it.

    Raises:
        UsageError: it is a directory, its directory does not exist, or it cannot be written.
    """
    got = None
    if path.is_dir():
        got = "a directory"
    elif not path.parent.is_dir():
        got = f"{path.parent}, which is no directory"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        got = "one that is read-only"
    if got is not None:
        raise UsageError(path, expected="a file that can be written", got=got, remedy="Choose another path.")
    return path


def check_dtype(dtype: str | None) -> str | None:
    """A dtype's name, checked; the short forms bf16, fp16, fp32, fp64 are understood.

    Raises:
        UsageError: it is none that weights are stored in.

    Example:
        >>> check_dtype("bf16")
        'bfloat16'
    """
    short = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
    name = short.get(dtype or "", dtype)
    if name is not None and name not in DTYPES:
        raise UsageError.unknown("--dtype", name, DTYPES)
    return name


def layer_list(text: str | None) -> list[int] | None:
    """Layers as `13-18` or `2,5,9-11`.

    Raises:
        UsageError: it is not a list of numbers and ranges.

    Example:
        >>> layer_list("2,5,9-11")
        [2, 5, 9, 10, 11]
    """
    if text is None:
        return None
    layers: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise UsageError(
                "--layers", expected="numbers and ranges such as 13-18 or 2,5,9-11", got=repr(text),
                remedy="Layers count from 0.",
            )  # fmt: skip
        layers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return layers


def byte_count(text: str) -> int:
    """A number of bytes with a decimal or binary unit.

    Raises:
        UsageError: it is not one.

    Example:
        >>> byte_count("5GB"), byte_count("64MiB")
        (5000000000, 67108864)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise UsageError("--shard-size", expected="a size such as 5GB or 500MiB", got=repr(text), remedy="Mend it.")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))
