"""New entries are told from old ones exactly, at no cost in memory, and compose with optax."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tprog import ModelConfig, count_parameters, named_size
from tprog.tree import flatten

from tests.contracts.cases import BOTH, DEEPER, EACH_MODEL, MODELS, PAIRS, cases, params_for
from tests.support import gradients, random_tokens
from tritter_jax.growth import WIDTH, grow, make_plan, new_parameters
from tritter_jax.growth.axis_map import FRESH
from tritter_jax.model.ternary import quantize_weight

TINY = ModelConfig(
    hidden_size=3, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=2, intermediate_size=2, vocab_size=3
)
TINY_GROWN = replace(TINY, hidden_size=5, num_layers=3, num_heads=6, num_kv_heads=2, intermediate_size=3)


def brute_force_old(plan, spec, shape) -> np.ndarray:
    """True where an entry is the first, in reading order, to come from its old entry."""
    sources = [range(n) if m is None else m.source for n, m in zip(shape, plan.axis_maps(spec), strict=True)]
    old, seen = np.zeros(shape, bool), set()
    for index in product(*map(range, shape)):
        origin = tuple(source[i] for source, i in zip(sources, index, strict=True))
        if FRESH not in origin and origin not in seen:
            seen.add(origin)
            old[index] = True
    assert len(seen) == np.prod(spec.shape)
    return old


@pytest.mark.parametrize("width", WIDTH)
def test_the_old_entries_are_the_first_copies_and_all_others_are_new(width):
    plan = make_plan(TINY, TINY_GROWN, width=width, layers=[0])
    told = flatten(new_parameters(plan))
    for spec, grown in plan.target_specs():
        entries, old = told[spec.path], brute_force_old(plan, spec, grown.shape)
        np.testing.assert_array_equal(entries.old(), old, err_msg=spec.name)
        np.testing.assert_array_equal(entries.new(), ~old, err_msg=spec.name)
        assert entries.count == (~old).sum()


@cases(PAIRS)
def test_there_are_as_many_old_entries_as_the_source_has_parameters(model, growth):
    plan = growth.plan(model.config)
    told = jax.tree.leaves(new_parameters(plan))
    assert sum(int(np.prod(n.shape)) - n.count for n in told) == count_parameters(plan.source)
    assert sum(n.count for n in told) == count_parameters(plan.target) - count_parameters(plan.source)


def _codes(stack: np.ndarray) -> np.ndarray:
    return np.stack([np.sign(quantize_weight(jnp.asarray(layer))) for layer in stack])


@cases(EACH_MODEL)
def test_the_old_entries_in_order_are_the_old_parameters_but_for_their_scale(model, growth):
    plan = replace(growth, width="fresh", split="even").plan(model.config)
    params, told = params_for(plan.source), flatten(new_parameters(plan))
    grown = flatten(grow(params, plan))
    for spec, _ in plan.target_specs():
        old, new = np.asarray(flatten(params)[spec.path]), np.asarray(grown[spec.path])
        if plan.keeps_codes and spec.kernel:  # there the codes count: magnitudes above the threshold are free
            old, new = _codes(old), _codes(new)
        kept = new[np.asarray(told[spec.path].old())].reshape(spec.shape)
        if plan.keeps_codes and spec.kernel:
            np.testing.assert_array_equal(kept, old, err_msg=spec.name)
            continue
        ratio = kept / old
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio.flat[0], ratio.shape), rtol=1e-5, err_msg=spec.name)


def test_a_mask_of_a_model_of_billions_is_a_few_vectors():
    told = jax.tree.leaves(new_parameters(make_plan(named_size("3B"), named_size("7B"))))
    held = sum(axis.nbytes for entries in told for axis in entries.axes if axis is not None)
    assert held < 200_000
    assert sum(n.count for n in told) == count_parameters(named_size("7B")) - count_parameters(named_size("3B"))


def train_only(plan, pick: str) -> optax.GradientTransformation:
    """Updates of new (or old) entries pass, the others become 0."""
    told = new_parameters(plan)

    def keep(entries, update: jax.Array) -> jax.Array:
        return jnp.where(getattr(entries, pick)(), update, jnp.zeros_like(update))

    return optax.stateless(lambda updates, _: jax.tree.map(keep, told, updates))


@pytest.mark.parametrize("pick", ["new", "old"])
@cases([(MODELS[0], BOTH), (MODELS[0], DEEPER)])
def test_an_optax_chain_trains_only_what_was_picked(model, growth, pick):
    plan = growth.plan(model.config)
    params = grow(params_for(plan.source), plan)
    gradient = gradients(params, random_tokens(plan.source), plan.target)
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), train_only(plan, pick))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    stepped = flatten(optax.apply_updates(params, updates))
    moved_any = False
    for path, entries in flatten(new_parameters(plan)).items():
        picked = np.asarray(getattr(entries, pick)())
        before, after = np.asarray(flatten(params)[path]), np.asarray(stepped[path])
        np.testing.assert_array_equal(after[~picked], before[~picked])
        moved_any |= bool((after[picked] != before[picked]).any())
    assert moved_any


def test_whole_parameters_can_be_masked_by_whether_any_entry_is_new():
    plan = replace(BOTH, wider=False).plan(MODELS[0].config)
    outside = jax.tree.map(lambda entries: entries.count == 0, new_parameters(plan))
    freeze = optax.masked(optax.set_to_zero(), outside)
    params = grow(params_for(plan.source), plan)
    updates, _ = freeze.update(jax.tree.map(jnp.ones_like, params), freeze.init(params))
    assert {".".join(path) for path, leaf in flatten(updates).items() if not leaf.any()} == {
        "embed",
        "norm",
        "lm_head",
    }
