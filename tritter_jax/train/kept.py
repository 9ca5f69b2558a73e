"""What a run is to hold on to of earlier tasks: whether its model brought it along, and whether it means it."""

from collections.abc import Sequence

from tprog import UsageError
from tprog.layout import PROGRESSIVE
from tprog.paths import real_path

from tritter_jax.continual.stored import Holder, check_stored
from tritter_jax.data.builtin import PREFIX
from tritter_jax.train.config import RunConfig


def check_kept(settings: RunConfig, holder: Holder | None) -> None:
    """Hold what a run asks for under [ewc] against what its model brought along.

    Args:
        settings: the run's.
        holder: the checkpoint that it goes on from, or its own `start`, if any.

    Raises:
        UsageError: a penalty is asked for, and there is no Fisher information, or it is switched off.
        FormatError: it is of another model or of another unit.
    """
    if not settings.ewc.lambda_:
        return
    asked = f"ewc.lambda={settings.ewc.lambda_:g}"
    if holder is None:
        raise UsageError(
            asked, expected="a checkpoint to go on from", got="a model that has learned nothing yet",
            remedy="Give [model] a checkpoint with Fisher information, or set ewc.lambda=0.",
        )  # fmt: skip
    check_stored(holder)
    known = holder.progressive.ewc_config
    if known is None or not known.enabled:
        raise UsageError(
            f"{asked}, {holder.path / PROGRESSIVE}: ewc_config.enabled", expected="true", got="false",
            remedy="Measure the Fisher information anew with `tritter fisher`, or set ewc.lambda=0.",
        )  # fmt: skip


def warning_of(settings: RunConfig, holder: Holder) -> str | None:
    """What to tell of a run that learns the very data that it is to hold on to; None where it does not."""
    known, train = holder.progressive.ewc_config, settings.data.train
    measured = None if known is None else known.data
    if measured is None or _places([measured]) != _places([train] if isinstance(train, str) else train):
        return None
    return (
        f"warning: the Fisher information was measured on {measured}, which is data.train as well: "
        "the penalty holds the run back from learning it further"
    )


def _places(names: Sequence[str]) -> set[str]:
    return {name if name.startswith(PREFIX) else str(real_path(name)) for name in names}
