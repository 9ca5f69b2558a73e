"""Facts with something in every section, some of it as wide and as many-layered as it gets."""

import math

import pytest
from tprog import named_size
from tprog.schema import Expansion, LayerAnalysis, Progressive

from tritter_jax.growth import make_plan, method_of, plan_to_record
from tritter_jax.report import Facts
from tritter_jax.report.facts import Growth
from tritter_jax.report.loss_picture import LossCurves

HOSTILE = '<script>alert("x")</script>'


def growth(source: str, target: str, **choices: object) -> Growth:
    plan = make_plan(named_size(source), named_size(target), **choices)
    entry = Expansion(
        from_size=source,
        to_size=target,
        method=method_of(plan),
        tokens_after=10**9,
        plan=plan_to_record(plan),
        guarantee=plan.guarantee.as_json(),
        measured_drift={"max_relative": 3e-7},
        optimizer="asymmetric",
        fisher="preserve",
    )
    return Growth(entry=entry, plan=plan)


@pytest.fixture(scope="session")
def facts() -> Facts:
    config = named_size("13B")
    growths = (growth("3B", "7B"), growth("7B", "13B", width="fresh"), Growth(entry=Expansion(
        from_size="13B", to_size=HOSTILE, method="by hand"), plan=None))  # fmt: skip
    scores = [round(abs(math.sin(layer + 1)), 6) for layer in range(40)]
    analysis = LayerAnalysis(
        importance_scores=scores,
        expendable_layers=[21, 24, 39],
        critical_layers=[0, 1, 2],
        data=HOSTILE,
        tokens=65_536,
        steps=1000,
        loss=2.0,
        loss_when_skipped=[2 + score for score in scores],
        block_influence=scores,
        residual_norms=[1.0 * layer for layer in range(41)],
    )
    progressive = Progressive.of(config).with_fields(
        training_progress={"tokens_seen": 3 * 10**9, "steps": 1000, "best_loss": 1.9},
        layer_analysis=analysis,
        task_losses={
            "tasks": ["prose", HOSTILE, "a third one"],
            "losses": [[2.1, 4.0, 3.9], [2.6, 1.8, None], [2.9, 2.2, 1.7]],
            "forgetting": 0.6,
        },
        recommended_expansion={"next_size": "30B", "method": "depth_upscaling", "reason": f"Because {HOSTILE}."},
    )
    tokens = [1e7 * step for step in range(1, 301)]
    return Facts(
        name="a-checkpoint-with-a-name-that-is-longer-than-a-telephone-is-wide-13B-1000.tprog",
        config=config,
        progressive=progressive,
        growths=growths,
        curves=LossCurves(
            training=tuple((x, 2 + 1e3 * x**-0.4) for x in tokens),
            held_out=tuple((x, 2.1 + 1e3 * x**-0.4) for x in tokens[::20]),
            growths=((1e9, "3B to 7B"), (2e9, "7B to 13B")),
        ),
        analysis=analysis,
        fisher={"attention": [0.5 + layer for layer in range(40)], "mlp": [1.0] * 40, "mlp_norm": [0.1] * 40},
    )
