"""Whether what Orbax raises says that a checkpoint is damaged, or that the place where it lies is out of reach."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import jax
from tprog import TritterError, UsageError
from tprog.bucket import quiet

UNREADABLE = (ValueError, KeyError, TypeError, OSError)
"""What Orbax raises where it cannot read a checkpoint."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_OURS = (AttributeError, AssertionError, NameError, TypeError, TritterError, jax.errors.JaxRuntimeError)
"""Mistakes in a program, memory that is full, another process that is gone: none of them is the place's fault."""

_OUT_OF_REACH = re.compile(
    r"\b(ABORTED|CANCELLED|DEADLINE_EXCEEDED|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE|UNKNOWN)\b"
    "|retry attempts failed|HTTP response code|CURL error|Bad Request"
)
"""What tensorstore and gcsfs say where it is not the file that is wrong."""


def reason_of(error: BaseException) -> BaseException:
    """What is behind an error: Orbax wraps it in its attempts at other formats."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def is_damage(error: BaseException) -> bool:
    """Whether an error in reading is the checkpoint's own: files that are missing, cut or not what they should be.

    Example:
        >>> is_damage(FileNotFoundError()), is_damage(ValueError("NOT_FOUND: Error opening zarr3"))
        (True, True)
        >>> is_damage(PermissionError()), is_damage(ValueError("ABORTED: All 32 retry attempts failed"))
        (False, False)
    """
    reason = reason_of(error)
    if isinstance(reason, OSError):
        return isinstance(reason, _ABSENT) or reason.errno == errno.EIO
    return isinstance(reason, UNREADABLE) and not _OUT_OF_REACH.search(str(reason))


@contextmanager
def reached(place: str, purpose: Literal["opened", "read", "written", "moved"]) -> Iterator[None]:
    """A context in which it is told plainly that a disk is full or a bucket out of reach; damage comes as it is.

    Args:
        place: where the checkpoints lie.
        purpose: what is done with them.

    Raises:
        UsageError: the place refuses that.
    """
    try:
        with quiet():
            yield
    except Exception as error:  # gcsfs, google-cloud-storage and tensorstore have errors of their own
        reason = reason_of(error)
        damaged = purpose == "read" and is_damage(error)
        if damaged or isinstance(reason, _OURS) or not isinstance(reason, Exception):
            raise
        raise UsageError(
            place,
            expected=f"checkpoints that can be {purpose}",
            got=f"{type(reason).__name__}: {reason}".partition("\n")[0][:300],
            remedy="Mend that, and run the same command: a run goes on from its last whole checkpoint.",
        ) from error


def list_anew() -> None:
    """For this process, what others write or move on a bucket is seen: gcsfs would remember its first look."""
    from fsspec.config import conf

    conf["gcs"] = {**conf.get("gcs", {}), "use_listings_cache": False}
