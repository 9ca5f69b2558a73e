"""Trees on a mesh with axis names of the user's own: sharded alike after growth, whichever kind of axes it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tprog import GrowthError

from tests.growth.own.models import nested_lists
from tritter_jax.growth import grow, plan_axes

LARGER = {"layers": 3, "hidden": 20, "heads": 8, "mlp": 16}


def placed(tree, mesh, rows):
    def put(keys, leaf):
        name = keys[-1].key
        return jax.device_put(leaf, NamedSharding(mesh, rows.get(name, PartitionSpec())))

    return jax.tree_util.tree_map_with_path(put, tree)


def expected():
    model = nested_lists()
    plan = plan_axes(model.rows, before=model.before, after=LARGER)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.params)
    return params, plan, grow(params, plan)


# wq and wo fold heads and head_dim into one dimension, which is split among devices all the same.
ROWS = {
    "wq": PartitionSpec("rows", "columns"),
    "wo": PartitionSpec("columns", None),
    "in": PartitionSpec(None, "rows"),
    "embed": PartitionSpec(None, "rows"),
}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_arrays_keep_their_sharding_and_values(kind):
    params, plan, whole = expected()
    mesh = jax.make_mesh((2, 2), ("rows", "columns"), devices=jax.devices()[:4], axis_types=(kind, kind))
    grown = grow(placed(params, mesh, ROWS), plan)
    for (keys, leaf), one in zip(jax.tree_util.tree_flatten_with_path(grown)[0], jax.tree.leaves(whole), strict=True):
        assert np.array_equal(np.asarray(leaf), np.asarray(one)), keys
        assert leaf.sharding == NamedSharding(mesh, ROWS.get(keys[-1].key, PartitionSpec()))


def test_a_mesh_that_does_not_divide_the_grown_tree_is_refused():
    params, _, _ = expected()
    model = nested_lists()
    plan = plan_axes(model.rows, before=model.before, after={"mlp": 11})
    mesh = jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
    with pytest.raises(GrowthError, match="mlp has length 11 after growth, not a multiple of rows = 2"):
        grow(placed(params, mesh, {"in": PartitionSpec(None, "rows")}), plan)
