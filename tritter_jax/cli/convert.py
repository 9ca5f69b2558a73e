"""tritter import and tritter export: Hugging Face, PyTorch and Orbax, in and out."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from tprog import count_parameters
from tprog.layout import ORBAX_MARKER, ORBAX_PARAMS, SHARD_SIZE

from tritter_jax.cli.arguments import byte_count, source_path
from tritter_jax.cli.output import JsonOption, emit, stages

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")]
_SHARD_SIZE = f"{SHARD_SIZE // 10**9}GB"


class Destination(StrEnum):
    """What `tritter export` can write."""

    hf = "hf"
    torch = "torch"
    orbax = "orbax"


def import_(
    source: Annotated[str, typer.Argument(help="A Hugging Face model directory, or any checkpoint.")],
    destination: Annotated[Path, typer.Argument(help="The .tprog to write.")],
    shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = _SHARD_SIZE,
    overwrite: Overwrite = False,
    json: JsonOption = False,
) -> None:
    """Write a model directory, or what `tritter export --to orbax` wrote, as a .tprog; tensors stay bit-equal.

    Example: tritter import ./Llama-3.2-1B llama-1B-0.tprog
    """
    from tprog.huggingface import import_directory
    from tprog.reader import open_checkpoint

    directory, limit = source_path(source), byte_count(shard_size)
    with stages() as stage:
        stage("copying")
        if (directory / ORBAX_PARAMS / ORBAX_MARKER).is_file():
            from tritter_jax.train.checkpoint import import_orbax

            path = import_orbax(directory, destination, shard_size=limit, overwrite=overwrite)
        else:
            path = import_directory(directory, destination, shard_size=limit, overwrite=overwrite)
    config = open_checkpoint(path).config
    _report(path, "tprog", config.dtype, count_parameters(config), json)


def export(
    source: Annotated[str, typer.Argument(help="A .tprog, or a named size: the newest one here.")],
    destination: Annotated[Path, typer.Argument(help="The directory (or .pt file) to write.")],
    to: Annotated[Destination, typer.Option("--to", help="What to write.")] = Destination.hf,
    overwrite: Overwrite = False,
    json: JsonOption = False,
) -> None:
    """Write a checkpoint as a Hugging Face directory, a PyTorch state dict, or an Orbax checkpoint.

    Example: tritter export tritter-7B-0.tprog ./model --to hf
    """
    from tprog.reader import open_checkpoint

    checkpoint = open_checkpoint(source_path(source))
    with stages() as stage:
        stage("writing")
        if to is Destination.orbax:
            from tritter_jax.train.checkpoint import export_orbax

            path = export_orbax(checkpoint, destination, overwrite=overwrite)
        elif to is Destination.torch:
            from tprog.huggingface import export_torch

            path = export_torch(checkpoint, destination, overwrite=overwrite)
        else:
            from tprog.huggingface import export_directory

            path = export_directory(checkpoint, destination, overwrite=overwrite)
    _report(path, to.value, checkpoint.config.dtype, count_parameters(checkpoint.config), json)


def _report(path: Path, kind: str, dtype: str, parameters: int, json: bool) -> None:
    def render(console: Console) -> None:
        console.print(f"{path}: {kind}, {parameters:,} parameters, {dtype}", markup=False)

    emit({"path": str(path), "format": kind, "parameters": parameters, "dtype": dtype}, json, render)
