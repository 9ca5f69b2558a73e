"""Initial parameters: the same everywhere for the same seed, spread as the table says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import UsageError, named_size, param_specs
from tprog.tree import flatten

from tests.model.variants import FULL
from tests.support import odd_config, same_values
from tritter_jax.model import abstract_params, init_params

LLAMA = odd_config("llama")
every_family = pytest.mark.parametrize("config", FULL.values(), ids=FULL)


@every_family
def test_abstract_parameters_are_the_shapes_of_initial_ones(config):
    config = replace(config, dtype="bfloat16")
    assert abstract_params(config) == jax.eval_shape(lambda: init_params(config))


def test_the_largest_named_size_is_described_without_memory():
    sizes = [leaf.size for leaf in jax.tree.leaves(abstract_params(named_size("70B")))]
    assert sum(sizes) > 60e9


def test_initial_parameters_are_the_same_for_the_same_seed_and_differ_for_another():
    assert same_values(init_params(LLAMA, seed=3), init_params(LLAMA, seed=3))
    one, other = flatten(init_params(LLAMA, seed=3)), flatten(init_params(LLAMA, seed=4))
    for spec in param_specs(LLAMA):
        assert np.array_equal(one[spec.path], other[spec.path]) == (spec.initializer != "normal"), spec.name


@every_family
def test_initial_parameters_are_spread_as_the_table_says(config):
    params = flatten(init_params(config, seed=1))
    for spec in param_specs(config):
        leaf = np.asarray(params[spec.path])
        if spec.initializer == "normal":
            error = 5 / np.sqrt(leaf.size)
            assert abs(leaf.std() / config.initializer_range - 1) < error, spec.name
            assert abs(leaf.mean() / config.initializer_range) < error, spec.name
        else:
            assert (leaf == {"ones": 1, "zeros": 0}[spec.initializer]).all(), spec.name


def test_no_two_layers_and_no_two_parameters_begin_equal():
    attention = init_params(LLAMA)["layers"]["attention"]
    assert attention["key"].shape == attention["value"].shape
    assert not np.array_equal(attention["key"], attention["value"])
    assert not np.array_equal(attention["key"][0], attention["key"][1])


def test_bfloat16_initial_parameters_are_the_float32_ones_rounded():
    narrow = flatten(init_params(replace(LLAMA, dtype="bfloat16")))
    for path, leaf in flatten(init_params(LLAMA)).items():
        assert np.array_equal(leaf.astype(jnp.bfloat16), narrow[path])


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_jax_would_cut_is_refused(seed):
    with pytest.raises(UsageError, match="seed: expected a number from 0 to 4294967295"):
        init_params(LLAMA, seed=seed)


def test_float64_that_jax_would_narrow_is_refused():
    with pytest.raises(UsageError, match="JAX to compute in float64"):
        init_params(replace(LLAMA, dtype="float64"))
