"""tritter import and tritter export: Hugging Face, PyTorch, Orbax and runs, in and out."""

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from tprog import UsageError, count_parameters
from tprog.layout import ORBAX_MARKER, ORBAX_PARAMS, SHARD_SIZE, TOKENIZER_JSON
from tprog.tokenizer import unread_tokenizer

from tritter_jax.cli.arguments import Source, byte_count, is_run_directory, source_path
from tritter_jax.cli.output import emit, tell_code
from tritter_jax.cli.progress import stages

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")]
_SHARD_SIZE = f"{SHARD_SIZE // 10**9}GB"


class Destination(StrEnum):
    """What `tritter export` can write."""

    hf = "hf"
    torch = "torch"
    orbax = "orbax"
    gguf = "gguf"


def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face model directory, a run of `tritter train`, a GGUF file, or any checkpoint."
        ),
    ],
    destination: Annotated[Path, typer.Argument(help="The .tprog to write.")],
    step: Annotated[int | None, typer.Option(help="Of a run: which of its checkpoints; the latest without.")] = None,
    shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = _SHARD_SIZE,
    no_tokenizer: Annotated[
        bool, typer.Option("--no-tokenizer", help="Leave the tokenizer of a GGUF file out.")
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Take this tokenizer along, not the source's: a tokenizer.json, a directory with one, org/name "
            "on the Hub, or bytes."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model directory, a GGUF file, or what Orbax wrote, as a .tprog; tensors stay bit-equal.

    Of a run directory everything that training goes on from is kept. Quantised weights of a GGUF file become float32.

    Examples:
        tritter import ./Llama-3.2-1B llama-1B-0.tprog
        tritter import model.gguf model.tprog
        tritter import runs/a a.tprog --step 100
    """
    from tprog.huggingface import import_directory
    from tprog.reader import open_checkpoint

    directory, limit = source_path(source), byte_count(shard_size)
    run = is_run_directory(directory)
    if step is not None and not run:
        raise UsageError(
            "--step", expected="a run directory to choose a checkpoint of", got=directory, remedy="Leave --step out."
        )
    file = directory.is_file()
    if no_tokenizer and not file:
        raise UsageError("--no-tokenizer", expected="a GGUF file to read", got=directory, remedy="Leave it out.")
    orbax = (directory / ORBAX_PARAMS / ORBAX_MARKER).is_file()
    if tokenizer is not None and (run or orbax or no_tokenizer):
        raise UsageError(
            "--tokenizer", expected="a model directory or a GGUF file, and no --no-tokenizer",
            got="--no-tokenizer" if no_tokenizer else directory, remedy="Leave --tokenizer out.",
        )  # fmt: skip
    notes: dict[str, Any] = {}
    with stages() as stage, _chosen(tokenizer) as folder:
        stage("copying")
        if file:
            from tprog.gguf_import import import_gguf

            done = import_gguf(
                directory, destination, tokenizer=not no_tokenizer, tokenizer_from=folder, shard_size=limit,
                overwrite=overwrite,
            )  # fmt: skip
            path, notes = done.path, {"stored_in_gguf_as": list(done.types)}
        elif run:
            from tritter_jax.train.exchange import import_run

            path = import_run(directory, destination, step=step, shard_size=limit, overwrite=overwrite)
        elif orbax:
            from tritter_jax.train.orbax_export import import_orbax

            path = import_orbax(directory, destination, shard_size=limit, overwrite=overwrite)
        else:
            path = import_directory(
                directory, destination, shard_size=limit, overwrite=overwrite, tokenizer_from=folder
            )
            tell_code(directory, "left out, as code does not come along")
    done = open_checkpoint(path)
    if not no_tokenizer and TOKENIZER_JSON not in done.tokenizer_files:
        unread = unread_tokenizer(done.tokenizer_files)
        notes["no_tokenizer"] = f"{unread}, which is kept and not read here" if unread else "no tokenizer found"
    _report(path, "tprog", done.config.dtype, count_parameters(done.config), **notes)


def _chosen(tokenizer: str | None) -> AbstractContextManager[Path | None]:
    if tokenizer is None:
        return nullcontext()
    from tritter_jax.data.choice import tokenizer_folder

    return tokenizer_folder(tokenizer)


def export(
    source: Source,
    destination: Annotated[Path | None, typer.Argument(help="The directory (or .pt or .gguf file) to write.")] = None,
    to: Annotated[Destination, typer.Option("--to", help="What to write.")] = Destination.hf,
    orbax: Annotated[Path | None, typer.Option("--orbax", help="Short for DESTINATION --to orbax.")] = None,
    gguf: Annotated[Path | None, typer.Option("--gguf", help="Short for DESTINATION --to gguf.")] = None,
    gguf_type: Annotated[
        str | None,
        typer.Option("--type", help="Of a GGUF file's weights: f32, f16, bf16 or q8_0; default the source's dtype."),
    ] = None,
    no_tokenizer: Annotated[
        bool, typer.Option("--no-tokenizer", help="Leave the tokenizer out of a GGUF file; it then takes no text.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a checkpoint as a Hugging Face directory, a PyTorch state dict, a GGUF file, or for Orbax.

    transformers loads a .tprog as it is; mlx-lm, and others that read nothing but model*.safetensors, need --to hf.
    What `tritter train` wrote becomes for Orbax a run directory, which `tritter train --resume` goes on from.

    Examples:
        tritter export tritter-7B-0.tprog ./model --to hf
        tritter export tritter-7B-0.tprog --gguf model.gguf --type q8_0
    """
    from tprog.reader import open_checkpoint

    places = ((to, destination), (Destination.orbax, orbax), (Destination.gguf, gguf))
    given = [(kind, place) for kind, place in places if place is not None]
    if len(given) != 1:
        raise UsageError(
            "DESTINATION", expected="one place to write to: DESTINATION, --orbax DIR or --gguf FILE",
            got=len(given) or "none", remedy="For example: tritter export a.tprog --orbax run",
        )  # fmt: skip
    kind, place = given[0]
    if to not in (Destination.hf, kind):
        raise UsageError(
            f"--to {to.value}",
            expected="a DESTINATION beside it",
            got=f"--{kind.value}",
            remedy="Leave one of them out.",
        )
    to = kind
    if gguf_type is not None and to is not Destination.gguf:
        raise UsageError(
            "--type", expected="a GGUF file to write", got=f"--to {to.value}", remedy="Leave --type out."
        )
    if no_tokenizer and to is not Destination.gguf:
        raise UsageError(
            "--no-tokenizer", expected="a GGUF file to write", got=f"--to {to.value}", remedy="Leave it out."
        )
    parts = ("tokenizer",) if to is not Destination.orbax else None
    checkpoint = open_checkpoint(source_path(source, parts=parts))
    dtype, notes = checkpoint.config.dtype, {}
    with stages() as stage:
        stage("writing")
        if to is Destination.orbax:
            from tritter_jax.train.exchange import belongs_to_run, export_run
            from tritter_jax.train.orbax_export import export_orbax

            write = export_run if belongs_to_run(checkpoint) else export_orbax
            path = write(checkpoint, place, overwrite=overwrite)
        elif to is Destination.gguf:
            from tprog.gguf import export_gguf

            done = export_gguf(checkpoint, place, type_=gguf_type, tokenizer=not no_tokenizer, overwrite=overwrite)
            path, dtype = done.path, done.type
            notes = {
                "stored_as_f16": list(done.otherwise),
                "tokenizer": done.tokenizer,
                "tokenizer_differences": list(done.differences),
            }
        elif to is Destination.torch:
            from tprog.huggingface import export_torch

            path = export_torch(checkpoint, place, overwrite=overwrite)
        else:
            from tprog.huggingface import export_directory

            path = export_directory(checkpoint, place, overwrite=overwrite)
    _report(path, to.value, dtype, count_parameters(checkpoint.config), **notes)


def _report(path: Path, kind: str, dtype: str, parameters: int, **notes: Any) -> None:
    def render(console: Console) -> None:
        console.print(f"{path}: {kind}, {parameters:,} parameters, {dtype}", markup=False)
        if found := notes.get("no_tokenizer"):
            console.print(f"{found}: text is read with what --tokenizer names, here or later", markup=False)
        if names := notes.get("stored_in_gguf_as"):
            console.print(f"stored in GGUF as {', '.join(names)}", markup=False)
        if names := notes.get("stored_as_f16"):
            console.print(f"stored as f16, their rows being no multiple of 32: {', '.join(names)}", markup=False)
        if names := notes.get("tokenizer_differences"):
            console.print(f"its tokenizer in llama.cpp: {'; '.join(names)}", markup=False)

    emit({"path": str(path), "format": kind, "parameters": parameters, "dtype": dtype, **notes}, render)
