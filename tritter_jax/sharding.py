"""Logical axes to mesh axes: the one place that says how parameters and batches lie on the devices.

A mesh has the axes `data` (batch only), `fsdp` (batch, and the parameters' hidden axis) and `tensor` (heads,
feed-forward and vocabulary). Sizes of 1 cost nothing, so the same rules serve one device and many.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped
from tprog import ModelConfig, ParamSpec, UsageError, param_specs
from tprog.params import Axis
from tprog.tree import nest

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which the batch is split."""

Rules = Mapping[str, str | None]

DEFAULT_RULES: dict[str, str | None] = {
    "layers": None,
    "hidden": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
}
"""For each logical axis of the parameter table the mesh axis that splits it, or None."""


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Number of devices along each mesh axis.

    Example:
        >>> MeshShape(fsdp=4, tensor=2).devices
        8
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def devices(self) -> int:
        """Number of devices in all."""
        return self.data * self.fsdp * self.tensor

    @property
    def batch_shards(self) -> int:
        """Number of parts the batch is split into."""
        return self.data * self.fsdp


def make_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of the first devices there are, neighbours in it being neighbours in the machine.

    Of several slices, each of which is connected within, the data axis counts the slices first: only the gradients'
    sums then go from one to another.

    Args:
        shape: devices along each axis.
        devices: those there are; those of this job when None.

    Raises:
        UsageError: there are fewer devices than the mesh has places, or the slices do not lie along the data axis.

    Example:
        >>> make_mesh(MeshShape()).axis_names
        ('data', 'fsdp', 'tensor')
    """
    devices = jax.devices() if devices is None else devices
    if shape.devices > len(devices):
        raise UsageError(
            "mesh",
            expected=f"at most {len(devices)} devices, as this machine has",
            got=f"{shape.data} x {shape.fsdp} x {shape.tensor} = {shape.devices}",
            remedy="Make data, fsdp or tensor smaller.",
        )
    sizes = (shape.data, shape.fsdp, shape.tensor)
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if slices == 1:
        placed = mesh_utils.create_device_mesh(
            sizes, devices[: shape.devices], allow_split_physical_axes=devices[0].platform == "tpu"
        )
    elif shape.data % slices or shape.devices != len(devices):
        raise UsageError(
            "mesh.data", expected=f"a multiple of the {slices} slices, the mesh taking all {len(devices)} devices",
            got=f"{shape.data} x {shape.fsdp} x {shape.tensor} = {shape.devices}", remedy="Change the mesh.",
        )  # fmt: skip
    else:
        placed = mesh_utils.create_hybrid_device_mesh(
            (shape.data // slices, shape.fsdp, shape.tensor), (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    return Mesh(placed, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def partition_spec(spec: ParamSpec, rules: Rules = DEFAULT_RULES) -> PartitionSpec:
    """How one parameter is split. Norm gains are small and every device needs them whole.

    Example:
        >>> import tprog
        >>> from tprog.params import spec_of
        >>> tuple(partition_spec(spec_of(tprog.named_size("3B"), "layers.attention.query")))
        (None, 'tensor', None, 'fsdp')
    """
    return PartitionSpec(*(_mesh_axis(axis, rules) for axis in spec.axes))


def _mesh_axis(axis: Axis, rules: Rules) -> str | None:
    return None if axis.role in ("gain", "tied_gain") else rules.get(axis.name)


def param_shardings(config: ModelConfig, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> dict[str, Any]:
    """A tree of shardings in the shape of a model's parameters.

    Raises:
        UsageError: the mesh lacks an axis that the rules name, or the length of an axis is no multiple of the mesh
            axis that splits it; every one is listed.
    """
    require_axes(mesh, [along for along in rules.values() if along is not None])
    sizes = dict(mesh.shape)
    findings = sorted(
        {
            f"{axis.name} has length {length}, not a multiple of {along} = {sizes[along]}"
            for spec in param_specs(config)
            for axis, length in zip(spec.axes, spec.shape, strict=True)
            if (along := _mesh_axis(axis, rules)) is not None and length % sizes[along]
        }
    )
    if findings:
        raise UsageError(
            "mesh", expected="axes that divide the model", got=findings[0],
            remedy="Make that mesh axis smaller, or map the axis to none under [mesh.rules].", findings=findings[1:],
        )  # fmt: skip
    return nest({spec.path: NamedSharding(mesh, partition_spec(spec, rules)) for spec in param_specs(config)})


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch of token ids [B, S]: rows over the batch axes.

    Raises:
        UsageError: the mesh has no such axes.
    """
    require_axes(mesh, BATCH_AXES)
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, None))


