"""What rounding to a narrow dtype costs a growth is told from what a wrong growth costs."""

from dataclasses import replace

import numpy as np
import pytest
import tprog.numpy
from tprog import ModelConfig, VerificationError
from tprog.dtypes import numpy_dtype
from tprog.params import Axis
from tprog.reader import open_checkpoint

from tests.support import every_value
from tests.tprog.files import random_arrays
from tritter_jax.growth import make_plan
from tritter_jax.growth.axis_map import axis_map
from tritter_jax.growth.drift import Drift, measure_drift
from tritter_jax.growth.expand import expand

SMALL = ModelConfig(
    family="llama", hidden_size=64, num_layers=4, num_heads=8, num_kv_heads=2, head_dim=8, intermediate_size=96,
    vocab_size=96, max_position_embeddings=64,
)  # fmt: skip
LARGE = {"hidden_size": 112, "num_layers": 7, "num_heads": 20, "num_kv_heads": 5, "intermediate_size": 250}
NARROW = ["bfloat16", "float16"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model whose predictions are peaked, as those of a trained one: the largest logits are about 20."""

    def write(dtype: str):
        config = replace(SMALL, dtype=dtype)
        arrays = {
            name: (array * (0.5 if name == "lm_head.weight" else 0.15)).astype(np.float32)
            for name, array in random_arrays(replace(config, dtype="float32")).items()
        }
        arrays |= {name: 1 + array for name, array in arrays.items() if "norm" in name}
        stored = {name: array.astype(numpy_dtype(dtype)) for name, array in arrays.items()}
        return tprog.numpy.save(tmp_path_factory.mktemp(dtype) / "a.tprog", stored, config)

    return {dtype: open_checkpoint(write(dtype)) for dtype in [*NARROW, "float32"]}


def grown(checkpoint, tmp_path, change=lambda plan: plan, **choices):
    plan = make_plan(checkpoint.config, replace(checkpoint.config, **LARGE), **choices)
    return expand(checkpoint, tmp_path / "grown.tprog", change(plan))


@every_value(dtype=[*NARROW, "float32"], split=["even", "uneven", "first"])
def test_honest_growths_are_far_within_what_is_promised(source, tmp_path, dtype, split):
    done = grown(source[dtype], tmp_path, split=split)
    drift, promise = done.drift, done.plan.guarantee
    assert promise.exact
    assert 0 < drift.max_relative < promise.tolerance / 3
    assert 0 < drift.kl < promise.kl / 5
    assert drift.agreement >= promise.agreement
    record = open_checkpoint(done.path).progressive.expansion_history[-1]
    assert record.measured_drift == drift.as_json()
    assert {"kl", "agreement"} <= record.guarantee.keys()


def changed(plan, **maps):
    table = dict(plan.maps)
    for key, (source, weight, gradient) in maps.items():
        table[Axis(*key.rsplit("_", 1))] = axis_map(np.asarray(source).tolist(), weight, gradient)
    return replace(plan, maps=tuple(table.items()))


def net2net(plan):
    """Copies that are written as they are: RMSNorm sees another mean square."""
    source = np.asarray(dict(plan.maps)[Axis("hidden", "write")].source)
    ones, share = np.ones(len(source)), 1 / np.bincount(source)[source]
    return changed(plan, hidden_write=(source, ones, share), hidden_read=(source, share, ones))


def tiled_heads(plan):
    source = np.arange(20) % 8
    ones, share = np.ones(20), 1 / np.bincount(source)[source]
    return changed(plan, heads_copy=(source, ones, share), heads_read=(source, share, ones))


def other_eps(plan):
    """The norms of the result have another epsilon than the source's."""
    return replace(plan, target=replace(plan.target, norm_eps=1e-2))


WRONG = {"net2net": net2net, "tiled": tiled_heads, "eps": other_eps}


@every_value(dtype=NARROW, wrong=WRONG)
def test_wrong_growths_are_caught_in_narrow_dtypes(source, tmp_path, dtype, wrong):
    with pytest.raises(VerificationError, match="before rounding"):
        grown(source[dtype], tmp_path, WRONG[wrong])


def test_a_wrong_result_that_was_right_before_rounding_is_caught(source):
    plan = make_plan(source["bfloat16"].config, replace(source["bfloat16"].config, **LARGE))
    good = {"max_relative": 1e-2, "kl": 1e-3, "agreement": 1.0, "before_rounding": 1e-6}
    Drift(**good, tokens=16, compute_dtype="float32").check(plan.guarantee, "x")
    for name, value in (("max_relative", 0.3), ("kl", 0.1), ("agreement", 0.5), ("before_rounding", 1e-3),
                        ("kl", np.nan), ("max_relative", np.nan), ("agreement", np.nan)):  # fmt: skip
        with pytest.raises(VerificationError):
            Drift(**good | {name: value}, tokens=16, compute_dtype="float32").check(plan.guarantee, "x")


def test_divergence_and_agreement_are_those_of_the_predictions():
    old = np.log(np.array([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]]))
    new = np.log(np.array([[[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]])) + 3.0
    drift = measure_drift(old, new)
    assert drift.kl == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert drift.agreement == 0.5
