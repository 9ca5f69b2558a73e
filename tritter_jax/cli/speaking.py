"""What `--verbose` adds: versions before a command, log records during it, time and memory after it.

And what `--quiet` takes away: what libraries say of their own accord.
"""

import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata

from tprog.printable import escape_controls

from tritter_jax import __version__
from tritter_jax.cli.output import err, human_bytes, manner

_TOLD = ("jax", "flax", "orbax-checkpoint", "safetensors", "torch", "transformers", "huggingface_hub")


class _Formatter(logging.Formatter):
    """Log records name what is in files, and go to a terminal too."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record))


@contextmanager
def speaking() -> Iterator[None]:
    """A context in which a command tells as much as was asked for."""
    asked = manner.get()
    with _hushed() if asked.quiet else _told() if asked.verbose else nullcontext():
        yield


@contextmanager
def _hushed() -> Iterator[None]:
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _told() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    err().print(f"tritter-jax {__version__}, Python {platform.python_version()}, {_versions()}", markup=False)
    since = time.perf_counter()
    try:
        yield
    finally:
        taken = f"took {time.perf_counter() - since:.1f} s"
        err().print(f"{taken}, at most {human_bytes(peak)} of memory" if (peak := _peak()) else taken)


def _versions() -> str:
    found = []
    for name in _TOLD:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _peak() -> int | None:
    """Largest resident memory so far, in bytes; None where the system does not count it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
