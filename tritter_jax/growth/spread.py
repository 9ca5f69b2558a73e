"""Growing an array that is spread over a mesh: entries travel between neighbours, and no device sees the whole.

XLA gathers the operand of a `take` along a split axis on every device, which for a parameter that is split along that
axis alone is all of it. Here each device takes from one shard at a time and keeps the entries that are its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped
from tprog import GrowthError
from tprog.params import Axis

Names = tuple[str, ...]
"""The mesh axes that split one axis of an array; none where it is whole."""


@dataclass(frozen=True)
class Spread:
    """How an array lies on a mesh before it grows and after.

    Args:
        mesh: the devices.
        before: mesh axes along each of the old array's axes.
        after: mesh axes along each of the grown array's axes.
    """

    mesh: Mesh
    before: tuple[Names, ...]
    after: tuple[Names, ...]

    @property
    def sharding(self) -> NamedSharding:
        """The sharding of the grown array."""
        return NamedSharding(self.mesh, _spec(self.after))

    @property
    def old_sharding(self) -> NamedSharding:
        """The sharding of the old array."""
        return NamedSharding(self.mesh, _spec(self.before))

    def layer(self) -> "Spread":
        """The same for one layer of a stack."""
        return Spread(self.mesh, self.before[1:], self.after[1:])

    def take(self, x: Shaped[Array, "..."], gather: Int[np.ndarray, " new"], axis: int) -> Shaped[Array, "..."]:
        """`jnp.take` along an axis; the axes before it have been taken along already, those behind it have not."""
        here, there = self.before[axis], self.after[axis]
        if not here or here != there:
            return jnp.take(x, gather, axis=axis)
        others = [*self.after[:axis], *self.before[axis:]]
        sizes = [self.mesh.shape[name] for name in here]
        shards = math.prod(sizes)
        old, new = x.shape[axis] // shards, len(gather) // shards
        # ppermute counts devices in the mesh's order of its axes, whatever the order of their names.
        order = sorted(range(len(here)), key=lambda place: self.mesh.axis_names.index(here[place]))
        rank = np.argsort(np.arange(shards).reshape(sizes).transpose(order).reshape(-1))
        names = tuple(here[place] for place in order)
        owner = gather.reshape(shards, new) // old
        place = jnp.asarray(gather.reshape(shards, new) % old)

        def local(x: Array) -> Array:
            me = jax.lax.axis_index(here)
            result = jnp.zeros((*x.shape[:axis], new, *x.shape[axis + 1 :]), x.dtype)
            for shift in range(shards):
                wanted = [to for to in range(shards) if ((to + shift) % shards == owner[to]).any()]
                if not wanted:
                    continue
                pairs = [(int(rank[(to + shift) % shards]), int(rank[to])) for to in wanted]
                shard = x if shift == 0 else jax.lax.ppermute(x, names, pairs)
                found = jnp.asarray(owner)[me] == (me + shift) % shards
                aligned = found.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
                taken = jnp.take(shard, place[me], axis=axis)
                result = jnp.where(jnp.broadcast_to(aligned, taken.shape), taken, result)
            return result

        spread = jax.shard_map(
            local, mesh=self.mesh, in_specs=_spec(others), out_specs=_spec(others), check_vma=False
        )
        return spread(x)


def _spec(names: Sequence[Names]) -> PartitionSpec:
    return PartitionSpec(*((along[0] if len(along) == 1 else along) if along else None for along in names))


def spread_of(shape: Sequence[int], own: NamedSharding, due: NamedSharding) -> Spread:
    """How an array lies: by its own sharding before growth, as far as that divides it, and by `due` after."""
    mesh = due.mesh
    assert isinstance(mesh, Mesh)
    before = axis_names(own if own.mesh == mesh else due, len(shape))
    return Spread(mesh, fitting(before, shape, mesh), axis_names(due, len(shape)))


def fitting(names: Sequence[Names], shape: Sequence[int], mesh: Mesh) -> tuple[Names, ...]:
    """The same mesh axes where they divide the shape, and none along the axes where they do not."""
    sizes = [math.prod(mesh.shape[name] for name in along) for along in names]
    return tuple(along if size % parts == 0 else () for along, size, parts in zip(names, shape, sizes, strict=True))


def axis_names(sharding: NamedSharding, rank: int) -> tuple[Names, ...]:
    """The mesh axes along each axis of an array."""
    entries = [*sharding.spec, *[None] * (rank - len(sharding.spec))]
    return tuple((entry,) if isinstance(entry, str) else tuple(entry or ()) for entry in entries)


@runtime_checkable
class Lengths(Protocol):
    """An array's axes and the length of each."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Its logical axes."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each."""
        ...


def check_divides(specs: Sequence[tuple[Lengths, NamedSharding | None]]) -> None:
    """Refuse shardings that do not divide the grown parameters.

    Args:
        specs: each grown parameter's axes with their lengths, such as its row in the table, and its sharding.

    Raises:
        GrowthError: some axis is no multiple of the mesh axes that split it; every one is listed.
    """
    findings: dict[str, str] = {}
    for spec, sharding in specs:
        if sharding is None:
            continue
        for axis, size, names in zip(spec.axes, spec.shape, axis_names(sharding, len(spec.shape)), strict=True):
            parts = math.prod(sharding.mesh.shape[name] for name in names)
            if size % parts:
                nearest = max(parts, round(size / parts) * parts)
                findings[
                    f"{axis.name} has length {size} after growth, not a multiple of {' x '.join(names)} = {parts}"
                ] = f"{axis.name} {nearest}"
    if findings:
        first, *more = findings
        raise GrowthError(
            "mesh", expected="axes that divide the grown model", got=first,
            remedy=f"The nearest that works is {', '.join(dict.fromkeys(findings.values()))}; or give `shardings` "
            "that leave the axis whole, or a smaller mesh.",
            findings=more,
        )  # fmt: skip
