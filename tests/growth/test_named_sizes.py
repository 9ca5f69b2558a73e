"""Every pair of named sizes has an exact plan, or a stated reason why not."""

from itertools import permutations

import pytest
from tprog import SIZES, GrowthError, named_size

from tritter_jax.growth import POSITIONS, make_plan

PAIRS = list(permutations(SIZES, 2))


def reason_against(source: str, target: str) -> str | None:
    """What an exact plan fails on, found from the table of sizes alone; None where nothing stands against it."""
    old, new = SIZES[source], SIZES[target]
    (hidden, _, heads, kv_heads, _), (new_hidden, _, new_heads, new_kv_heads, _) = old, new
    if hidden // heads != new_hidden // new_heads:
        return "head_dim"
    if any(after < before for before, after in zip(old, new, strict=True)):
        return "shrinks from"
    slots = new_kv_heads // kv_heads * (new_heads // new_kv_heads)
    return "room for the" if slots < heads // kv_heads else None


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_pair_of_named_sizes_has_an_exact_plan_or_a_reason(source, target):
    reason = reason_against(source, target)
    sizes = named_size(source), named_size(target)
    if reason is not None:
        for positions in ("auto", *POSITIONS):
            with pytest.raises(GrowthError, match=reason):
                make_plan(*sizes, positions=positions, scores=[1.0] * sizes[0].num_layers)
        return
    plan = make_plan(*sizes)
    assert plan.guarantee.exact
    assert plan.target == named_size(target)
    assert make_plan(*sizes, positions="spread").guarantee.exact
    try:
        assert make_plan(*sizes, positions="uniform") == plan
    except GrowthError as refusal:
        assert plan.positions == "spread"
        assert "no split of" in str(refusal)
        assert "--positions spread takes any" in str(refusal)


def test_some_pairs_have_a_plan_and_every_reason_occurs():
    reasons = [reason_against(*pair) for pair in PAIRS]
    assert set(reasons) == {None, "head_dim", "shrinks from", "room for the"}
    assert reason_against("3B", "7B") is None
    assert reasons.count(None) >= 20
