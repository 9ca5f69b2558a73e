"""TPU slices that are not here: which there are, what their chips can do, and their devices for the compiler."""

import difflib
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.experimental import topologies
from tprog import UsageError

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A generation of TPU; all figures are for one device of JAX, which on tpu7x is half a chip.

    Args:
        name: as in topology names.
        kind: as JAX calls its devices.
        dimensions: of the torus.
        cores: what accelerator names such as v5p-8 count for each chip.
        devices: JAX devices on a chip.
        memory: bytes that programs may use, as the compiler reports them.
        flops: peak bfloat16 FLOP/s.
        bandwidth: peak bytes/s to and from that memory.
        links: peak bytes/s into the device from others of its slice, over all its links.
        network: peak bytes/s into the device from other slices.
        source: the page that states the peaks for a chip: links both ways, the network in bits.
    """

    name: str
    kind: str
    dimensions: int
    cores: int
    devices: int
    memory: int
    flops: float
    bandwidth: float
    links: float
    network: float
    source: str


_DOCS = "https://docs.cloud.google.com/tpu/docs"

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v5e", kind="TPU v5 lite", dimensions=2, cores=1, devices=1, memory=int(15.75 * GIB), flops=197e12,
            bandwidth=819e9, links=200e9, network=3.125e9, source=f"{_DOCS}/v5e",
        ),
        Chip(
            name="v5p", kind="TPU v5", dimensions=3, cores=2, devices=1, memory=int(95.74 * GIB), flops=459e12,
            bandwidth=2765e9, links=600e9, network=6.25e9, source=f"{_DOCS}/v5p",
        ),
        Chip(
            name="v6e", kind="TPU v6 lite", dimensions=2, cores=1, devices=1, memory=int(31.25 * GIB), flops=918e12,
            bandwidth=1638e9, links=400e9, network=12.5e9, source=f"{_DOCS}/v6e",
        ),
        Chip(
            name="tpu7x", kind="TPU7x", dimensions=3, cores=2, devices=2, memory=int(94.75 * GIB), flops=2307e12 / 2,
            bandwidth=7380e9 / 2, links=600e9 / 2, network=12.5e9 / 2, source=f"{_DOCS}/tpu7x",
        ),
    )
}  # fmt: skip
"""Every generation that programs are compiled for, by name; the peaks as those pages state them.

The pages give the links' bandwidth in both directions together, so half of it is here; the network of v5e for a pod
of 256 chips, that of the others for a chip. They give 16, 95, 32 and 192 GB of memory: what is here is what the
compiler leaves to programs.
"""

_PLANES = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_BLOCKS = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8))


@dataclass(frozen=True, kw_only=True)
class Topology:
    """One or several equal slices.

    Args:
        chip: the generation.
        shape: chips along each dimension of a slice.
        slices: number of slices.

    Example:
        >>> Topology.parse("v5p-64").name, Topology.parse("tpu7x:2x2x1").device_count
        ('v5p:2x4x4', 8)
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> "Topology":
        """A topology such as v5e:4x4, or the accelerator name of a slice, such as v5e-16.

        Raises:
            UsageError: there is no such slice; those nearest to it are named.
        """
        match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+){1,2})|([a-z0-9]+)-(\d+)", text)
        generation = (match[1] or match[3]).replace("v5litepod", "v5e") if match else re.split("[:-]", text)[0]
        chip = CHIPS.get(generation)
        if chip is None:
            near = difflib.get_close_matches(generation, CHIPS, n=1)
            raise UsageError(
                "topology", expected=f"one of {', '.join(CHIPS)}, and the shape of a slice, such as v5e:4x4",
                got=repr(text), remedy=f"Did you mean {near[0]}?" if near else "Choose one of those.",
            )  # fmt: skip
        shapes = _PLANES if chip.dimensions == 2 else _BLOCKS
        if match and match[2]:
            shape = tuple(int(size) for size in match[2].split("x"))
            if shape in shapes or (len(shape) == chip.dimensions == 3 and not any(size % 4 for size in shape)):
                return cls(chip=chip, shape=shape, slices=slices)
        elif match:
            for shape in shapes:
                if math.prod(shape) * chip.cores == int(match[4]):
                    return cls(chip=chip, shape=shape, slices=slices)
        names = [f"{chip.name}:{'x'.join(map(str, shape))}" for shape in shapes]
        raise UsageError(
            "topology", expected=f"a slice that there is: {', '.join(names)}", got=repr(text),
            remedy=f"Accelerator names count {'cores' if chip.cores > 1 else 'chips'}: "
            f"{chip.name}-{math.prod(shapes[2]) * chip.cores} is {names[2]}.",
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Its name as the compiler takes it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def device_count(self) -> int:
        """Number of JAX devices in all slices."""
        return math.prod(self.shape) * self.chip.devices * self.slices

    def require(self, devices: Sequence[Any]) -> None:
        """Refuse to run what is made for these slices on other devices.

        Args:
            devices: those there are, of all processes.

        Raises:
            UsageError: they are of another kind or number, or of another number of slices.
        """
        kinds = sorted({device.device_kind for device in devices})
        slices = len({getattr(device, "slice_index", None) for device in devices})
        if (kinds, len(devices), slices) == ([self.chip.kind], self.device_count, self.slices):
            return
        raise UsageError(
            "machine.topology",
            expected=f"the {self.device_count} devices ({self.chip.kind}) of {self.slices} x {self.name}",
            got=f"{len(devices)} ({' and '.join(kinds)})" + (f" in {slices} slices" if slices > 1 else ""),
            remedy="Start it on all hosts of that slice with --distributed. For another slice, find mesh and batch "
            "with `tritter tpu check`; to run it here, --set machine.topology= and a [mesh] of these devices.",
        )

    def devices(self) -> Sequence[Any]:
        """The devices, for compiling; nothing can be run on them.

        Raises:
            UsageError: the compiler is not installed, or does not know the slice.
        """
        require_compiler()
        several = {"num_slices": self.slices} if self.slices > 1 else {}
        try:
            return topologies.get_topology_desc(platform="tpu", topology_name=self.name, **several).devices
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"topology {self.name}", expected="a slice that the installed compiler knows",
                got=str(error).partition("\n")[0][:200], remedy="Install the libtpu that belongs to this jax.",
            ) from None  # fmt: skip


def require_compiler() -> None:
    """Refuse to go on without the TPU compiler.

    Raises:
        UsageError: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            "libtpu", expected="the TPU compiler, which runs on any Linux machine", got="none installed",
            remedy="Install the extra: pip install 'tritter-jax[tpu]' (half a gigabyte, Linux).",
        )  # fmt: skip
