"""Where a run's checkpoints lie: in its directory, in another one, or on a bucket."""

from pathlib import Path

import jax
from tprog import UsageError
from tprog.bucket import require_writable
from tprog.disk import is_url

from tritter_jax.train.config import RunConfig

CHECKPOINTS = "checkpoints"


def checkpoints_of(settings: RunConfig) -> Path | str:
    """Where the checkpoints of a run lie: a directory, or the URL of one on a bucket.

    Example:
        >>> checkpoints_of(RunConfig.parse({"output": {"directory": "runs/a"}})).as_posix()
        'runs/a/checkpoints'
        >>> checkpoints_of(RunConfig.parse({"output": {"checkpoints": "gs://bucket/a"}}))
        'gs://bucket/a'
    """
    text = settings.output.checkpoints
    if text is None:
        return settings.directory / CHECKPOINTS
    return text.rstrip("/") if is_url(text) else settings.path(text)


def require_checkpoints(settings: RunConfig) -> None:
    """Make sure, before anything is computed, that a bucket for checkpoints is there and can be written.

    Every process of a job calls it: each has its own way to the bucket.

    Raises:
        UsageError: it is not, or the URL is none that checkpoints are written to.
    """
    place = checkpoints_of(settings)
    if not is_url(place):
        return
    scheme, _, rest = str(place).partition("://")
    if scheme != "gs" or "/" not in rest:
        raise UsageError(
            "output.checkpoints", expected="a directory, or one on a bucket: gs://bucket/path", got=str(place),
            remedy="Choose such a place.",
        )  # fmt: skip
    require_writable(str(place), f".writable-{jax.process_index()}")
