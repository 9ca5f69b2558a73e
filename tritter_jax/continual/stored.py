"""What a directory holds of earlier tasks, read as a `Memory`, once it is checked that it can be trusted.

ewc/fisher.safetensors  ewc/old_params.safetensors  progressive.json: ewc_config.unit, ewc_config.constant
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from tprog import FormatError, ModelConfig, UsageError, VerificationError
from tprog.flax_load import Shardings, load_tree, require_whole
from tprog.layout import PROGRESSIVE, TENSOR_PARTS
from tprog.parts import read_tensors
from tprog.schema import Progressive
from tprog.source import TensorSource

from tritter_jax.continual.fisher import UNIT
from tritter_jax.continual.memory import Memory, remember


@runtime_checkable
class Holder(Protocol):
    """An open `.tprog` (`tprog.reader.Checkpoint`), or any other directory that is laid out like one."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def config(self) -> ModelConfig:
        """The model."""
        ...

    @property
    def progressive(self) -> Progressive:
        """What progressive.json says of it."""
        ...


def stored_memory(holder: Holder, *, shardings: Shardings | None = None) -> Memory:
    """The Fisher information and the anchor that a directory holds, checked as a whole.

    Args:
        holder: an open checkpoint, or the `start` of a run.
        shardings: how to spread both trees, as for `tprog.flax.load`.

    Raises:
        UsageError: no Fisher information, or no anchor, is stored.
        FormatError: it is of another model, of another save or of another unit; it lacks parameters; or it has values
            that are negative or not finite.

    Example:
        >>> import tempfile, jax, tprog.flax
        >>> from tprog.reader import open_checkpoint
        >>> from tritter_jax.model import init_params
        >>> config = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> params = init_params(config)
        >>> path = tprog.flax.save(Path(tempfile.mkdtemp(), "a.tprog"), params, config, old_params=params,
        ...                        fisher=jax.tree.map(jnp.square, params),
        ...                        progressive=Progressive.of(config).with_fields(ewc_config={"unit": "per token"}))
        >>> memory = stored_memory(open_checkpoint(path))
        >>> bool((memory.fisher["norm"] == params["norm"] ** 2).all()), float(memory.constant)
        (True, 0.0)
    """
    fisher, constant, anchor = _tensors(holder, "fisher"), _checked_constant(holder), _tensors(holder, "old_params")
    try:
        memory = remember(*(load_tree(found, holder.config, shardings=shardings) for found in (fisher, anchor)))
    except VerificationError as error:
        raise FormatError(
            holder.path / TENSOR_PARTS["fisher"], expected=error.expected, got=error.got,
            remedy="Fetch it anew, or measure it anew with `tritter fisher`:", findings=error.findings,
            more=error.more,
        ) from None  # fmt: skip
    return memory._replace(constant=jnp.asarray(constant, memory.constant.dtype))


def check_stored(holder: Holder) -> None:
    """What `stored_memory` checks, but for the values, of which none is read.

    Raises:
        UsageError: no Fisher information, or no anchor, is stored.
        FormatError: it is of another model, of another save or of another unit, or lacks parameters.
    """
    _tensors(holder, "fisher")
    _checked_constant(holder)
    _tensors(holder, "old_params")


def _tensors(holder: Holder, part: str) -> TensorSource:
    found = read_tensors(holder.path, part, holder.config, holder.progressive)
    if found is None:
        raise UsageError(
            holder.path, expected=f"{TENSOR_PARTS[part]}.safetensors, for elastic weight consolidation", got="none",
            remedy="Measure it first: tritter fisher CHECKPOINT --data WHAT-IT-KNOWS.",
        )  # fmt: skip
    require_whole(found, holder.config, what=part, where=holder.path / TENSOR_PARTS[part])
    return found


def _checked_constant(holder: Holder) -> float:
    """What the penalty is at the anchor; the unit is checked on the way, without which lambda would mean nothing."""
    known = holder.progressive.ewc_config
    unit = None if known is None else known.unit
    if unit != UNIT:
        raise FormatError(
            f"{holder.path / PROGRESSIVE}: ewc_config.unit", expected=f"{UNIT!r}, in which lambda is understood here",
            got="none" if unit is None else repr(unit),
            remedy="Measure it anew with `tritter fisher`, or rescale it and name the unit.",
        )  # fmt: skip
    return (known.constant if known is not None else None) or 0.0
