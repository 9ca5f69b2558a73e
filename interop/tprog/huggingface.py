"""Hugging Face model directories into checkpoints, and back, with every tensor bit-equal."""

from collections.abc import Callable
from pathlib import Path

from tprog.commit import new_directory, new_file, refuse_taken
from tprog.config_json import config_to_json
from tprog.finite import WIDER, checked, require_finite
from tprog.jsonio import write_json
from tprog.layout import CONFIG, GENERATION_CONFIG, INDEX, SHARD_SIZE
from tprog.paths import real_path, safe_file
from tprog.reader import Checkpoint, is_checkpoint, open_checkpoint
from tprog.schema import Progressive
from tprog.shards import index_of, plan_shards, write_shards
from tprog.tokenizer import export_tokenizer
from tprog.writer import write_checkpoint

Check = Callable[[Path], Progressive | None]


def import_directory(
    source: str | Path | Checkpoint,
    destination: str | Path,
    *,
    progressive: Progressive | None = None,
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    check: Check | None = None,
    tokenizer_from: str | Path | None = None,
) -> Path:
    """Write a Hugging Face model directory as a `.tprog`: tensors bit-equal, tokenizer and generation_config kept.

    Args:
        source: the directory (one file or sharded), or any checkpoint.
        destination: the directory to make.
        progressive: its metadata; the source's own, or the default, where left out.
        shard_size: largest weights file in bytes.
        overwrite: whether an existing checkpoint may be replaced.
        check: see `tprog.writer.write_checkpoint`.
        tokenizer_from: a directory whose tokenizer is taken in place of the source's own.

    Returns:
        The destination.

    Raises:
        FormatError: the source is not a model that this library knows.
        UsageError: the destination is taken, or cannot be written.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    refuse_taken(destination, overwrite=overwrite, is_ours=is_checkpoint, source=checkpoint.path)
    return write_checkpoint(
        destination,
        checkpoint.config,
        checkpoint,
        progressive=progressive or checkpoint.progressive,
        shard_size=shard_size,
        overwrite=overwrite,
        tokenizer_from=checkpoint.path if tokenizer_from is None else tokenizer_from,
        files=kept_files(checkpoint),
        parts=checkpoint.to_parts(),
        check=check,
    )


def export_directory(
    source: str | Path | Checkpoint,
    destination: str | Path,
    *,
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
) -> Path:
    """Write a checkpoint as a plain Hugging Face directory: model.safetensors, config.json, tokenizer at the top.

    Raises:
        FormatError: the source is not a checkpoint, or not finite.
        UsageError: the destination is taken, or cannot be written.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    refuse_taken(destination, overwrite=overwrite, is_ours=is_checkpoint, source=checkpoint.path)
    with new_directory(
        destination, overwrite=overwrite, needed=_size(checkpoint), is_ours=is_checkpoint
    ) as temporary:
        weights = checked(checkpoint, remedy=WIDER, origin=checkpoint.tensor)
        write_shards(temporary, "model", weights, shard_size=shard_size, metadata={})
        if len(plan_shards(checkpoint.specs, shard_size)) > 1:
            write_json(temporary / INDEX, index_of(checkpoint, shard_size, "model"))
        _write_companions(checkpoint, temporary)
    return real_path(destination)


def export_torch(source: str | Path | Checkpoint, destination: str | Path, *, overwrite: bool = False) -> Path:
    """Write a checkpoint as `torch.save` writes a state dict, under Hugging Face names.

    Args:
        source: the checkpoint.
        destination: a file, where it ends in .pt, .pth or .bin; otherwise a directory that transformers loads, with
            pytorch_model.bin, config.json and the tokenizer.
        overwrite: whether an existing file, or checkpoint, may be replaced.

    Raises:
        FormatError: the source is not a checkpoint, or not finite.
        UsageError: the destination is taken, or cannot be written, or PyTorch is not installed.
    """
    from tprog.torch import load, torch

    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    path = real_path(destination)
    if path.is_relative_to(checkpoint.path):
        refuse_taken(path, source=checkpoint.path)
    require_finite(checkpoint)
    if path.suffix not in (".pt", ".pth", ".bin"):
        with new_directory(path, overwrite=overwrite, needed=_size(checkpoint), is_ours=is_checkpoint) as temporary:
            torch.save(load(checkpoint), temporary / "pytorch_model.bin")
            _write_companions(checkpoint, temporary)
        return path
    with new_file(path, overwrite=overwrite, needed=_size(checkpoint)) as temporary:
        torch.save(load(checkpoint), temporary)
    return path


def _size(checkpoint: Checkpoint) -> int:
    return sum(spec.nbytes for spec in checkpoint.specs.values())


def kept_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The small files at the top of a model directory that go along when it is written anew."""
    names = [name for name in (GENERATION_CONFIG,) if (checkpoint.path / name).is_file()]
    return {name: safe_file(checkpoint.path, name).read_bytes() for name in names}


def _write_companions(checkpoint: Checkpoint, directory: Path) -> None:
    write_json(directory / CONFIG, config_to_json(checkpoint.config))
    export_tokenizer(directory, checkpoint.tokenizer_files)
    for name, data in kept_files(checkpoint).items():
        (directory / name).write_bytes(data)
