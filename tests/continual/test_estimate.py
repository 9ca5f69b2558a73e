"""Measuring over many batches: meshes, dtypes, going on, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import UsageError, VerificationError

from tests.continual.references import off, tiny_config, vector
from tests.support import every_value, random_params, random_tokens
from tritter_jax.continual.accumulate import FisherSum, mean_fisher
from tritter_jax.continual.estimate import Progress, estimate_fisher
from tritter_jax.continual.fisher import ESTIMATORS
from tritter_jax.continual.likelihood import language_logits, log_likelihood, windows_batch
from tritter_jax.sharding import MeshShape, batch_sharding, make_mesh, param_shardings

CONFIG = tiny_config(dtype="float32", num_heads=4, num_kv_heads=2)
MESHES = {
    "data": MeshShape(data=8),
    "fsdp": MeshShape(fsdp=4, tensor=2),
    "three": MeshShape(data=2, fsdp=2, tensor=2),
}
LOGITS = language_logits(CONFIG)


def batches(count: int = 2, rows: int = 8):
    return [windows_batch(random_tokens(CONFIG, (rows, 6), seed=seed)) for seed in range(count)]


@every_value(shape=MESHES, estimator=ESTIMATORS)
def test_a_mesh_gives_what_one_device_gives(shape, estimator):
    params, mesh = random_params(CONFIG), make_mesh(MESHES[shape])
    lies = param_shardings(CONFIG, mesh)
    alone = estimate_fisher(LOGITS, params, batches(), estimator=estimator)
    spread = estimate_fisher(LOGITS, jax.device_put(params, lies), batches(), estimator=estimator, mesh=mesh)
    assert int(spread.tokens) == int(alone.tokens) == 80
    found, due = mean_fisher(spread), mean_fisher(alone)
    assert off(found, due) < 1e-5
    for (path, leaf), true, sharding in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(due), jax.tree.leaves(lies), strict=True
    ):
        np.testing.assert_allclose(leaf, true, rtol=1e-4, atol=1e-5 * float(jnp.max(true)), err_msg=str(path))
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), path


def test_one_example_a_device_does_not_make_a_gradient_per_example():
    """The gradient is summed over the devices before anyone squares it: the silent error of data-parallel code."""
    params, mesh = random_params(CONFIG), make_mesh(MESHES["data"])
    (batch,) = batches(1)

    def loss(params):
        return log_likelihood(LOGITS(params, batch.inputs), batch.labels, batch.weights)

    with jax.set_mesh(mesh):
        rows = jax.device_put(batch.inputs, batch_sharding(mesh))
        assert {shard.data.shape[0] for shard in rows.addressable_shards} == {1}
        batch = batch._replace(inputs=rows)
        gradient = jax.jit(jax.grad(loss))(jax.device_put(params, param_shardings(CONFIG, mesh)))
    wrong = jax.tree.map(lambda leaf: jnp.square(leaf) / batch.labels.size, gradient)
    right = mean_fisher(estimate_fisher(LOGITS, params, batches(1), estimator="empirical"))
    assert off(wrong, right) > 0.4


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sums_are_wide_whatever_the_model_computes_in(estimator):
    params = random_params(CONFIG)
    due = mean_fisher(estimate_fisher(LOGITS, params, batches(), estimator=estimator))
    half = language_logits(CONFIG, "bfloat16")
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    for logits, these in ((half, params), (LOGITS, narrow)):
        found = mean_fisher(estimate_fisher(logits, these, batches(), estimator=estimator))
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        assert 0 < off(found, due) < (0.05 if estimator == "empirical" else 0.5)
        # A sum held in bfloat16 has no more than 8 bits.
        assert (vector(found) != vector(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), found))).mean() > 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_broken_off_goes_on_to_the_same_number(estimator):
    params, all_of = random_params(CONFIG), batches(3)
    whole = estimate_fisher(LOGITS, params, all_of, estimator=estimator, seed=5)
    first = estimate_fisher(LOGITS, params, all_of[:2], estimator=estimator, seed=5)
    stored = FisherSum(*jax.tree.map(np.asarray, tuple(first)))
    again = estimate_fisher(
        LOGITS, params, all_of[2:], estimator=estimator, seed=5, begun=jax.tree.map(jnp.asarray, stored)
    )
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_exactly_the_rows_asked_for_are_measured_on():
    told: list[Progress] = []
    params = random_params(CONFIG)
    total = estimate_fisher(LOGITS, params, batches(3), estimator="empirical", samples=11, report=told.append)
    first, second, _ = batches(3)
    due = [first, jax.tree.map(lambda leaf: leaf[:3], second)]
    assert (int(total.rows), int(total.tokens), int(total.batches)) == (11, 55, 2)
    assert off(mean_fisher(total), mean_fisher(estimate_fisher(LOGITS, params, due, estimator="empirical"))) < 1e-6
    assert [progress.rows for progress in told] == [8, 11]


def test_the_running_change_is_the_estimates_and_falls():
    told: list[Progress] = []
    params, seen = random_params(CONFIG), []
    estimate_fisher(LOGITS, params, batches(12), report=told.append)
    for count in (11, 12):
        seen.append(mean_fisher(estimate_fisher(LOGITS, params, batches(count))))
    moved = np.abs(vector(seen[1]) - vector(seen[0])).sum() / vector(seen[1]).sum()
    assert told[-1].change == pytest.approx(moved, rel=1e-3)
    assert told[0].change == pytest.approx(1)
    assert told[-1].change < told[1].change / 2


def test_more_draws_are_less_noise():
    config = CONFIG
    params = random_params(config)
    calm = mean_fisher(estimate_fisher(LOGITS, params, batches(1), draws=2000, seed=9))
    errors = [
        np.mean(
            [off(mean_fisher(estimate_fisher(LOGITS, params, batches(1), draws=draws, seed=s)), calm) for s in (1, 2)]
        )
        for draws in (1, 64)
    ]
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_batch_that_is_not_finite_is_named(estimator):
    def logits(params, tokens):
        poisoned = jnp.any(tokens == 99)
        return LOGITS(params, jnp.minimum(tokens, 15)) * jnp.where(poisoned, jnp.float32(jnp.nan), 1)

    good, bad, last = batches(3)
    bad = bad._replace(inputs=np.where(np.arange(5) == 4, 99, bad.inputs))
    with pytest.raises(VerificationError, match=r"batch 2 \(after 8 rows\): expected finite gradients, got NaN"):
        estimate_fisher(logits, random_params(CONFIG), [good, bad, last], estimator=estimator)


def test_what_cannot_be_measured_is_refused():
    params = random_params(CONFIG)
    empty = windows_batch(random_tokens(CONFIG, (8, 6)), np.zeros((8, 5), np.float32))
    mesh = make_mesh(MESHES["data"])
    refused: list[tuple[dict[str, Any], list, str]] = [
        ({"estimator": "batched"}, batches(1), "expected one of sampled, empirical, got 'batched'"),
        ({"draws": 0}, batches(1), "draws: expected a whole number above 0, got 0"),
        ({"samples": 0}, batches(1), "samples: expected a whole number above 0"),
        ({"samples": 20}, batches(2), "samples: expected 20 rows of data, got 16"),
        ({}, [], "expected at least one token that counts, got none"),
        ({}, [empty], "expected at least one token that counts, got none"),
        ({"mesh": mesh}, batches(1, rows=6), "batch 1: expected a multiple of 8 rows"),
    ]
    for options, data, said in refused:
        placed = jax.device_put(params, param_shardings(CONFIG, mesh)) if "mesh" in options else params
        with pytest.raises(UsageError, match="(?s)" + said):
            estimate_fisher(LOGITS, placed, data, **options)


@every_value(estimator=ESTIMATORS, near=[1 << 24, 1 << 31, 1 << 32])
def test_counts_go_on_beyond_what_32_bits_hold(estimator, near):
    """A state of hours ago, some tokens, rows and batches short of where float32, int32 and uint32 stop counting."""
    params, told = random_params(CONFIG), []
    first = estimate_fisher(LOGITS, params, batches(1), estimator=estimator)
    squares = jax.tree.map(lambda leaf: leaf * jnp.float32(near / 40), first.squares)
    kept = jax.tree.map(np.asarray, mean_fisher(first))
    total = estimate_fisher(
        LOGITS, params, batches(4), estimator=estimator, report=told.append,
        begun=FisherSum(squares, near - 5, near - 1, near - 1),
    )  # fmt: skip
    assert (int(total.tokens), int(total.rows), int(total.batches)) == (near + 155, near + 31, near + 3)
    assert all((np.asarray(leaf) >= 0).all() for leaf in jax.tree.leaves(mean_fisher(total)))
    assert off(mean_fisher(total), kept) < 1e-3
    assert all(0 <= one.change < 1e-3 for one in told)
    assert [one.rows for one in told] == [near + 7, near + 15, near + 23, near + 31]


def test_the_rows_asked_for_are_counted_beyond_32_bits():
    params, near = random_params(CONFIG), 1 << 31
    begun = FisherSum(estimate_fisher(LOGITS, params, batches(1)).squares, near * 5, near - 4, 9)
    assert estimate_fisher(LOGITS, params, batches(2), samples=near + 2, begun=begun).rows == near + 2
