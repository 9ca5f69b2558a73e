"""Between a run directory of `tritter train` (Orbax) and a `.tprog`, with nothing lost either way."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tprog.flax
from tprog import FormatError, ModelConfig, UsageError, config_to_json
from tprog.commit import new_directory, refuse_taken
from tprog.finite import require_finite
from tprog.flax_state import load_optimizer, load_rng_key
from tprog.paths import real_path
from tprog.reader import Checkpoint

from tritter_jax.model import abstract_params
from tritter_jax.train.checkpoint import RunCheckpoints
from tritter_jax.train.config import IN_RUN, RunConfig
from tritter_jax.train.optimizer import make_optimizer, make_schedule
from tritter_jax.train.places import CHECKPOINTS, checkpoints_of
from tritter_jax.train.publish import RUN, write_state
from tritter_jax.train.resume import SETTINGS
from tritter_jax.train.start import START, has_start, open_start, write_start
from tritter_jax.train.state import TrainState, new_state


def is_run(path: str | Path) -> bool:
    """Whether a directory is one that `tritter train` made."""
    directory = Path(path)
    return (directory / SETTINGS).is_file() and (has_start(directory) or (directory / CHECKPOINTS).is_dir())


def belongs_to_run(checkpoint: Checkpoint) -> bool:
    """Whether a `.tprog` holds all that a run needs to go on: settings, optimizer, key and place in the data."""
    needed = {"optimizer", "rng_state", "data_state", "scheduler"}
    return needed <= set(checkpoint.parts) and RUN in (checkpoint.scheduler or {})


def export_run(checkpoint: Checkpoint, destination: str | Path, *, overwrite: bool = False) -> Path:
    """Write a `.tprog` of a run as a run directory, which `tritter train --resume` goes on from.

    Args:
        checkpoint: what to write; see `belongs_to_run`.
        destination: the run directory to make.
        overwrite: whether an earlier run directory that nothing was trained in since may be replaced.

    Raises:
        FormatError: the checkpoint's settings are not those of a run, or a tensor of it is not finite.
        ParameterError: its optimizer state is not that of its settings.
        UsageError: the destination is taken, or cannot be written.
    """
    path = real_path(destination)
    refuse_taken(path, overwrite=overwrite, is_ours=_is_export, source=checkpoint.path)
    settings = _settings(checkpoint, path)
    optimizer = _optimizer(settings, checkpoint.config)
    require_finite(checkpoint, *checkpoint.to_parts().tensors.values())
    params = tprog.flax.load(checkpoint)
    opt_state = load_optimizer(checkpoint, jax.eval_shape(optimizer.init, params))
    step = jnp.asarray(checkpoint.progressive.steps, jnp.int32)
    state = TrainState(params, opt_state, step, load_rng_key(checkpoint))
    progress = checkpoint.progressive.training_progress
    place = {
        "config": config_to_json(checkpoint.config),
        "data": checkpoint.data_state,
        "tokens_seen": progress.tokens_seen if progress else 0,
        "best_loss": progress.best_loss if progress else None,
    }
    size = 3 * sum(spec.nbytes for spec in checkpoint.specs.values())
    with new_directory(path, overwrite=overwrite, needed=size, is_ours=_is_export) as temporary:
        (temporary / SETTINGS).write_text(settings.to_toml(), encoding="utf-8")
        write_start(temporary, checkpoint.config, origin=checkpoint, tokenizer=None)
        checkpoints = RunCheckpoints(temporary / CHECKPOINTS)
        checkpoints.save(int(step), state, place, None)
        checkpoints.close()
    return path


def import_run(source: str | Path, destination: str | Path, *, step: int | None = None, **options: Any) -> Path:
    """Write a checkpoint of a run directory as a `.tprog`.

    Args:
        source: the run directory; its run may still be going on.
        destination: the `.tprog` to make.
        step: which of its checkpoints; the latest when None.
        **options: as for `tprog.writer.write_checkpoint`.

    Raises:
        FormatError: the directory is no run, or its checkpoint is damaged.
        UsageError: it has no such checkpoint, or the destination is taken or cannot be written.
    """
    directory = real_path(source)
    refuse_taken(destination, overwrite=bool(options.get("overwrite")), source=directory / CHECKPOINTS)
    start = open_start(directory)
    settings = RunConfig.load(directory / SETTINGS, fields={"output": {"directory": str(directory)}})
    config = start.config
    optimizer = _optimizer(settings, config)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda params: new_state(params, optimizer, 0), abstract_params(config))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    checkpoints = RunCheckpoints(checkpoints_of(settings), saving=False)
    try:
        chosen = checkpoints.latest if step is None else step
        if chosen is None or chosen not in checkpoints.steps:
            raise UsageError(
                directory, expected=f"a checkpoint of step {step}" if step is not None else "a checkpoint",
                got=f"those of {', '.join(map(str, checkpoints.steps)) or 'no step'}", remedy="Choose one of those.",
            )  # fmt: skip
        place = checkpoints.place(chosen)
        if place["config"] != config_to_json(config):
            raise FormatError(
                directory, expected=f"checkpoints of the model in {START}", got="those of another one",
                remedy="Train in a directory of its own.",
            )  # fmt: skip
        state = checkpoints.restore(abstract, chosen)
    finally:
        checkpoints.close()
    return write_state(Path(destination), settings, start, state, place, **options)


def _settings(checkpoint: Checkpoint, directory: Path) -> RunConfig:
    run = (checkpoint.scheduler or {}).get(RUN)
    fields = run if isinstance(run, dict) else {}
    here = {"model": {"config": f"{IN_RUN}{START}/config.json"}, "output": {"directory": str(directory)}}
    if checkpoint.tokenizer_files:
        here["data"] = {"tokenizer": f"{IN_RUN}{START}/tokenizer"}
    return RunConfig.parse(fields, fields=here, where=f"{checkpoint.path}: scheduler.json: {RUN}")


def _optimizer(settings: RunConfig, config: ModelConfig) -> optax.GradientTransformation:
    schedule = make_schedule(settings.schedule, settings.optimizer.peak, settings.training.steps)
    return make_optimizer(settings.optimizer, schedule, config, settings.ewc)


def _is_export(path: Path) -> bool:
    """A run directory with nothing in it but what an export writes."""
    return (
        (path / CHECKPOINTS).is_dir()
        and is_run(path)
        and {entry.name for entry in path.iterdir()} <= {SETTINGS, START, CHECKPOINTS}
    )
