"""Several processes save and load one checkpoint of arrays that are spread over all of them."""

import json
import os
import socket
import subprocess
import sys

import pytest
import tprog.numpy
from tprog.gang import Gang, shared_directory
from tprog.verify import verify
from tprog.writer import write_checkpoint

from tests.tprog.files import assert_same_bits, random_arrays, small_config

SIZES = {
    "hidden_size": 16,
    "num_heads": 4,
    "num_kv_heads": 4,
    "intermediate_size": 12,
    "vocab_size": 32,
    "num_layers": 4,
}

MEMBER = """
import errno, json, sys
import jax
rank, port, source, target, fault = int(sys.argv[1]), *sys.argv[2:6]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
import jax.numpy as jnp
import tprog.flax, tprog.flax_state, tprog.tensorfile
from tests.tprog.files import small_config
from tprog.errors import TritterError
from tprog.params import param_specs
from tprog.tree import nest
config = small_config(**json.loads(sys.argv[6]))
mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
def axes(spec):
    names = iter("xy")
    return [next(names, None) if size % 2 == 0 and size > 1 else None for size in spec.shape]
def spread(spec):
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes(spec)))
shardings = nest({spec.path: spread(spec) for spec in param_specs(config)})
params = tprog.flax.load(source, shardings=shardings)
assert not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(params))
state = {"count": jnp.array(3), "mu": params}
if fault == "disk" and rank == 1:
    def fail(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")
    tprog.hashing.HashedFile.write = fail
try:
    tprog.flax.save(target, params, config, fisher=params, opt_state=state, data_state={"offset": 5})
    print("saved")
except (TritterError, OSError) as error:
    print(type(error).__name__, str(error).replace("\\n", " "))
"""


def run(source, target, fault="none") -> list[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(rank), str(port), str(source), str(target), fault, json.dumps(SIZES)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        answers = [member.communicate(timeout=120) for member in members]
    finally:
        for member in members:
            member.kill()
            member.wait()
    assert all(output for output, _ in answers), [errors[-2000:] for _, errors in answers]
    return [output.strip().splitlines()[-1] for output, _ in answers]


@pytest.fixture
def source(tmp_path):
    config = small_config(**SIZES)
    return write_checkpoint(tmp_path / "source.tprog", config, random_arrays(config))


def test_two_processes_save_what_they_hold_together(tmp_path, source):
    target = tmp_path / "target.tprog"
    assert run(source, target) == ["saved", "saved"]
    expected = random_arrays(small_config(**SIZES))
    assert_same_bits(tprog.numpy.load(target), expected)
    assert_same_bits(tprog.numpy.load_part(target, "fisher"), expected)
    moments = tprog.numpy.load_part(target, "optimizer")
    assert moments["step"] == 3
    assert_same_bits({name: moments[f"exp_avg.{name}"] for name in expected}, expected)
    assert len(list(target.glob("weights-*.safetensors"))) >= 2
    assert verify(target).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.tprog", "target.tprog"]
    assert not list(target.glob(".*"))


def test_a_failure_of_one_process_is_told_to_the_other_and_leaves_nothing(tmp_path, source):
    first, second = run(source, tmp_path / "target.tprog", "disk")
    assert "process 1" in first
    assert "No space left" in first
    assert "a full disk" in second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.tprog"]


def test_a_taken_path_is_told_to_both(tmp_path, source):
    first, second = run(source, source)
    assert "--overwrite" in first
    assert "something there already" in second
    assert_same_bits(tprog.numpy.load(source), random_arrays(small_config(**SIZES)))


def test_one_process_is_a_gang_that_agrees_with_itself(tmp_path):
    gang = Gang()
    assert gang.share("a") == "a"
    assert gang.gather("b") == ["b"]
    gang.agree(None)
    with pytest.raises(RuntimeError, match="mine"):
        gang.agree(RuntimeError("mine"))
    assert shared_directory(gang, tmp_path, lambda: tmp_path) is tmp_path
