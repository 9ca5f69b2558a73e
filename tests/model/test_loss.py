"""Losses of a large vocabulary, attention over a long sequence, narrow kernels, block by block: the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import odd_config, random_params, random_tokens
from tritter_jax.model import apply, layers, loss, token_losses
from tritter_jax.sharding import MeshShape, make_mesh


def features(dtype: str, classes: int = 96):
    rng = np.random.default_rng(0)
    x, output = rng.standard_normal((2, 5, 8)), rng.standard_normal((classes, 8))
    return jnp.asarray(x, dtype), jnp.asarray(output, dtype), jnp.asarray(rng.integers(0, classes, (2, 5)), jnp.int32)


def value_and_gradients(blocks: int, x, output, labels):
    def total(x, output):
        return jnp.sum(jnp.sin(loss.cross_entropy(x, output, labels, blocks=blocks)))  # each row weighs its own

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(x, output)


@pytest.mark.parametrize("blocks", [2, 6, 96])
def test_blocks_of_classes_change_neither_loss_nor_gradients(x64, blocks):
    inputs = features("float64")
    one, many = value_and_gradients(1, *inputs), value_and_gradients(blocks, *inputs)
    for expected, got in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("blocks", [2, 6, 96])
def test_blocks_of_classes_change_neither_logits_nor_their_gradients(x64, blocks):
    x, output, _ = features("float64")
    given = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 96)))

    def pulled(blocks: int):
        logits, pull = jax.vjp(lambda x, output: loss.whole_logits(x, output, blocks=blocks), x, output)
        return logits, *pull(given)

    for expected, got in zip((x @ output.T, *pulled(1)[1:]), pulled(blocks), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


def test_logits_are_cut_only_on_a_mesh_that_splits_the_output_layer(monkeypatch):
    monkeypatch.setattr(loss, "_CLASSES_AT_ONCE", 40)
    x, output, _ = features("float32")

    def loops() -> int:
        return str(jax.make_jaxpr(lambda x, output: loss.whole_logits(x, output))(x, output)).count("scan")

    found = []
    for shape in (MeshShape(data=2), MeshShape(fsdp=2)):
        with jax.set_mesh(make_mesh(shape)):
            found.append(loops())
    assert (loops(), *found) == (0, 0, 1)


def test_one_block_is_the_loss_as_optax_has_it(x64):
    x, output, labels = features("float64")
    expected = optax.softmax_cross_entropy_with_integer_labels(x @ output.T, labels)
    np.testing.assert_allclose(loss.cross_entropy(x, output, labels, blocks=4), expected, rtol=0, atol=1e-13)


def test_gradients_of_narrow_features_add_up_over_blocks_in_float32():
    x, output, labels = features("float32", 4096)
    narrow = x.astype(jnp.bfloat16)
    exact = value_and_gradients(
        1, narrow.astype(jnp.float32), output.astype(jnp.bfloat16).astype(jnp.float32), labels
    )

    def error(blocks: int) -> float:
        got = value_and_gradients(blocks, narrow, output, labels)[1][0].astype(jnp.float32)
        return float(jnp.linalg.norm(got - exact[1][0]) / jnp.linalg.norm(exact[1][0]))

    assert error(64) < 1.5 * error(1)


def test_only_large_vocabularies_are_cut_and_only_into_equal_blocks():
    cut = loss._blocks
    assert (cut(8192), cut(65536), cut(128256), cut(8193 * 2)) == (1, 8, 16, 3)
    assert cut(1_000_003) == 1  # a prime


def test_token_losses_are_those_of_the_logits(monkeypatch):
    monkeypatch.setattr(loss, "_CLASSES_AT_ONCE", 40)
    config = odd_config("llama", vocab_size=160)
    params, windows = random_params(config), jnp.asarray(random_tokens(config, (2, 9)))
    logits = apply(params, windows[:, :-1], config)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])
    np.testing.assert_allclose(token_losses(params, windows, config), expected, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_queries_in_blocks_attend_like_all_at_once(x64, monkeypatch, window):
    config = odd_config("mistral", dtype="float64", sliding_window=window)
    params, windows = random_params(config), jnp.asarray(random_tokens(config, (2, 25)))

    def value(params):
        return jnp.sum(token_losses(params, windows, config))

    whole = jax.jit(jax.value_and_grad(value))(params)
    monkeypatch.setattr(layers, "_QUERIES_AT_ONCE", 8)
    blocks = jax.jit(jax.value_and_grad(lambda params: value(params)))(params)
    for expected, got in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_scores_of_a_long_sequence_are_never_all_there(monkeypatch):
    def peak(block: int) -> int:
        monkeypatch.setattr(layers, "_QUERIES_AT_ONCE", block)
        q, kv = (jax.ShapeDtypeStruct((1, 1024, heads, 8), jnp.float32) for heads in (4, 2))
        mask = jax.ShapeDtypeStruct((1, 1, 1024, 1024), bool)
        grad = jax.grad(lambda q, k, v, mask: jnp.sum(jnp.sin(layers.attend(q, k, v, mask))), argnums=(0, 1, 2))
        stats = jax.jit(grad).lower(q, kv, kv, mask).compile().memory_analysis()
        assert stats is not None
        return stats.temp_size_in_bytes

    assert peak(128) < 0.6 * peak(1024)


@pytest.mark.parametrize("rows", [1, 7, 97, 128])
def test_a_narrow_kernel_is_widened_some_rows_at_a_time_for_few_positions(monkeypatch, rows):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.standard_normal((rows, 12)), jnp.bfloat16)
    monkeypatch.setattr(layers, "_ENTRIES_AT_ONCE", 40)

    def loops(positions: int) -> int:
        x = jnp.asarray(rng.standard_normal((positions, 12)), jnp.float32)
        expected = x @ kernel.astype(jnp.float32).T
        np.testing.assert_allclose(layers.matmul(x, kernel), expected, rtol=0, atol=1e-5)
        return str(jax.make_jaxpr(layers.matmul)(x, kernel)).count("scan")

    assert (loops(5), loops(65)) == (1, 0)
