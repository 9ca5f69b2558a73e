"""What training makes of a machine without accelerators; each case in a process in which JAX has not begun."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tritter_jax.train import processors
from tritter_jax.train.processors import product_options

CORES = processors._cores()
GLIBC = sys.platform.startswith("linux") and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")


def found(code: str, **environment: str):
    """What a program prints, in JSON; its environment names neither platform nor devices but as given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", f"from tritter_jax.train.processors import *\nimport jax, json\n{code}"],
        env={**kept, "JAX_PLATFORMS": "cpu", **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


COUNTED = "print(json.dumps(jax.device_count()))"


@pytest.mark.skipif(CORES < 2, reason="one core")
def test_cores_become_devices():
    assert found(COUNTED) == 1
    assert found(f"prepare_processors(2); {COUNTED}") == 2
    assert found(f"prepare_processors(4096); {COUNTED}") == CORES


@pytest.mark.parametrize(
    ("code", "environment", "expected"),
    [
        ("prepare_processors(2)", {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
        ("prepare_processors(2)", {"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ("jax.devices(); prepare_processors(2)", {}, 1),
    ],
    ids=["flag", "variable", "too_late"],
)
def test_what_is_settled_stays(code, environment, expected):
    assert found(f"{code}; {COUNTED}", **environment) == expected


STEPS = """
import resource
step = jax.jit(lambda x: (x @ x.T @ x).sum())  # a temporary of 64 MiB
x = jax.numpy.ones((4096, 8))
step(x).block_until_ready(), step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step(x).block_until_ready()
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
"""


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_memory_is_kept_from_step_to_step():
    returned = found(STEPS)
    assert returned > 5 * 4096  # pages of each temporary
    assert found(f"prepare_processors()\n{STEPS}") < returned / 10
    assert found(f"prepare_processors(keep_memory=False)\n{STEPS}") > returned / 2


def test_an_accelerator_that_may_be_there_changes_nothing(monkeypatch):
    called = []
    monkeypatch.setattr(processors, "_keep_freed_memory", lambda: called.append(True))
    monkeypatch.setattr(processors, "_only_processors", lambda: False)
    processors.prepare_processors(2)
    assert not called
    monkeypatch.setattr(processors, "_only_processors", lambda: True)
    processors.prepare_processors(1, keep_memory=False)
    assert not called
    processors.prepare_processors(1)
    assert called


@pytest.fixture
def _asked_anew():
    processors._has_onednn.cache_clear()
    yield
    processors._has_onednn.cache_clear()


@pytest.mark.usefixtures("_asked_anew")
def test_products_go_to_onednn_where_xla_has_it(monkeypatch):
    options = product_options("cpu")
    if not options:
        pytest.skip("not on this machine")
    x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    program = jax.jit(lambda x: x @ x.T)
    plain, chosen = (program.lower(x).compile(compiler_options=each) for each in (None, options))
    assert "%onednn_fusion" in chosen.as_text()
    assert "%onednn_fusion" not in plain.as_text()
    np.testing.assert_allclose(chosen(x), plain(x), rtol=1e-5, atol=1e-5)

    processors._has_onednn.cache_clear()
    monkeypatch.setattr(processors, "_ONEDNN", {"xla_cpu_of_another_version": True})
    assert product_options("cpu") == {}


@pytest.mark.slow
@pytest.mark.skipif(CORES < 2, reason="one core")
def test_a_run_trains_on_two_cores(tmp_path):
    (tmp_path / "text").write_text("".join(f"{i} and {i} is {2 * i}.\n\n" for i in range(400)))
    changes = ("model.size=test", "training.steps=2", "data.batch_size=4", "data.sequence_length=16", "mesh.data=2")
    options = [word for change in changes for word in ("--set", change)]
    command = ["train", "--data", f"{tmp_path / 'text'}", "--out", f"{tmp_path / 'run'}", *options, "--json"]
    result = found(
        f"import sys; sys.argv[1:] = {command}\nfrom tritter_jax.cli.main import main; main()",
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    )
    assert result["step"] == 2


def test_more_devices_than_cores_are_refused_with_their_number(tmp_path):
    (tmp_path / "text").write_text("one and one is two.\n\n" * 100)
    command = ["train", "--data", f"{tmp_path / 'text'}", "--out", f"{tmp_path / 'run'}", "--set", "model.size=test"]
    command += ["--set", "mesh.data=4096", "--set", "data.batch_size=4096", "--json"]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        found(f"import sys; sys.argv[1:] = {command}\nfrom tritter_jax.cli.main import main; main()")
    assert f"at most {CORES} device" in failed.value.stderr + failed.value.stdout
