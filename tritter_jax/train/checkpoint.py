"""Orbax, behind one wrapper: the only module that imports it."""

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp
from tprog import FormatError, ModelConfig, UsageError
from tprog.disk import told_plainly
from tprog.params import param_specs
from tprog.tree import flatten, nest

from tritter_jax.train.reach import UNREADABLE, list_anew, reached, reason_of

_METADATA = "_CHECKPOINT_METADATA"


def save_orbax(path: Path, params: Mapping[str, Any]) -> None:
    """Write a tree of arrays as an Orbax checkpoint, uncompressed: twice as fast on a local disk."""
    with _options():
        ocp.save(str(path.resolve()), dict(params))


def load_orbax(path: Path, config: ModelConfig) -> dict[str, Any]:
    """Read a tree of parameters that `save_orbax` wrote, each in the dtype it was saved in.

    Raises:
        FormatError: the directory is no Orbax checkpoint, or its tree is not that of `config`.
    """
    expected = {spec.path: spec.shape for spec in param_specs(config)}
    try:
        stored = flatten(ocp.metadata(str(path.resolve())).metadata)
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(
            path,
            expected="an Orbax checkpoint",
            got=f"{type(error).__name__}: {error}"[:300],
            remedy="Check the path.",
        ) from None
    if {key: tuple(leaf.shape) for key, leaf in stored.items()} != expected:
        raise FormatError(
            path,
            expected=f"the {len(expected)} parameters of a {config.family} model as its config.json describes it",
            got=f"{len(stored)} of other names or shapes",
            remedy="Export the model anew.",
        )
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {key: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device) for key, leaf in stored.items()}
    with _options():
        return ocp.load(str(path.resolve()), nest(abstract))


def _options() -> ocp.Context:
    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


