"""A training state as a `.tprog`, with everything that is needed to go on in JAX or in PyTorch."""

import tempfile
from pathlib import Path
from typing import Any

import tprog.flax
from tprog.layout import CheckpointName
from tprog.schema import Progressive
from tprog.sizes import size_label

from tritter_jax.train.setup import Run
from tritter_jax.train.state import TrainState


def save_tprog(
    directory: Path,
    run: Run,
    state: TrainState,
    *,
    tokens_seen: int,
    data_state: dict[str, Any],
    best_loss: float | None,
) -> Path:
    """Write `{model}-{size}-{step}.tprog` into a directory, replacing one of that name.

    Args:
        directory: where to write it.
        run: the run.
        state: its state.
        tokens_seen: number of tokens trained on, those before this run included.
        data_state: place in the training data.
        best_loss: lowest held-out loss so far.
    """
    steps = int(state.step)
    path = directory / str(CheckpointName(model=run.settings.model.name, size=size_label(run.config), step=steps))
    before = run.start.progressive if run.start is not None else Progressive.of(run.config)
    known = before.training_progress.to_json() if before.training_progress else {}
    progress = known | {"tokens_seen": tokens_seen, "steps": steps}
    if best_loss is not None:
        progress["best_loss"] = min(best_loss, known.get("best_loss") or best_loss)
    history = [entry.to_json() for entry in before.expansion_history]
    if history:
        since = tokens_seen - (known.get("tokens_seen") or 0)
        history[-1]["tokens_after"] = history[-1].get("tokens_after", 0) + since
    settings = run.settings
    with tempfile.TemporaryDirectory() as tokenizer:
        run.tokenizer.save(tokenizer)
        return tprog.flax.save(
            path,
            state.params,
            run.config,
            progressive=before.with_fields(training_progress=progress, expansion_history=history, manifest=None),
            tokenizer_from=tokenizer,
            overwrite=True,
            opt_state=state.opt_state,
            rng_key=state.key,
            scheduler={
                "schedule": settings.schedule.model_dump(),
                "learning_rate": settings.optimizer.learning_rate,
                "steps": settings.training.steps,
            },
            data_state=data_state,
        )
