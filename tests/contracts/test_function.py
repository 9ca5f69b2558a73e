"""Growth keeps the function to the plan's stated guarantee."""

from tests.contracts.cases import PAIRS, cases, in_dtype, params_for
from tests.support import logits, random_tokens, relative_difference
from tritter_jax.growth import TOLERANCE, grow
from tritter_jax.growth.drift import precision

FLOAT32 = 2e-6
NARROW = sorted(set(TOLERANCE) - {"float64", "float32"})


def drift(model, growth, dtype: str) -> tuple[float, object]:
    """How far growth moves the logits, computed from the stored weights in float32 (float64 for float64)."""
    plan = growth.plan(in_dtype(model.config, dtype))
    tokens = random_tokens(plan.source)
    compute = "float64" if dtype == "float64" else "float32"
    with precision(dtype):
        params = params_for(plan.source)
        before = logits(params, tokens, plan.source, dtype=compute)
        after = logits(grow(params, plan), tokens, plan.target, dtype=compute)
        assert after.dtype == compute
        return relative_difference(after, before), plan.guarantee


@cases(PAIRS)
def test_float64_keeps_the_function_to_rounding(model, growth):
    difference, guarantee = drift(model, growth, "float64")
    assert guarantee.exact
    assert guarantee.tolerance <= 1e-12
    assert difference < guarantee.tolerance
