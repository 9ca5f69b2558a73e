"""Strictness for every test: dtype and rank promotion are errors, so are warnings, and there are eight CPU devices.

Warnings, doctests and the checking of annotations are set in pyproject.toml, under [tool.pytest.ini_options].
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # transformers' ternary linears would compile with a C++ compiler

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling takes nearly all of the tests' time, and this halves it; TRITTER_TEST_OPTIMIZED=1 runs them as users do.
jax.config.update("jax_disable_most_optimizations", not os.environ.get("TRITTER_TEST_OPTIMIZED"))

# The same examples on every run, however slow the machine.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture
def x64():
    """Sixty-four bit types for one test."""
    with jax.enable_x64(True):
        yield
