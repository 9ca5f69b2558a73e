"""Several processes that train one model together: how they find one another, and what each of them holds.

Every process runs the same command. They meet through JAX's coordination service, which also ends all of them when
one is lost, so that a job fails whole and can be started again from its last checkpoint.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tprog import UsageError
from tprog.flax_host import processes

from tritter_jax.sharding import MESH_AXES, replicated

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_LOST_AFTER = 20
"""Seconds without a sign of life after which a process counts as lost, and the others are ended."""

T = TypeVar("T")


def start_processes(*, distributed: bool = False, environment: Mapping[str, str] | None = None) -> None:
    """Join the other processes of the job; call it before anything else touches a device.

    Where the environment names the coordinator, the number of processes and this one's number
    (`JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`), those are used. Otherwise, with `distributed`,
    `jax.distributed.initialize()` finds them out itself, as it can on TPU pods and under Slurm, Open MPI and
    Kubernetes. Otherwise there is one process, and nothing is done; also where JAX was initialised already.

    Args:
        distributed: find the other processes out.
        environment: in place of `os.environ`.

    Raises:
        UsageError: the three variables do not go together, or the other processes were not found.

    Example:
        >>> start_processes(environment={})
        >>> start_processes(environment={"JAX_PROCESS_ID": "0"})
        Traceback (most recent call last):
        tprog.errors.UsageError: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES: expected all of the three ... or none,
        got only JAX_PROCESS_ID. ...
    """
    given = _from_environment(os.environ if environment is None else environment)
    if jax.distributed.is_initialized() or (given is None and not distributed):
        return
    try:
        jax.distributed.initialize(
            **(given or {}), heartbeat_timeout_seconds=_LOST_AFTER, shutdown_timeout_seconds=_LOST_AFTER
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            "--distributed" if given is None else ADDRESS,
            expected="the other processes of this job",
            got=str(error).strip().partition("\n")[0][:200] or type(error).__name__,
            remedy=f"Check that all were started alike, or set {ADDRESS}, {COUNT} and {NUMBER} in each.",
        ) from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any] | None:
    names = (ADDRESS, COUNT, NUMBER)
    missing = [name for name in names if not environment.get(name)]
    if COUNT in missing and NUMBER in missing:
        return None  # JAX itself reads the address alone
    if missing:
        raise UsageError(
            ", ".join(missing), expected=f"all of the three variables {', '.join(names)}, or none",
            got=f"only {', '.join(name for name in names if name not in missing)}", remedy="Set the others as well.",
        )  # fmt: skip
    address, count, number = (environment[name] for name in names)
    if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
        raise UsageError(
            f"{COUNT}, {NUMBER}", expected="a number of processes, and one from 0 to it", got=f"{count}, {number}",
            remedy="Count processes from 0.",
        )  # fmt: skip
    if not address.rpartition(":")[2].isdecimal():
        raise UsageError(ADDRESS, expected="host:port", got=address, remedy="For example: 10.0.0.2:1234")
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(number)}


def is_first() -> bool:
    """Whether this is process 0, the one that writes what is written once."""
    return jax.process_index() == 0


def all_or_none(step: Callable[[], T]) -> T:
    """What a step gives, once every process has taken it; where it fails in one, it fails in all.

    Raises:
        UsageError: the step failed in another process.

    Example:
        >>> all_or_none(lambda: 3)
        3
    """
    result: Any = None
    failure: Exception | None = None
    try:
        result = step()
    except Exception as error:
        failure = error
    said = processes().gather("" if failure is None else (str(failure) or type(failure).__name__))
    if failure is not None:
        raise failure
    failed = [f"process {number}: {text}" for number, text in enumerate(said) if text]
    if failed:
        raise UsageError(
            "processes", expected="every process to be ready", got=failed[0].partition("\n")[0],
            remedy="Mend that, and start the job again.", findings=failed[1:],
        )  # fmt: skip
    return result


def batch_part(mesh: Mesh) -> tuple[int, int]:
    """Which part of every batch this process feeds, and into how many parts batches are divided.

    Processes whose devices lie along the tensor axis hold the same rows, and feed the same part.

    Raises:
        UsageError: a process has no device in the mesh, or rows of two parts.

    Example:
        >>> from tritter_jax.sharding import MeshShape, make_mesh
        >>> batch_part(make_mesh(MeshShape()))
        (0, 1)
    """
    parts, held = batch_parts(mesh, range(jax.process_count()))
    return parts.index(held[jax.process_index()]), len(parts)


def batch_parts(mesh: Mesh, processes: Iterable[int]) -> tuple[list[tuple[int, ...]], dict[int, tuple[int, ...]]]:
    """The parts that every batch is divided into, as rows of the mesh, and which of them each process feeds.

    Raises:
        UsageError: a process has no device in the mesh, or rows of two parts.
    """
    rows = np.asarray(mesh.devices).reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    held = {
        process: tuple(row for row, devices in enumerate(rows) if process in {each.process_index for each in devices})
        for process in processes
    }
    parts = sorted(set(held.values()))
    if not all(parts) or sum(map(len, parts)) != len(rows) or len(set(map(len, parts))) != 1:
        raise UsageError(
            "mesh", expected="each process to hold an equal part of the batch",
            got=f"data x fsdp = {len(rows)} over {len(held)} processes", remedy=_USE_ALL,
        )  # fmt: skip
    return parts, held


_USE_ALL = "Let data x fsdp x tensor be the devices of all processes, and the tensor axis divide those of one."


def spread(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has whole, laid over the devices of all; what lies so already stays.

    Args:
        tree: arrays, the same in every process, or laid as they shall be.
        shardings: one for each.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def lay(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(lay(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(lay, tree, shardings)


def any_process(mesh: Mesh) -> Callable[[bool], bool]:
    """A function that tells whether any process called it with True; every process calls it once a step.

    Where there are several, the answer is that of the call before: it is computed while the step runs, and costs
    nothing to wait for.
    """
    if jax.process_count() == 1:
        return lambda mine: mine
    over_all = NamedSharding(mesh, PartitionSpec(MESH_AXES))
    total = jax.jit(jnp.any, out_shardings=replicated(mesh))
    answers: list[Any] = []

    def ask(mine: bool) -> bool:
        every = np.full(mesh.size, mine)
        flags = jax.make_array_from_callback(every.shape, over_all, lambda index: every[index])
        answers.append(total(flags))
        return len(answers) > 1 and bool(answers.pop(0))

    return ask