def require_axes(mesh: Mesh, names: Iterable[str]) -> None:
    """Refuse a mesh that lacks some axes.

    Raises:
        UsageError: it does.
    """
    missing = sorted({name for name in names if name not in mesh.axis_names})
    if missing:
        raise UsageError(
            "mesh", expected=f"an axis named {missing[0]}", got=f"only {', '.join(map(str, mesh.axis_names))}",
            remedy="Make the mesh with `tritter_jax.sharding.make_mesh`, or pass rules that name its own axes.",
            findings=[f"{name} is missing" for name in missing[1:]],
        )  # fmt: skip


def automatic(mesh: Mesh) -> Mesh:
    """The same devices and axes, along which XLA places what is computed; explicit axes ask for a sharding each time.

    `jax.device_put` to it copies nothing.
    """
    if _is_automatic(mesh):
        return mesh
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def on_automatic(tree: Any) -> Any:
    """A tree whose arrays on meshes lie on `automatic` ones, with the shardings they have."""
    return jax.tree.map(
        lambda leaf: (
            jax.device_put(leaf, NamedSharding(automatic(mesh), leaf.sharding.spec))
            if (mesh := _mesh_of(leaf)) is not None and not _is_automatic(mesh)
            else leaf
        ),
        tree,
    )


def mesh_in_use(tree: Any) -> AbstractContextManager[Any]:
    """A context in which the mesh that a tree's arrays lie on is set, so that activations are split over it.

    Raises:
        UsageError: within `jax.jit`, where no other mesh can be set, the axes in use are explicit.
    """
    leaves = jax.tree.leaves(tree)
    if isinstance(jnp.zeros(()), Tracer) or any(isinstance(leaf, Tracer) for leaf in leaves):
        meshes = [jax.typeof(leaf).sharding.mesh for leaf in leaves if hasattr(leaf, "shape")]
        if not all(_is_automatic(mesh) for mesh in (*meshes, jax.sharding.get_abstract_mesh())):
            raise UsageError(
                "mesh", expected="axes of the type Auto within jax.jit", got="Explicit ones",
                remedy="Make the mesh with `tritter_jax.sharding.make_mesh`, or jax.make_mesh(..., axis_types=Auto).",
            )  # fmt: skip
        return nullcontext()
    found = next((mesh for leaf in leaves if (mesh := _mesh_of(leaf)) is not None), None)
    if found is not None:
        return jax.set_mesh(automatic(found))
    if not _is_automatic(jax.sharding.get_abstract_mesh()):
        return jax.set_mesh(automatic(jax.sharding.get_mesh()))
    return nullcontext()


def _mesh_of(leaf: Any) -> Mesh | None:
    if isinstance(leaf, Tracer) or not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
        return None
    mesh = leaf.sharding.mesh
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def _is_automatic(mesh: Any) -> bool:
    return AxisType.Explicit not in mesh.axis_types


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
    """Ask that axis 0 be split over the batch axes of the mesh in use; unchanged where no such mesh is set."""
    if not _mesh_is_set():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *(None,) * (x.ndim - 1)))


def look_up(table: Shaped[Array, "v d"], rows: Int[Array, "b s"]) -> Shaped[Array, "b s d"]:
    """Rows of a table whose columns lie along fsdp, for a batch that does too; as `jnp.take` where no mesh is set.

    Each device looks up its own columns for the rows of all, and then they change places. Left to itself, XLA gathers
    the table on every device, or copies the whole batch.
    """
    if not _mesh_is_set() or table.shape[1] % jax.sharding.get_abstract_mesh().shape[BATCH_AXES[1]]:
        return split_batch(jnp.take(table, rows, axis=0))
    rows = jax.lax.with_sharding_constraint(rows, PartitionSpec(BATCH_AXES[0], None))
    taken = jnp.take(table, rows, axis=0)
    return split_batch(jax.lax.with_sharding_constraint(taken, PartitionSpec(BATCH_AXES[0], None, BATCH_AXES[1])))


def splits_parameters() -> bool:
    """Whether a mesh is in use that splits the parameters' hidden axis."""
    return _mesh_is_set() and jax.sharding.get_abstract_mesh().shape[BATCH_AXES[1]] > 1


def _mesh_is_set() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and set(BATCH_AXES) <= set(mesh.axis_names)
