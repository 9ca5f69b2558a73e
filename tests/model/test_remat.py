"""Every policy of what the backward pass computes again: the same gradients, less and less memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import UsageError, param_specs
from tprog.tree import flatten

from tests.support import gradients, odd_config, random_params, random_tokens, relative_difference
from tritter_jax.model import REMAT, abstract_params, apply
from tritter_jax.model.remat import DEFAULT

FAMILIES = ["llama", "bitnet"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in REMAT if name != DEFAULT])
def test_gradients_are_equal(family, name):
    config = odd_config(family)
    params, tokens = random_params(config), random_tokens(config)
    default = flatten(gradients(params, tokens, config))
    for path, leaf in flatten(gradients(params, tokens, config, remat=name)).items():
        assert relative_difference(leaf, default[path]) < 1e-6, ".".join(path)


TOKENS = 4, 64


def backward(name: str):
    config = odd_config("llama", num_layers=12, intermediate_size=240)
    step = jax.jit(jax.grad(lambda params, tokens: apply(params, tokens, config, remat=name).sum()))
    return step.lower(abstract_params(config), jax.ShapeDtypeStruct(TOKENS, jnp.int32)).compile(), config


def test_each_row_stores_less_than_the_one_before_by_about_what_it_says():
    measured, stated = [], []
    for name, row in REMAT.items():
        program, config = backward(name)
        measured.append(program.memory_analysis().temp_size_in_bytes)
        stated.append(4 * math.prod(TOKENS) * config.num_layers * row.entries(config, TOKENS[1], 1))
    less, claimed = -np.diff(measured), -np.diff(stated)
    assert all(claimed > 0)
    assert all((less / claimed > 0.8) & (less / claimed < 1.6)), less / claimed


@pytest.mark.parametrize("name", ["attention", "full"])
def test_what_is_computed_again_is_what_the_compiler_counts(name):
    """A loop's body is counted once, whatever its length."""
    (default, config), (program, _) = backward(DEFAULT), backward(name)
    more = program.cost_analysis()["flops"] - default.cost_analysis()["flops"]
    layer = sum(math.prod(spec.shape[1:]) for spec in param_specs(config) if spec.kernel)
    assert more == pytest.approx(2 * math.prod(TOKENS) * layer * REMAT[name].recomputed(config), rel=0.1)


def test_a_policy_that_there_is_not_is_refused_with_the_nearest():
    config = odd_config("llama")
    with pytest.raises(UsageError, match="Did you mean full"):
        apply(random_params(config), jnp.asarray(random_tokens(config)), config, remat="ful")
