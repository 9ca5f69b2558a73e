"""tritter import and tritter export: Hugging Face, PyTorch, Orbax and runs, in and out."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from tprog import UsageError, count_parameters
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
    source: Annotated[
        str, typer.Argument(help="A Hugging Face model directory, a run of `tritter train`, or any checkpoint.")
    ],
    destination: Annotated[Path, typer.Argument(help="The .tprog to write.")],
    step: Annotated[int | None, typer.Option(help="Of a run: which of its checkpoints; the latest without.")] = None,
    shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = _SHARD_SIZE,
    overwrite: Overwrite = False,
    json: JsonOption = False,
) -> None:
    """Write a model directory, or what Orbax wrote, as a .tprog; tensors stay bit-equal.

    Of a run directory everything that training goes on from is kept.

    Example: tritter import ./Llama-3.2-1B llama-1B-0.tprog
    """
    from tprog.huggingface import import_directory
    from tprog.reader import open_checkpoint

    directory, limit = source_path(source), byte_count(shard_size)
    run = (directory / "run.toml").is_file() and (directory / "checkpoints").is_dir()
    if step is not None and not run:
        raise UsageError(
            "--step", expected="a run directory to choose a checkpoint of", got=directory, remedy="Leave --step out."
        )
    with stages() as stage:
        stage("copying")
        if run:
            from tritter_jax.train.exchange import import_run

            path = import_run(directory, destination, step=step, shard_size=limit, overwrite=overwrite)
        elif (directory / ORBAX_PARAMS / ORBAX_MARKER).is_file():
            from tritter_jax.train.checkpoint import import_orbax

            path = import_orbax(directory, destination, shard_size=limit, overwrite=overwrite)
        else:
            path = import_directory(directory, destination, shard_size=limit, overwrite=overwrite)
    config = open_checkpoint(path).config
    _report(path, "tprog", config.dtype, count_parameters(config), json)


def export(
    source: Annotated[str, typer.Argument(help="A .tprog, or a named size: the newest one here.")],
    destination: Annotated[Path | None, typer.Argument(help="The directory (or .pt file) to write.")] = None,
    to: Annotated[Destination, typer.Option("--to", help="What to write.")] = Destination.hf,
    orbax: Annotated[Path | None, typer.Option("--orbax", help="Short for DESTINATION --to orbax.")] = None,
    overwrite: Overwrite = False,
    json: JsonOption = False,
) -> None:
    """Write a checkpoint as a Hugging Face directory, a PyTorch state dict, or for Orbax.

    What `tritter train` wrote becomes for Orbax a run directory, which `tritter train --resume` goes on from.

    Example: tritter export tritter-7B-0.tprog ./model --to hf
    """
    from tprog.reader import open_checkpoint

    if (destination is None) == (orbax is None):
        raise UsageError(
            "DESTINATION", expected="one place to write to: DESTINATION, or --orbax DIR",
            got="none" if destination is None else "both", remedy="For example: tritter export a.tprog --orbax run",
        )  # fmt: skip
    if orbax is not None:
        destination, to = orbax, Destination.orbax
    assert destination is not None
    checkpoint = open_checkpoint(source_path(source))
    with stages() as stage:
        stage("writing")
        if to is Destination.orbax:
            from tritter_jax.train.checkpoint import export_orbax
            from tritter_jax.train.exchange import belongs_to_run, export_run

            write = export_run if belongs_to_run(checkpoint) else export_orbax
            path = write(checkpoint, destination, overwrite=overwrite)
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
