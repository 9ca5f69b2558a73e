"""What a command is asked about: a run directory, or a checkpoint that may lie in one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tprog import ModelConfig, UsageError, size_label
from tprog.layout import newest
from tprog.reader import Checkpoint, open_checkpoint, read_description
from tprog.schema import Progressive

from tritter_jax.train.exchange import is_run
from tritter_jax.train.metrics import read_metrics
from tritter_jax.train.start import open_start


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, with its run where that is known.

    Args:
        run: the run directory, or None.
        checkpoint: the checkpoint; None in a run that has not written one yet.
        config: the model.
        progressive: what is known of it.
    """

    run: Path | None
    checkpoint: Checkpoint | None
    config: ModelConfig
    progressive: Progressive

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of the run's metrics up to the checkpoint; none without a run."""
        lines = [] if self.run is None else read_metrics(self.run)
        last = None if self.checkpoint is None else self.progressive.steps
        return [line for line in lines if last is None or line["step"] <= last]


def described_subject(directory: Path) -> Subject:
    """What a directory says of its model, where neither weights nor a run are there.

    Raises:
        FormatError: what it says is missing or malformed.
    """
    config, progressive = read_description(directory)
    return Subject(run=None, checkpoint=None, config=config, progressive=progressive)


def open_subject(path: Path) -> Subject:
    """Open a run directory, with its newest checkpoint where it has one, or a checkpoint, with the run it lies in.

    Raises:
        FormatError: it is neither, or it is broken.
    """
    if is_run(path):
        start = open_start(path)
        try:
            # A larger one may lie there too: what was grown from the run's.
            checkpoint = open_checkpoint(newest(size_label(start.config), path))
        except UsageError:
            return Subject(run=path, checkpoint=None, config=start.config, progressive=start.progressive)
        run: Path | None = path
    else:
        checkpoint = open_checkpoint(path)
        run = checkpoint.path.parent if is_run(checkpoint.path.parent) else None
    return Subject(run=run, checkpoint=checkpoint, config=checkpoint.config, progressive=checkpoint.progressive)
