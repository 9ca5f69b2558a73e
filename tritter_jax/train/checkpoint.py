"""Orbax, behind one wrapper: the only module that imports it."""

import gc
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp
from tprog import FormatError, ModelConfig, TritterError, UsageError
from tprog.params import param_specs
from tprog.tree import flatten, nest


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


_UNREADABLE = (ValueError, KeyError, TypeError, OSError)
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_OUT_OF_REACH = re.compile(r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED)\b")
"""What tensorstore calls errors where it is not the file that is wrong."""


def _reason(error: BaseException) -> BaseException:
    while error.__cause__ is not None:  # Orbax wraps it in its attempts at other formats
        error = error.__cause__
    return error


def _is_damage(error: BaseException) -> bool:
    reason = _reason(error)
    if isinstance(reason, OSError):
        return isinstance(reason, _ABSENT)
    return isinstance(reason, _UNREADABLE) and not _OUT_OF_REACH.search(str(reason))


class RunCheckpoints:
    """The checkpoints of one run under Orbax: saved in the background, the last and the best kept.

    Args:
        directory: where they lie, one folder a step; or the URL of a directory on a bucket.
        keep_last: number of latest checkpoints that stay.
        keep_best: number of checkpoints with the lowest held-out loss that stay as well.
        saving: whether to save; what killed saves have left is then removed.
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
        if isinstance(directory, Path):
            if saving:
                directory.mkdir(parents=True, exist_ok=True)
            directory = str(directory.resolve())
        with _options():
            # Orbax's policies do not meet the letter of its own protocols' annotations, hence the casts.
            self._checkpointer = ocp.training.Checkpointer(
                directory,
                save_decision_policy=cast(Any, ocp.training.save_decision_policies.FixedIntervalPolicy(1)),
                preservation_policy=cast(Any, policies.AnyPreservationPolicy(kept)),
                cleanup_tmp_directories=saving,
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
        with self._reached("be written"):
            self._checkpointer.save_async(
                step,
                _raw_keys(state),
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
            with self._reached("be read"):
                found = self._checkpointer.metadata(step).custom_metadata
        except _UNREADABLE as error:
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
        try:
            with self._reached("be read"):
                raw = self._checkpointer.load(step, _raw_keys(abstract))
        except _UNREADABLE as error:
            failure = self._unreadable(error)
        else:
            return _wrapped_keys(raw, abstract)
        with _no_complaints():
            gc.collect()
        raise failure

    def _unreadable(self, error: BaseException) -> FormatError:
        reason = _reason(error)
        return FormatError(
            str(self._checkpointer.directory),
            expected="a state of this model and optimizer",
            got=f"{type(reason).__name__}: {reason}"[:300],
            remedy="Go on with the configuration that began the run, or choose another output.directory.",
        )

    def move_aside(self, step: int, aside: Path | None) -> str:
        """Move a checkpoint out of the way.

        Args:
            step: which one.
            aside: the new directory; one beside the other checkpoints where None.

        Returns:
            Where it is now.
        """
        directory = self._checkpointer.directory
        there = directory / f"damaged-checkpoint-{step}" if aside is None else aside
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
        with self._reached("be written"):
            self._checkpointer.close()

    @contextmanager
    def _reached(self, what: str) -> Iterator[None]:
        """A context in which it is told plainly that a disk is full or a bucket out of reach.

        What else is wrong with what is read comes as Orbax has it: that is damage, and this is none.
        """
        try:
            yield
        except (TritterError, jax.errors.JaxRuntimeError):  # the latter: another process is gone, or memory is full
            raise
        except Exception as error:  # gcsfs, google-cloud-storage and tensorstore have errors of their own
            if what == "be read" and _is_damage(error):
                raise
            reason = _reason(error)
            raise UsageError(
                str(self._checkpointer.directory),
                expected=f"a checkpoint that can {what}",
                got=f"{type(reason).__name__}: {reason}".partition("\n")[0][:300],
                remedy="Mend that, and run the same command: it goes on from the last whole checkpoint.",
            ) from error


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
