"""Strictness for every test: dtype and rank promotion are errors, so are warnings, and there are eight CPU devices.

Warnings, doctests and the checking of annotations are set in pyproject.toml, under [tool.pytest.ini_options].
"""

import contextlib
import gc
import os
import signal
from importlib.metadata import version

# Compiling takes nearly all of the tests' time, and this divides it by five. TRITTER_TEST_OPTIMIZED=1 runs what users
# run. XLA aborts on a flag that it does not know: this one is seen with jaxlib 0.10.
optimized = bool(os.environ.get("TRITTER_TEST_OPTIMIZED"))
flags = ["--xla_force_host_platform_device_count=8"]
if not optimized and version("jaxlib").startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(flags))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # transformers' ternary linears would compile with a C++ compiler

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", not optimized)

# The same examples on every run, however slow the machine.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")


def pytest_collection_finish():
    """The modules' objects are not searched for garbage again and again: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture
def x64():
    """Sixty-four bit types for one test."""
    with jax.enable_x64(True):
        yield


def _signals_pipe() -> int:
    """A pipe that gets the number of every signal that a handler in Python takes."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


_signals = _signals_pipe()


def _signalled() -> set[int]:
    with contextlib.suppress(BlockingIOError):
        return set(os.read(_signals, 4096)) & {signal.SIGTERM, signal.SIGINT}
    return set()


@pytest.fixture(autouse=True)
def _ends_when_told_to(request):
    """A run under test takes SIGTERM and Ctrl-C and stops: unless the test sent them, all the tests are meant."""
    _signalled()  # those of doctests
    yield
    numbers = _signalled()
    if hasattr(request.config, "workerinput"):
        numbers.discard(signal.SIGINT)  # it reaches the process that hands out tests, which lists the failures
    if numbers and not request.node.get_closest_marker("sends_signals"):
        pytest.exit(f"asked to end by signal {min(numbers)}", returncode=128 + min(numbers))


_TESTS_A_CLEARING = 100
_ran = 0


@pytest.fixture(autouse=True)
def _forgotten_programs():
    """Compiled programs freed from time to time: each takes memory maps, of which a process may have 65,530."""
    global _ran
    yield
    _ran += 1
    if _ran % _TESTS_A_CLEARING == 0:
        jax.clear_caches()
