"""What users may write for a source, a target, a list of layers, a number of bytes."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tprog import SIZES, ModelConfig, UsageError, load_config, named_size
from tprog.config import DTYPES
from tprog.layout import CONFIG, newest

from tritter_jax.cli.output import err

if TYPE_CHECKING:
    from tprog.hub import HubId

MAX_SEED = (1 << 32) - 1
"""Largest seed: jax keeps 32 bits of it."""


def is_size(text: str) -> bool:
    """Whether a word is one of the named sizes."""
    return text.lower() in {name.lower() for name in SIZES}


def source_path(text: str, *, parts: Iterable[str] | None = None) -> Path:
    """The checkpoint a source means: a directory, for a named size the newest `*-{size}-*.tprog` here, or a model of
    the Hub, which is fetched into its cache.

    Args:
        text: what the user wrote.
        parts: of a model of the Hub, which parts are needed; all where left out.

    Raises:
        UsageError: there is none of these.
    """
    path = _expanded(text)
    if path.exists():
        return path
    if is_size(text):
        return newest(text)
    if (source := hub_source(text)) is not None:
        from tprog.hub import fetch

        try:
            return fetch(source, parts=parts)
        except UsageError as error:
            expected = f"a directory here, or {error.expected}"
            raise UsageError(text, expected=expected, got=error.got, remedy=error.remedy) from None
    raise UsageError(
        text,
        expected="a .tprog, a Hugging Face model directory, a named size, or org/name on the Hub",
        got="none of these",
        remedy="Check the path; `tritter sizes` lists the sizes.",
    )


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


def hub_source(text: str) -> "HubId | None":
    """The model of the Hub that a source means; None where it must be meant as a path.

    Example:
        >>> hub_source("org/model@main"), hub_source("runs/poet-3B-0.tprog")
        (HubId(repository='org/model', revision='main'), None)
    """
    from tprog.hub import HubId

    source = HubId.parse(text)
    if source is None or source.repository.endswith(".tprog") or Path(text.partition("/")[0]).exists():
        return None
    return source


def _expanded(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111 - pathlib's raises for an unknown user


def target_size(text: str) -> ModelConfig | Path:
    """A named size's configuration, or the path of a config.json."""
    path = _expanded(text)
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

    path = _expanded(text)
    if not path.is_file():
        return None
    record = read_json(path)
    return record if "layer_sources" in record else None


def target_for(source: ModelConfig, text: str, dtype: str | None) -> ModelConfig:
    """The configuration a source is to grow into.

    A named size sets the sizes and keeps everything else of the source. A config.json must agree in all that makes
    the function; what else it says is not taken over, which is said on standard error.

    Raises:
        ConfigError: no such size, or the file is no configuration.
    """
    from dataclasses import replace

    size = target_size(text)
    target = load_config(size) if isinstance(size, Path) else source.resized(size)
    for name in ("max_position_embeddings", "initializer_range", "extra") + (() if dtype else ("dtype",)):
        kept, asked = getattr(source, name), getattr(target, name)
        if kept != asked:
            what = "token ids and other fields" if name == "extra" else f"{name} {kept}, not {asked}"
            err().print(f"kept from the source: {what}", style="dim", markup=False)
    return replace(target, dtype=check_dtype(dtype) or source.dtype)


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
        raise UsageError("--dtype", expected=f"one of {', '.join(DTYPES)}", got=name, remedy="Choose one of those.")
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
