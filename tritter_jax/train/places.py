"""Where a run's checkpoints lie: in its directory, in another one, or on a bucket."""

from pathlib import Path

from tprog import UsageError
from tprog.bucket import require_writable
from tprog.disk import is_url

from tritter_jax.train.config import RunConfig
from tritter_jax.train.processes import is_first

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
    if is_first():
        require_writable(str(place))
    _list_anew()


def _list_anew() -> None:
    """What another process writes or moves on a bucket is seen: gcsfs would remember its first look."""
    from fsspec.config import conf

    conf["gcs"] = {**conf.get("gcs", {}), "use_listings_cache": False}
