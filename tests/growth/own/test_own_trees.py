"""Any pytree grows exactly, given rows that are true of it; rows that are not are found out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import GrowthError, ParameterError, UsageError, VerificationError

from tests.growth.own.models import LARGER, MODELS, SIZES, nested_lists
from tritter_jax.growth import check_function, grow, map_gradients, new_parameters, plan_axes


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        yield


def planned(model, **choices):
    return plan_axes(model.rows, before=model.before, after=model.after, **choices)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("choices", [{}, {"split": "even"}, {"split": "first"}, {"width": "fresh"}], ids=str)
def test_depth_and_width_in_one_pass_keep_the_function(name, choices):
    model = MODELS[name]()
    plan = planned(model, **choices)
    assert plan.exact
    seen = check_function(model.function, model.params, plan, model.inputs)
    assert seen.max_relative < 1e-12
    # The forward pass really saw another model.
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (model.params, grow(model.params, plan))]
    assert sizes[1] > 1.5 * sizes[0]


@pytest.mark.parametrize("name", MODELS)
def test_gradients_at_the_grown_point_are_the_mapped_old_ones(name):
    model = MODELS[name]()
    # Heads keep their groups: under a regrouping key and value have another gradient, as the plan's maps say.
    after = {size: value for size, value in model.after.items() if size not in ("heads", "kv_heads")}
    plan = plan_axes(model.rows, before=model.before, after=after)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(model.function(model.params, model.inputs).shape))

    def loss(params):
        return jnp.sum(model.function(params, model.inputs) * weights)

    mapped = map_gradients(jax.grad(loss)(model.params), plan)
    found = jax.grad(loss)(grow(model.params, plan))
    told = new_parameters(plan, mapped)
    compared = 0
    for entries, old, new in zip(jax.tree.leaves(told), jax.tree.leaves(mapped), jax.tree.leaves(found), strict=True):
        known = np.asarray(entries.old())
        np.testing.assert_allclose(np.asarray(new)[known], np.asarray(old)[known], rtol=1e-8, atol=1e-10)
        compared += int(known.sum())
    assert compared == sum(leaf.size for leaf in jax.tree.leaves(model.params))


def test_plain_copies_of_layers_promise_nothing():
    model = nested_lists()
    plan = plan_axes(model.rows, before=model.before, after={"layers": 3}, depth="copy", positions=[1])
    assert not plan.exact
    seen = check_function(model.function, model.params, plan, model.inputs)
    assert seen.max_relative > 1e-3
    assert np.array_equal(
        grow(model.params, plan)["blocks"][2]["attn"]["wo"], model.params["blocks"][1]["attn"]["wo"]
    )


@pytest.mark.parametrize(
    ("row", "axes"),
    [
        ("norm", "hidden:gain"),  # tied embeddings want the gain to make up for the ratio
        ("blocks.*.attn.wo", "layers:stack heads:read*head_dim hidden:write"),  # new layers would not begin at zero
        ("blocks.*.mlp.bias", "layers:stack mlp:write"),  # copied by its share instead of whole
    ],
)
def test_a_wrong_role_is_found_by_the_check(row, axes):
    model = nested_lists()
    plan = planned(replace(model, rows=model.rows | {row: axes}))
    with pytest.raises(VerificationError, match="outputs equal to those before growth"):
        check_function(model.function, model.params, plan, model.inputs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_wrong_role_is_found_in_half_precision(dtype):
    """Nothing is checked before rounding here, and a wrong role may cost only a tenth of the largest output."""
    model = nested_lists()

    def forward(params, inputs):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        return model.function(wide, inputs).astype(dtype)

    params = jax.tree.map(lambda leaf: leaf.astype(dtype), model.params)
    seen = check_function(forward, params, planned(model), model.inputs)
    assert 0 < seen.max_relative < seen.tolerance / 5
    wrong = planned(replace(model, rows=model.rows | {"blocks.*.mlp.bias": "layers:stack mlp:write"}))
    with pytest.raises(VerificationError, match=r"within [15]e-02, got a largest relative difference of (9|1)"):
        check_function(forward, params, wrong, model.inputs)


def test_new_layers_stand_right_after_those_they_copy():
    model = nested_lists()
    plan = plan_axes(model.rows, before=model.before, after={"layers": 3}, positions=[0])
    grown = grow(model.params, plan)["blocks"]
    for new, old in ((0, 0), (1, 0), (2, 1)):
        assert np.array_equal(grown[new]["attn"]["wq"], model.params["blocks"][old]["attn"]["wq"])
    assert not grown[1]["attn"]["wo"].any() and not grown[1]["mlp"]["out"].any()


def test_grow_runs_inside_jit():
    model = nested_lists()
    plan = planned(model)
    eager, traced = grow(model.params, plan), jax.jit(lambda params: grow(params, plan))(model.params)
    for one, other in zip(jax.tree.leaves(eager), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_donation_frees_every_old_array():
    model = nested_lists()
    grow(model.params, planned(model), donate=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(model.params))


def test_repr_of_a_plan_is_one_line():
    text = repr(planned(nested_lists()))
    assert text.startswith("AxesPlan(layers 2 -> 4, hidden 12 -> 20")
    assert len(text) < 200


def refused(rows=None, before=None, after=None, **choices):
    model = nested_lists()
    plan_axes(model.rows | (rows or {}), before=SIZES | (before or {}), after=after or LARGER, **choices)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"rows": {"norm": "hidden:gian"}}, "Did you mean gain"),
        ({"rows": {"a.*.b.*": "layers:stack"}}, "one `*` for the layer's number"),
        ({"rows": {"a.*": "hidden:read"}}, "one `*` for the layer's number"),
        ({"rows": {"extra": "width:read"}}, "a size for every axis of the rows, got none for width"),
        ({"after": {"hiden": 20}}, "Did you mean hidden"),
        ({"after": {"hidden": 8}}, "hidden shrinks from 12 to 8"),
        ({"rows": {"extra": "hidden"}}, "a row without a role for it"),
        ({"after": {"head_dim": 8}}, "a row without a role for it"),
        ({"depth": "twice"}, "depth: expected one of"),
        ({"groups": {"heads": "keys"}}, "groups: expected one of"),
        ({"before": {"heads": 5}}, "axis heads: expected a multiple of kv_heads, 2 before growth, got 5"),
        ({"before": {"kv_heads": 0}}, "whole numbers above 0, got kv_heads: 0"),
        ({"after": {"heads": 5, "kv_heads": 3}}, "axis heads: expected a multiple of kv_heads"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_plan_is_refused(arguments, told):
    with pytest.raises(GrowthError, match=told.replace("*", r"\*")):
        refused(**arguments)


def test_a_stack_without_a_residual_row_is_refused():
    model = nested_lists()
    rows = {pattern: axes.replace("residual", "stack") for pattern, axes in model.rows.items()}
    with pytest.raises(GrowthError, match="rows with layers:residual"):
        plan_axes(rows, before=SIZES, after=LARGER)


def test_leaves_without_a_row_are_all_listed():
    model = nested_lists()
    tree = model.params | {"rope": jnp.ones(3), "extra": {"bias": jnp.ones(2)}}
    with pytest.raises(ParameterError) as caught:
        grow(tree, planned(model))
    assert caught.value.findings == ("extra.bias has no row", "rope has no row")


def test_a_leaf_of_another_shape_is_named():
    model = nested_lists()
    model.params["blocks"][1]["attn"]["wq"] = jnp.ones((12, 12))
    with pytest.raises(ParameterError, match=r"attn.wq: expected floating-point numbers of shape \[12, 16\]"):
        grow(model.params, planned(model))


def test_whole_numbers_do_not_grow():
    model = nested_lists()
    model.params["norm"] = jnp.arange(12)
    with pytest.raises(ParameterError, match="of int"):
        grow(model.params, planned(model))


def test_another_number_of_layers_is_named():
    model = nested_lists()
    model.params["blocks"].append(model.params["blocks"][0])
    with pytest.raises(ParameterError, match=r"blocks: expected 2 layers, numbered from 0, got 3: 0, 1, 2"):
        grow(model.params, planned(model))


UNIT = {"up": "hidden:read mlp:copy", "down": "mlp:read hidden:write"}


def small():
    plan = plan_axes(UNIT, before={"hidden": 2, "mlp": 2}, after={"mlp": 5})
    return plan, {"up": jnp.ones((2, 2)), "down": jnp.ones((2, 2))}


def forward_small(params, x):
    return x @ params["up"] @ params["down"]


@pytest.mark.parametrize(
    "odd",
    [
        lambda out: None,
        lambda out: "text",
        lambda out: [out, "text"],
        lambda out: jax.random.key(0),
    ],
)
def test_outputs_that_are_no_numbers_are_refused(odd):
    plan, params = small()
    with pytest.raises(UsageError, match="an array of numbers"):
        check_function(lambda params, x: odd(forward_small(params, x)), params, plan, jnp.ones((3, 2)))


def test_fewer_outputs_after_growth_are_refused():
    plan, params = small()
    fewer = lambda params, x: forward_small(params, x)[:1]  # noqa: E731
    with pytest.raises(UsageError, match="the same outputs before and after growth"):
        check_function(forward_small, params, plan, jnp.ones((3, 2)), grown_function=fewer)


def test_imaginary_parts_of_outputs_are_compared():
    plan, params = small()

    def turned(params, x):
        out = forward_small(params, x)
        return jax.lax.complex(out, out)

    assert check_function(turned, params, plan, jnp.ones((3, 2))).max_relative < 1e-6
    with pytest.raises(VerificationError, match="largest relative difference"):
        check_function(turned, params, plan, jnp.ones((3, 2)), grown_function=lambda p, x: turned(p, x).conj())


def test_new_entries_of_the_tree_before_growth_are_refused():
    plan, params = small()
    with pytest.raises(ParameterError, match="not the parameters before growth"):
        new_parameters(plan, params)
