"""A `.tprog` as an Orbax export, and back.

{export}/config.json  progressive.json  params/    (params/ is the Orbax checkpoint; beside it whatever else the
                                                   .tprog held: tokenizer/ training/ ewc/ generation_config.json)
"""

from pathlib import Path
from typing import Any

import tprog.flax
from tprog import config_to_json, load_config
from tprog.commit import new_directory, refuse_taken
from tprog.config_json import as_family
from tprog.finite import require_finite
from tprog.jsonio import write_json
from tprog.layout import CONFIG, ORBAX_MARKER, ORBAX_PARAMS, PROGRESSIVE
from tprog.paths import real_path
from tprog.reader import Checkpoint
from tprog.schema import read_progressive, write_progressive
from tprog.tokenizer import write_tokenizer
from tprog.writer import write_checkpoint

from tritter_jax.train.checkpoint import load_orbax, save_orbax
from tritter_jax.train.start import copy_companions, small_files, stored_parts


def is_orbax_export(path: str | Path) -> bool:
    """Whether a directory is what `export_orbax` writes."""
    directory = Path(path)
    return (directory / CONFIG).is_file() and (directory / ORBAX_PARAMS / ORBAX_MARKER).is_file()


def export_orbax(checkpoint: Checkpoint, destination: str | Path, *, overwrite: bool = False) -> Path:
    """Write a checkpoint's parameters for Orbax, in the layout of the parameter table, layers stacked.

    Everything else that the checkpoint holds lies beside them as it was.

    Args:
        checkpoint: what to write.
        destination: the directory to make.
        overwrite: whether an earlier export may be replaced.

    Raises:
        FormatError: the source is not finite.
        UsageError: the destination is taken, or cannot be written.
    """
    parts = checkpoint.to_parts()
    size = sum(spec.nbytes for spec in checkpoint.specs.values()) + parts.nbytes
    refuse_taken(destination, overwrite=overwrite, is_ours=is_orbax_export, source=checkpoint.path)
    require_finite(checkpoint, *parts.tensors.values())
    with new_directory(destination, overwrite=overwrite, needed=size, is_ours=is_orbax_export) as temporary:
        save_orbax(temporary / ORBAX_PARAMS, tprog.flax.load(checkpoint))
        write_json(temporary / CONFIG, config_to_json(checkpoint.config))
        write_progressive(temporary / PROGRESSIVE, checkpoint.progressive.with_fields(manifest=None))
        write_tokenizer(temporary, checkpoint.tokenizer_files)
        copy_companions(checkpoint.path, temporary)
    return real_path(destination)


def import_orbax(source: str | Path, destination: str | Path, **options: Any) -> Path:
    """Write what `export_orbax` wrote as a `.tprog` again, every tensor bit-equal.

    Args:
        source: the export.
        destination: the `.tprog` to make.
        **options: as for `tprog.writer.write_checkpoint`.

    Raises:
        FormatError: the source is no such export, or not of the model its config.json describes.
    """
    directory = real_path(source)
    progressive = read_progressive(directory / PROGRESSIVE)
    config = as_family(load_config(directory / CONFIG), progressive.model_family)
    params = load_orbax(directory / ORBAX_PARAMS, config)
    return write_checkpoint(
        destination,
        config,
        tprog.flax.to_tensors(params, config),
        progressive=progressive,
        tokenizer_from=directory,
        files=small_files(directory),
        parts=stored_parts(directory, config, progressive),
        **options,
    )
