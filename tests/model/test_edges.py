"""What the API is given that is not quite what it takes: it works, or the error says what to pass."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from tprog import TritterError, UsageError

from tests.continual.references import tiny_config
from tests.support import random_params, random_tokens
from tritter_jax.continual import estimate_fisher, language_logits, mean_fisher, windows_batch
from tritter_jax.growth import grow, make_plan
from tritter_jax.model import apply
from tritter_jax.sharding import MESH_AXES, MeshShape, batch_sharding, make_mesh, param_shardings

CONFIG = tiny_config(dtype="float32", num_heads=4, num_kv_heads=2)
TOKENS = jnp.asarray(random_tokens(CONFIG, (8, 5)))


def explicit() -> Mesh:
    return jax.make_mesh((2, 2, 2), MESH_AXES, axis_types=(AxisType.Explicit,) * 3)


def automatic_mesh() -> Mesh:
    return make_mesh(MeshShape(data=2, fsdp=2, tensor=2))


def own() -> Mesh:
    return jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))


def listed(params: dict[str, Any]) -> dict[str, Any]:
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]) for i in range(CONFIG.num_layers)]
    return params | {"layers": layers}


PLAN = make_plan(CONFIG, replace(CONFIG, num_layers=2 * CONFIG.num_layers))
LOGITS = language_logits(CONFIG)
REFUSED = {
    "grow lists": (lambda p: grow(listed(p), PLAN), "layers: expected an array.*got list.*Stack a list of layers"),
    "grow a list": (lambda p: grow([p], PLAN), "expected a nested dict of arrays.*got list"),
    "grow nothing": (lambda p: grow(None, PLAN), "expected a nested dict of arrays.*got NoneType"),
    "apply lists": (lambda p: apply(listed(p), TOKENS, CONFIG), "layers: expected an array"),
    "rules of another mesh": (
        lambda p: param_shardings(CONFIG, make_mesh(MeshShape()), {"hidden": "model"}),
        "mesh: expected an axis named model, got only data, fsdp, tensor.*rules",
    ),
    "parameters on another mesh": (lambda p: param_shardings(CONFIG, own()), "an axis named fsdp.*tensor is missing"),
    "a batch on another mesh": (lambda p: batch_sharding(own()), "an axis named data, got only model"),
    "Fisher on another mesh": (
        lambda p: estimate_fisher(LOGITS, p, [windows_batch(TOKENS)], mesh=own()), "an axis named data"
    ),
    "Fisher of pairs": (
        lambda p: estimate_fisher(LOGITS, p, iter([(TOKENS, TOKENS)])),
        "batch 1: expected a Labelled.*got tuple.*windows_batch",
    ),
    "Fisher of rows": (lambda p: estimate_fisher(LOGITS, p, iter(TOKENS)), "batch 1: expected a Labelled"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named_with_what_to_pass(case):
    call, said = REFUSED[case]
    with pytest.raises(TritterError, match=f"(?s){said}"):
        call(random_params(CONFIG))


@pytest.mark.parametrize("mesh", [explicit, automatic_mesh])
@pytest.mark.parametrize("is_set", [True, False])
def test_apply_splits_the_batch_over_the_mesh_of_its_arrays(mesh, is_set):
    params, mesh = random_params(CONFIG), mesh()
    placed = jax.device_put(params, param_shardings(CONFIG, mesh))
    tokens = jax.device_put(jnp.asarray(TOKENS), batch_sharding(mesh))
    if is_set:
        with jax.set_mesh(mesh):
            logits = apply(placed, tokens, CONFIG)
    else:
        logits = apply(placed, tokens, CONFIG)
    assert logits.sharding.shard_shape(logits.shape)[0] == 2
    np.testing.assert_allclose(logits, apply(params, TOKENS, CONFIG), atol=1e-5)


def test_explicit_axes_within_jit_are_refused_by_name():
    mesh = explicit()
    placed = jax.device_put(random_params(CONFIG), param_shardings(CONFIG, mesh))
    with jax.set_mesh(mesh), pytest.raises(UsageError, match=r"axes of the type Auto within jax\.jit, got Explicit"):
        jax.jit(lambda params: apply(params, TOKENS, CONFIG))(placed)


def test_apply_to_constants_within_jit():
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(random_params(CONFIG), param_shardings(CONFIG, mesh))
    found = jax.jit(lambda: apply(placed, TOKENS, CONFIG))()
    np.testing.assert_allclose(found, apply(random_params(CONFIG), TOKENS, CONFIG), atol=1e-5)


def test_fisher_on_explicit_axes_is_that_of_one_device():
    params, mesh = random_params(CONFIG), explicit()
    placed = jax.device_put(params, param_shardings(CONFIG, mesh))
    spread = mean_fisher(estimate_fisher(LOGITS, placed, [windows_batch(TOKENS)], mesh=mesh))
    alone = mean_fisher(estimate_fisher(LOGITS, params, [windows_batch(TOKENS)]))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5), spread, alone)
