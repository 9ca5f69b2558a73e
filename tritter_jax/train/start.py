"""What a run's model brought along besides its weights and optimizer, kept in the run directory.

{run}/start/config.json  progressive.json  tokenizer/  generation_config.json  expansion_hooks.py  ewc/
             training/rng_state.pt          (each where there is one; laid out as in a .tprog)
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tprog import FormatError, ModelConfig, config_to_json, load_config
from tprog.commit import new_directory
from tprog.config_json import as_family
from tprog.jsonio import write_json
from tprog.layout import (
    CONFIG,
    EWC,
    GENERATION_CONFIG,
    HOOKS,
    JSON_PARTS,
    PROGRESSIVE,
    RNG_STATE,
    TENSOR_PARTS,
    TOKENIZER,
    TRAINING,
)
from tprog.parts import Parts, read_json_part, read_tensors
from tprog.paths import safe_file
from tprog.reader import Checkpoint
from tprog.schema import Progressive, read_progressive, write_progressive
from tprog.tokenizer import tokenizer_files, write_tokenizer

from tritter_jax.data import Tokenizer

START = "start"


@dataclass(frozen=True, kw_only=True)
class Start:
    """An open `start` directory.

    Args:
        path: where it lies.
        config: the model.
        progressive: what was known of it when the run began.
    """

    path: Path
    config: ModelConfig
    progressive: Progressive

    @property
    def tokenizer(self) -> Path | None:
        """Directory of the tokenizer's files; None where there are none."""
        return self.path / TOKENIZER if (self.path / TOKENIZER).is_dir() else None

    @property
    def files(self) -> dict[str, bytes]:
        """Small files that go along as they are, by name."""
        return small_files(self.path)

    def parts(self) -> Parts:
        """What a checkpoint keeps that training does not change."""
        return stored_parts(self.path, self.config, self.progressive)


def write_start(
    run_directory: Path,
    config: ModelConfig,
    *,
    origin: Checkpoint | None,
    tokenizer: Tokenizer | None,
    again: bool = False,
) -> None:
    """Make a run directory's `start`; it appears whole or not at all, and one that is there stays.

    Args:
        run_directory: the run.
        config: the model as it is trained.
        origin: the checkpoint that the run goes on from, if any; its files are linked where they can be.
        tokenizer: the tokenizer; that of `origin` where None.
        again: whether one that is there is replaced.

    Raises:
        UsageError: the directory cannot be written.
    """
    path = run_directory / START
    if path.is_dir() and not again:
        return
    progressive = (Progressive.of(config) if origin is None else origin.progressive).describing(config)
    with new_directory(path, overwrite=again) as temporary:
        write_json(temporary / CONFIG, config_to_json(config))
        write_progressive(temporary / PROGRESSIVE, progressive.with_fields(manifest=None))
        if tokenizer is not None:
            with tempfile.TemporaryDirectory() as saved:
                write_tokenizer(temporary, tokenizer_files(tokenizer.save(saved)))
        elif origin is not None:
            write_tokenizer(temporary, origin.tokenizer_files)
        if origin is None:
            return
        copy_companions(origin.path, temporary, training=False)


def has_start(run_directory: Path) -> bool:
    """Whether a run directory has a `start`."""
    return (run_directory / START).is_dir()


def open_start(run_directory: Path) -> Start:
    """Open a run directory's `start`.

    Raises:
        FormatError: there is none, or it is broken.
    """
    path = run_directory / START
    if not has_start(run_directory):
        raise FormatError(
            run_directory, expected=f"a run directory with a folder {START}", got="none",
            remedy="Give the directory of a run of `tritter train`.",
        )  # fmt: skip
    progressive = read_progressive(path / PROGRESSIVE)
    config = as_family(load_config(path / CONFIG), progressive.model_family)
    return Start(path=path, config=config, progressive=progressive)


def copy_companions(source: Path, destination: Path, *, training: bool = True) -> None:
    """Link or copy what a `.tprog` holds besides configuration, metadata, weights and tokenizer.

    Args:
        source: the `.tprog`.
        destination: a directory to put them into, under their own names.
        training: whether the state of training goes along, which a run keeps itself.
    """
    folders = (EWC, TRAINING) if training else (EWC,)
    inside = (
        path.relative_to(source).as_posix() for folder in folders for path in sorted(source.glob(f"{folder}/*"))
    )
    for name in {GENERATION_CONFIG, HOOKS, RNG_STATE, *inside}:
        if (source / name).is_file():
            _link(safe_file(source, name), destination / name)


def small_files(directory: Path) -> dict[str, bytes]:
    """generation_config.json, by name, where there is one."""
    found = _bytes(directory, GENERATION_CONFIG)
    return {} if found is None else {GENERATION_CONFIG: found}


def stored_parts(directory: Path, config: ModelConfig, progressive: Progressive) -> Parts:
    """The optional parts that lie in a directory as they would in a `.tprog`.

    Raises:
        FormatError: one is broken, or does not fit the model.
    """
    return Parts(
        **{name: read_tensors(directory, name, config, progressive) for name in TENSOR_PARTS},
        **{name: read_json_part(directory, name) for name in JSON_PARTS},
        rng_pickle=_bytes(directory, RNG_STATE),
        hooks=_bytes(directory, HOOKS),
    )


def _bytes(directory: Path, name: str) -> bytes | None:
    return safe_file(directory, name).read_bytes() if (directory / name).is_file() else None


def _link(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), destination)
    except OSError:
        shutil.copyfile(source, destination)
