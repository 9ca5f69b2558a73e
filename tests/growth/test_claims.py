"""Every cell of the table of what a strategy preserves, held against what growth does."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from tprog import GrowthError
from tprog.tree import flatten

import tritter_jax.growth
from tests.contracts.cases import MODELS, WIDE, in_dtype
from tests.growth.test_ternary import codes_and_scale
from tests.support import gradients, logits, random_params, random_tokens, relative_difference
from tritter_jax.growth import grow, grow_optimizer, make_plan, map_gradients
from tritter_jax.growth.claims import claims, markdown

CLAIMS = {claim.title: claim for claim in claims()}
TERNARY = next(model.config for model in MODELS if model.config.ternary)
EXACT, SEEN = 1e-9, 1e-3
REGROUPED = {("kv_heads", "copy"), ("kv_heads", "write")}
SIZES = {"layers": {"num_layers": 6}, "width": {**WIDE, "num_layers": 3}, "vocabulary": {"vocab_size": 200}}
each_claim = pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)


def planned(claim, config, **sizes):
    return make_plan(config, replace(config, **(sizes or SIZES[claim.grows])), **claim.choices)


def double(config):
    return in_dtype(config, "float64")


def test_the_readme_shows_what_the_rows_say():
    text = Path(tritter_jax.growth.__file__).with_name("README.md").read_text()
    assert markdown() in text


@pytest.mark.usefixtures("x64")
@each_claim
def test_the_function(claim):
    plan = planned(claim, double(MODELS[0].config))
    params, tokens = random_params(plan.source), random_tokens(plan.source)
    after = logits(grow(params, plan), tokens, plan.target)[..., : plan.source.vocab_size]
    moved = relative_difference(after, logits(params, tokens, plan.source))
    assert plan.guarantee.exact == claim.preserves.function
    assert moved < EXACT if claim.preserves.function else moved > SEEN


def furthest(plan, said: dict, true: dict) -> float:
    """The largest difference of any entry that is called mapped, over the largest of its parameter."""
    worst = 0.0
    for spec, grown in plan.target_specs():
        holds = [
            np.arange(size) if along is None else np.flatnonzero(along.mapped)
            for size, along in zip(grown.shape, plan.axis_maps(spec), strict=True)
        ]
        there, here = np.asarray(true[spec.path]), np.asarray(said[spec.path])
        if all(map(len, holds)):
            worst = max(worst, np.abs(there - here)[np.ix_(*holds)].max() / np.abs(there).max())
    return float(worst)


@pytest.mark.usefixtures("x64")
@each_claim
def test_gradient_and_moments(claim):
    plan = planned(claim, double(MODELS[0].config))
    params, tokens = random_params(plan.source), random_tokens(plan.source)
    before = gradients(params, tokens, plan.source)
    after = gradients(grow(params, plan), tokens, plan.target)
    assert plan.guarantee.gradients_exact == (claim.preserves.gradient != "no")
    adam = optax.scale_by_adam()
    with jax.numpy_dtype_promotion("standard"):
        _, had = adam.update(before, adam.init(params))
        _, has = adam.update(after, adam.init(after))
    moved = grow_optimizer(had, plan, adam, strategy="transport")
    found = {
        "gradient": furthest(plan, flatten(map_gradients(before, plan)), flatten(after)),
        "moments": max(furthest(plan, flatten(a), flatten(b)) for a, b in ((moved.mu, has.mu), (moved.nu, has.nu))),
    }
    excepted = {(axis.name, axis.role) for axis, along in plan.maps if not all(along.mapped)}
    writers = excepted - REGROUPED - {("layers", "residual")}
    for name, difference in found.items():
        said = getattr(claim.preserves, name)
        if said == "no":
            assert difference > 1e-6, name
        else:
            assert difference < EXACT, name
            assert bool(writers) == (said == "old"), name
            assert all(role in ("write", "read") for _, role in writers)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("claim", "multiple"),
    [(claim, multiple) for claim in CLAIMS.values() for multiple in (False, True)[: 1 + (claim.grows == "width")]],
    ids=lambda value: getattr(value, "title", "multiple" if value else "any ratio"),
)
def test_ternary_codes(claim, multiple):
    config = double(TERNARY)
    sizes = SIZES[claim.grows]
    if multiple:
        sizes = {name: 2 * getattr(config, name) for name in WIDE}
    kept = claim.preserves.ternary == "yes" or (claim.preserves.ternary == "multiples" and multiple)
    choices = {"split": "even"} if claim.title.startswith("noise") else {}
    try:
        plan = make_plan(config, replace(config, **sizes), **(choices | dict(claim.choices)))
    except GrowthError:
        assert not kept
        return
    assert kept == (claim.preserves.ternary != "no")
    before, after = flatten(random_params(config)), flatten(grow(random_params(config), plan))
    same = []
    for spec, _ in plan.target_specs():
        if spec.kernel:
            for new, old in enumerate(plan.stack.source):
                if spec.axes[0].role == "residual" and plan.stack.new[new] and plan.guarantee.exact:
                    continue
                inner = plan.axis_maps(spec)[1:]
                was, codes = codes_and_scale(before[spec.path][old])[0], codes_and_scale(after[spec.path][new])[0]
                rows = [
                    np.arange(n) if m is None else np.flatnonzero(~m.fresh)
                    for n, m in zip(was.shape, inner, strict=True)
                ]
                old_rows = [r if m is None else m.gather[r] for r, m in zip(rows, inner, strict=True)]
                same.append(np.array_equal(codes[np.ix_(*rows)], was[np.ix_(*old_rows)]))
    assert all(same) == kept
