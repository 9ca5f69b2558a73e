"""Training on processors: cores as devices, memory kept from step to step, matrix products by oneDNN.

None of it changes what is computed, but for the order in which a product's terms are summed.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys
from functools import cache
from platform import machine

import jax

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Parameters of glibc's `mallopt`."""
_ONEDNN = {
    "xla_cpu_use_onednn": True,
    "xla_cpu_experimental_onednn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}


def prepare_processors(devices: int = 1, *, keep_memory: bool = True) -> None:
    """Make the most of a machine without accelerators; call it before anything else touches a device.

    A program that JAX runs takes its temporary memory anew each time, and glibc gives large blocks back to the system
    as they are freed, which then has to clear every page again: 5 to 10 % of a training step of 10M parameters. From
    here on this process keeps what it has freed, unless it is told not to. And a core computes at most what is
    divided for it: with as many devices as cores, a batch is divided once, instead of every operation by itself.

    Where there is an accelerator, or JAX has found its devices already, nothing changes.

    Args:
        devices: how many devices a mesh wants; as many are made, at most one of each core, unless the environment
            (`XLA_FLAGS`, `JAX_NUM_CPU_DEVICES`) says how many there shall be.
        keep_memory: whether freed memory is kept for the next step.

    Example:
        >>> prepare_processors()
    """
    if not _only_processors():
        return
    if keep_memory:
        _keep_freed_memory()
    devices = min(devices, _cores())
    if devices > 1 and not _devices_named():
        with contextlib.suppress(RuntimeError):  # JAX has its devices
            jax.config.update("jax_num_cpu_devices", devices)


def product_options(platform: str) -> dict[str, bool | str]:
    """What XLA is told when it compiles for a platform: on processors to leave matrix products to oneDNN, if it can.

    Example:
        >>> options = product_options("cpu")
        >>> jax.jit(lambda x: x @ x, compiler_options=options)(jax.numpy.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        >>> product_options("tpu")
        {}
    """
    return dict(_ONEDNN) if platform == "cpu" and _has_onednn() else {}


@cache
def _has_onednn() -> bool:
    """Whether this XLA knows the options, which it calls experimental."""
    if machine() not in ("x86_64", "AMD64"):
        return False
    matrix = jax.ShapeDtypeStruct((2, 2), "float32")
    try:
        jax.jit(lambda x: x @ x).lower(matrix).compile(compiler_options=dict(_ONEDNN))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _only_processors() -> bool:
    """Told without asking for a device, which would find them."""
    named = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if named:
        return named == "cpu"
    return not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def _keep_freed_memory() -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_ARENA_MAX, 1)  # another arena's blocks would be too small, and mapped by themselves


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices_named() -> bool:
    flag = "xla_force_host_platform_device_count"
    named: int = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    return named != -1 or flag in os.environ.get("XLA_FLAGS", "")