class RunCheckpoints:
    """The checkpoints of one run under Orbax: saved in the background, the last and the best kept.

    Args:
        directory: where they lie, one folder a step; or the URL of a directory on a bucket.
        keep_last: number of latest checkpoints that stay.
        keep_best: number of checkpoints with the lowest held-out loss that stay as well.
        saving: whether to save; in a directory, what killed saves have left is then removed. On a bucket it stays:
            nothing there tells it from what is not this run's.

    Raises:
        UsageError: the place cannot be reached, or not be written.
    """

    def __init__(self, directory: Path | str, *, keep_last: int = 1, keep_best: int = 0, saving: bool = True) -> None:
        policies = ocp.training.preservation_policies
        kept: list[Any] = [policies.LatestN(keep_last)]
        if keep_best:
            # Without a loss a checkpoint is no candidate for the best.
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics["loss"],
                    reverse=True,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        local = isinstance(directory, Path)
        if isinstance(directory, Path):
            if saving:
                with told_plainly(directory):
                    directory.mkdir(parents=True, exist_ok=True)
            directory = str(directory.resolve())
        else:
            list_anew()
        self._place = directory
        with reached(directory, "opened"), _options():
            # Orbax's policies do not meet the letter of its own protocols' annotations, hence the casts.
            self._checkpointer = ocp.training.Checkpointer(
                directory,
                save_decision_policy=cast(Any, ocp.training.save_decision_policies.FixedIntervalPolicy(1)),
                preservation_policy=cast(Any, policies.AnyPreservationPolicy(kept)),
                cleanup_tmp_directories=saving and local,
            )

    @property
    def latest(self) -> int | None:
        """Step of the last whole checkpoint; what a killed save left half-written does not count."""
        found = self._checkpointer.latest
        return None if found is None else found.step

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints that are kept, in order."""
        return sorted(found.step for found in self._checkpointer.checkpoints)

    def save(self, step: int, state: Any, place: Mapping[str, Any], loss: float | None) -> None:
        """Begin to save; returns when the arrays are copied, and writes in the background.

        Args:
            step: number of steps taken.
            state: a tree of arrays; random keys are stored as their data.
            place: what else is needed to go on, as JSON.
            loss: held-out loss, or None where it is not known.

        Raises:
            UsageError: the disk or the bucket refuses this save, or refused the one before.
        """
        raw = _raw_keys(state)
        with reached(self._place, "written"):
            self._checkpointer.save_async(
                step,
                raw,
                overwrite=True,
                metrics=None if loss is None else {"loss": loss},
                custom_metadata=dict(place),
            )

    def place(self, step: int | None = None) -> dict[str, Any]:
        """The place that was saved with a step (the latest when None).

        Raises:
            FormatError: the checkpoint is damaged.
            UsageError: the bucket cannot be reached, or may not be read.
        """
        try:
            with reached(self._place, "read"):
                found = self._checkpointer.metadata(step).custom_metadata
                if not found:  # Orbax takes a file that it may not read for one that is not there
                    chosen = self.latest if step is None else step
                    (self._checkpointer.directory / str(chosen) / _METADATA).read_text()
        except UNREADABLE as error:
            raise self._unreadable(error) from None
        if not isinstance(found, Mapping) or not {"config", "data", "tokens_seen", "best_loss"} <= set(found):
            raise self._unreadable(ValueError("its metadata are not those of a run"))
        return dict(found)

    def restore(self, abstract: Any, step: int | None = None) -> Any:
        """The state of a step (the latest when None).

        Args:
            abstract: shapes, dtypes and shardings of the state.
            step: which checkpoint.

        Raises:
            FormatError: the checkpoint does not have such a state.
            UsageError: the bucket cannot be reached, or may not be read.
        """
        wanted = _raw_keys(abstract)
        try:
            with reached(self._place, "read"):
                raw = self._checkpointer.load(step, wanted)
        except (UsageError, *UNREADABLE) as error:
            failure = error if isinstance(error, UsageError) else self._unreadable(error)
        else:
            return _wrapped_keys(raw, abstract)
        failure.__cause__ = failure.__traceback__ = None  # they hold on to the reads
        with _no_complaints():
            gc.collect()
        raise failure

    def _unreadable(self, error: BaseException) -> FormatError:
        reason = reason_of(error)
        return FormatError(
            self._place,
            expected="a state of this model and optimizer",
            got=f"{type(reason).__name__}: {reason}"[:300],
            remedy="Go on with the configuration that began the run, or choose another directory.",
        )

    def move_aside(self, step: int, beside: Path | None) -> str:
        """Move a checkpoint out of the way.

        Args:
            step: which one.
            beside: the directory to move it to; among the other checkpoints where None.

        Returns:
            Where it is now.

        Raises:
            UsageError: the disk or the bucket refuses it.
        """
        directory = self._checkpointer.directory
        name = (directory if beside is None else beside) / f"damaged-checkpoint-{step}"
        with reached(self._place, "moved"):
            # An earlier one may have been moved there, in whole or in part.
            there = next(
                each for n in count(1) if not (each := name.with_name(f"{name.name}{f'-{n}' * (n > 1)}")).exists()
            )
            (directory / str(step)).rename(there)
        return str(there)

    def reload(self) -> None:
        """Look again which checkpoints there are."""
        self._checkpointer.reload()

    def close(self) -> None:
        """Wait for what is being written.

        Raises:
            UsageError: the disk or the bucket refuses it.
        """
        with reached(self._place, "written"):
            self._checkpointer.close()


@contextmanager
def _no_complaints() -> Iterator[None]:
    """Orbax leaves the reads it had begun unfinished, and each of them prints a traceback when it is collected."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw_keys(tree: Any) -> Any:
    def raw(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            data = jax.eval_shape(jax.random.key_data, leaf)
            return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
        return jax.random.key_data(leaf)

    return jax.tree.map(raw, tree)


def _wrapped_keys(tree: Any, abstract: Any) -> Any:
    return jax.tree.map(lambda like, leaf: jax.random.wrap_key_data(leaf) if _is_key(like) else leaf, abstract, tree)
