"""Grow on a mesh with axis names of your own: python -m examples.own_model.mesh

Four CPU devices stand for four accelerators. Arrays keep their sharding; explicit axes, as `jax.make_mesh` makes them
by default, are as good as automatic ones.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from examples.own_model.pytree import LARGE, ROWS, SMALL, init
from tritter_jax.growth import grow, plan_axes

PLACES = {
    "wq": PartitionSpec("fsdp", "model"),
    "wk": PartitionSpec("fsdp", "model"),
    "wv": PartitionSpec("fsdp", "model"),
    "wo": PartitionSpec("model", "fsdp"),
    "up": PartitionSpec("fsdp", "model"),
    "down": PartitionSpec("model", "fsdp"),
    "head": PartitionSpec("fsdp"),
}


def main() -> dict:
    plan = plan_axes(ROWS, before=SMALL, after=LARGE)
    alone = grow(init(SMALL), plan)
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((2, 2), ("fsdp", "model"), devices=jax.devices()[:4], axis_types=(kind, kind))

        def place(keys, leaf, mesh=mesh):
            return jax.device_put(leaf, NamedSharding(mesh, PLACES.get(keys[-1].key, PartitionSpec())))

        params = jax.tree_util.tree_map_with_path(place, init(SMALL))
        grown = grow(params, plan, donate=True)
        same = all(bool((a == jax.device_put(b, a.sharding)).all())
                   for a, b in zip(jax.tree.leaves(grown), jax.tree.leaves(alone), strict=True))  # fmt: skip
        wq = grown["blocks"][0]["wq"]
        print(f"{kind.name} axes: wq {wq.shape} as {wq.sharding.spec}; equal to growth on one device: {same}")
        assert same
    return grown


if __name__ == "__main__":
    main()
