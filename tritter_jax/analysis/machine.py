"""What this machine can hold."""

import os
from dataclasses import dataclass

import jax
from tprog import ModelConfig, count_parameters

BYTES_A_PARAMETER = 16
"""Training in float32 with AdamW: weight, gradient and two moments; activations come on top."""


@dataclass(frozen=True)
class Memory:
    """Memory that a model can be trained in, and what it belongs to."""

    nbytes: int
    name: str


def this_machine() -> Memory:
    """The memory of all accelerators, or of the host where there is none.

    Example:
        >>> this_machine().nbytes > 1 << 30
        True
    """
    devices = jax.devices()
    stats = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in found for found in stats):
        return Memory(sum(found["bytes_limit"] for found in stats), f"{len(devices)} x {devices[0].device_kind}")
    return Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the host's memory")


def training_bytes(config: ModelConfig) -> int:
    """Bytes that training takes before activations.

    Example:
        >>> import tprog
        >>> training_bytes(tprog.named_size("3B"))
        33997004800
    """
    return BYTES_A_PARAMETER * count_parameters(config)
