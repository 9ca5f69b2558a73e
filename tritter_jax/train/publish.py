"""A training state as a `.tprog`, with everything that is needed to go on in JAX or in PyTorch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tprog.flax
from tprog.flax_host import processes
from tprog.flax_state import optimizer_tensors, rng_tensors
from tprog.layout import CheckpointName
from tprog.sizes import size_label
from tprog.writer import write_checkpoint

from tritter_jax.train.config import RunConfig
from tritter_jax.train.start import Start
from tritter_jax.train.state import TrainState

RUN = "run"
"""Field of scheduler.json that holds the run's settings, without its own places on this machine."""


def save_tprog(
    directory: Path, settings: RunConfig, start: Start, state: TrainState, place: Mapping[str, Any]
) -> Path:
    """Write `{model}-{size}-{step}.tprog` into a directory, replacing one of that name.

    Args:
        directory: where to write it.
        settings: the run's settings.
        start: what its model brought along.
        state: its state.
        place: `data`, the place in the training data; `tokens_seen`, those before this run included; `best_loss`.

    Raises:
        UsageError: the directory cannot be written.
    """
    name = CheckpointName(model=settings.model.name, size=size_label(start.config), step=int(state.step))
    return write_state(directory / str(name), settings, start, state, place, overwrite=True)


def write_state(
    path: Path, settings: RunConfig, start: Start, state: TrainState, place: Mapping[str, Any], **options: Any
) -> Path:
    """Write a training state as the `.tprog` of a given path; several processes do it together.

    Args:
        path: the directory to make.
        settings: as for `save_tprog`, and so are the next three.
        start: .
        state: .
        place: .
        **options: as for `tprog.writer.write_checkpoint`.

    Raises:
        UsageError: the path is taken, or cannot be written.
    """
    before, tokens_seen, best_loss = start.progressive, place["tokens_seen"], place["best_loss"]
    known = before.training_progress.to_json() if before.training_progress else {}
    progress = known | {"tokens_seen": tokens_seen, "steps": int(state.step)}
    if best_loss is not None:
        progress["best_loss"] = min(best_loss, known.get("best_loss") or best_loss)
    history = [entry.to_json() for entry in before.expansion_history]
    if history:
        since = tokens_seen - (known.get("tokens_seen") or 0)
        history[-1]["tokens_after"] = history[-1].get("tokens_after", 0) + since
    ewc = {} if before.ewc_config is None else before.ewc_config.to_json()
    if settings.ewc.lambda_:
        ewc |= {"lambda": settings.ewc.lambda_, "form": settings.ewc.form}
    parts = replace(
        start.parts(),
        optimizer=optimizer_tensors(state.opt_state, start.config),
        rng_state=rng_tensors(state.key),
        scheduler={
            "schedule": settings.schedule.model_dump(),
            "learning_rate": settings.optimizer.peak,
            "steps": settings.training.steps,
            RUN: settings.portable(),
        },
        data_state=place["data"],
    )
    return write_checkpoint(
        path,
        start.config,
        tprog.flax.to_tensors(state.params, start.config),
        progressive=before.with_fields(
            training_progress=progress, expansion_history=history, ewc_config=ewc or None, manifest=None
        ),
        tokenizer_from=start.tokenizer,
        files=start.files,
        parts=parts,
        gang=processes(),
        **options,
    )
