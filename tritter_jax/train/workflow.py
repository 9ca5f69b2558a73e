"""Train on A, measure what A needs, expand, train on B without forgetting A: the whole way in one function.

Each step is one that has a command of its own: tritter train, fisher, expand, train.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tprog import ModelConfig, UsageError
from tprog.reader import is_checkpoint, open_checkpoint

from tritter_jax.growth.expand import expand
from tritter_jax.train.config import RunConfig
from tritter_jax.train.fisher import measure_fisher
from tritter_jax.train.loop import Finished, train
from tritter_jax.train.setup import prepare

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What `learn_without_forgetting` leaves behind.

    Args:
        first: the checkpoint that learned A.
        measured: the same with its Fisher information.
        expanded: the larger model, before B.
        second: how the run on B ended.
    """

    first: Path
    measured: Path
    expanded: Path
    second: Finished


def learn_without_forgetting(
    first: RunConfig, target: ModelConfig, second: RunConfig, directory: str | Path, **options: Any
) -> Learned:
    """Train on A, measure, expand, and train on B with the penalty of `second.ewc`.

    What is finished is not done again: the same call goes on where it was stopped.

    Args:
        first: the run on A.
        target: what the model becomes.
        second: the run on B; its model is the expanded one, and its steps count on from those of `first`.
        directory: where `measured.tprog` and `expanded.tprog` are written.
        **options: as for `learn_and_expand`.

    Raises:
        UsageError: `second` asks for no penalty, or ends before it begins.
        TritterError: as for each of the steps.
    """
    if not second.ewc.lambda_:
        raise UsageError(
            "second: ewc.lambda",
            expected="a number above 0",
            got=0,
            remedy="Without a penalty nothing is held on to.",
        )
    if second.training.steps <= first.training.steps:
        raise UsageError(
            "second: training.steps", expected=f"more than the {first.training.steps} of the first run",
            got=second.training.steps, remedy="Steps count on: give those of both runs together.",
        )  # fmt: skip
    done, measured, expanded = learn_and_expand(first, target, directory, **options)
    model = {"size": None, "config": None, "vocab_size": None, "checkpoint": str(expanded)}
    going_on = RunConfig.parse(second.model_dump(exclude_none=True), [], {"model": model})
    options.get("progress", _silent)("training on B")
    return Learned(first=done, measured=measured, expanded=expanded, second=train(prepare(going_on)))


def learn_and_expand(
    first: RunConfig,
    target: ModelConfig,
    directory: str | Path,
    *,
    fisher: Mapping[str, Any] | None = None,
    growth: Mapping[str, Any] | None = None,
    progress: Progress = _silent,
) -> tuple[Path, Path, Path]:
    """Train on A, measure the Fisher information, and expand with it.

    Args:
        first: the run on A.
        target: what the model becomes.
        directory: where `measured.tprog` and `expanded.tprog` are written.
        fisher: options of `measure_fisher`, such as `samples`.
        growth: options of `expand`, such as `width`.
        progress: told each stage's name as it begins.

    Returns:
        The checkpoint that learned A, the same with its Fisher information, and the expanded one.

    Raises:
        UsageError: A is several corpora.
        TritterError: as for each of the steps.
    """
    data = first.data.train
    if not isinstance(data, str):
        raise UsageError(
            "first: data.train", expected="one corpus", got=f"{len(data)} of them",
            remedy="Put them into one directory.",
        )  # fmt: skip
    place = Path(directory)
    measured, expanded = place / "measured.tprog", place / "expanded.tprog"
    progress("training on A")
    done = train(prepare(first)).checkpoint
    if not is_checkpoint(measured):
        progress("measuring the Fisher information on A")
        ours = {"batch_size": first.data.batch_size, "sequence_length": first.data.sequence_length}
        cache = {"cache": first.path(first.data.cache)} if first.data.cache else {}
        measure_fisher(open_checkpoint(done), data, measured, **{**ours, **cache, **(fisher or {})})
    if not is_checkpoint(expanded):
        expand(measured, expanded, target, progress=progress, **(growth or {}))
    return done, measured, expanded
