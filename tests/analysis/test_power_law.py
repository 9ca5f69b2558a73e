"""Fits that find what made the data, say how sure they are, and refuse what they cannot tell."""

import numpy as np
import pytest
from tprog import UsageError

from tritter_jax.analysis import fit_power_law, growth_point, loss_history

TRUE = (1.7, 0.9, 0.35)


def noisy(seed: int, points: int = 60, noise: float = 0.01, likeness: float = 0.0):
    rng = np.random.default_rng(seed)
    tokens = np.linspace(1e5, 4e6, points)
    errors = np.zeros(points)
    for place, draw in enumerate(rng.standard_normal(points)):
        errors[place] = likeness * errors[place - 1] + np.sqrt(1 - likeness**2) * draw
    return tokens.tolist(), (TRUE[0] + TRUE[1] * (tokens / 1e6) ** -TRUE[2] + noise * errors).tolist()


@pytest.mark.parametrize("likeness", [0.0, 0.6])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(likeness):
    inside, ahead = 0, 0
    expected = TRUE[1] * 4.0 ** -TRUE[2] * (1 - 2.0 ** -TRUE[2])
    for seed in range(60):
        law = fit_power_law(*noisy(seed, likeness=likeness))
        low, best, high = law.exponent_interval
        assert low <= best <= high
        inside += low <= TRUE[2] <= high
        low, _, high = law.gain(4e6)
        ahead += low <= expected <= high
    assert 46 <= inside <= 60
    assert 46 <= ahead <= 60


def test_more_noise_is_less_certain_and_likeness_counts():
    def width(**options) -> float:
        ends = [fit_power_law(*noisy(seed, **options)).exponent_interval for seed in range(12)]
        return float(np.median([high - low for low, _, high in ends]))

    assert width(noise=0.002) < width(noise=0.01) < width(noise=0.01, likeness=0.8)


def test_what_gives_no_power_law_is_refused():
    tokens, losses = noisy(0)
    with pytest.raises(UsageError, match="at least 8 points over a doubling"):
        fit_power_law(tokens[:7], losses[:7])
    with pytest.raises(UsageError, match="at least 8 points over a doubling"):
        fit_power_law(tokens[-20:], losses[-20:])
    with pytest.raises(UsageError, match="a loss that falls"):
        fit_power_law(tokens, losses[::-1])
    with pytest.raises(UsageError, match="got none"):
        fit_power_law([], [])


def flops_to(target: float, switch: float, factor: float, size: float, exponent: float, constants) -> float:
    """FLOPs until a loss, for a model that is grown after `switch` tokens, by the loss formula itself."""
    a, b = constants
    data = b * switch**-exponent
    larger = (data + a * (1 - factor**-size)) / b
    end = ((target - a * factor**-size) / b) ** (-1 / exponent)
    return switch + factor * (end - larger ** (-1 / exponent))


@pytest.mark.parametrize(("factor", "exponent"), [(2.0, 0.28), (1.5, 0.5), (3.0, 0.37)])
def test_the_point_is_where_any_lower_loss_takes_the_fewest_flops(factor, exponent):
    optimum, size = 20.0, 0.35
    # One parameter, its own tokens a parameter optimal: a A = b B r^-b.
    constants = (exponent / size * optimum**-exponent, 1.0)
    switches = np.geomspace(2, 200, 4000)
    tokens = np.linspace(1e5, 4e6, 40)
    law = fit_power_law(tokens.tolist(), (2 + (tokens / 1e6) ** -exponent).tolist())
    point = growth_point(law, 1, factor, tokens_a_parameter=optimum)
    for aim in (0.6, 0.8):
        target = constants[0] * factor**-size + aim * constants[1] * 200.0**-exponent
        costs = [flops_to(target, switch, factor, size, exponent, constants) for switch in switches]
        assert point.tokens == pytest.approx(switches[int(np.argmin(costs))], rel=0.03)
    assert point.low < point.tokens < point.high


def test_the_chance_that_it_lies_behind_grows_with_the_tokens_seen():
    chances = [growth_point(None, 10, 2.0, tokens_seen=seen).passed for seen in (1, 100, 150, 250, 10_000)]
    assert chances == sorted(chances)
    assert chances[0] == 0 and chances[-1] == 1
    assert 0.3 < growth_point(None, 10, 2.0, tokens_seen=growth_point(None, 10, 2.0).tokens).passed < 0.7


def line(step: int, **fields: object) -> dict:
    return {
        "step": step,
        "loss": 3.0 + 2 / step,
        "tokens_seen": 10 * step,
        "learning_rate": min(1.0, step / 5),
    } | fields


def test_a_history_begins_after_the_warm_up_and_prefers_held_out_losses():
    lines = [line(step) for step in range(1, 101)]
    found = loss_history(lines)
    assert (found.kind, found.tokens[0], found.step, found.tokens_seen) == ("training", 50.0, 100, 1000.0)
    assert found.step_at(1500) == 150
    assert found.steady
    held_out = [{"step": step, "held_out_loss": 9.0 - step / 100} for step in range(10, 101, 10)]
    found = loss_history([*lines, *held_out])
    assert found.kind == "held-out"
    assert found.tokens == tuple(float(10 * step) for step in range(10, 101, 10))
    assert loss_history([*lines, *held_out[:5]]).kind == "training"


def test_a_falling_learning_rate_is_noticed():
    lines = [line(step, learning_rate=1 - step / 101) for step in range(1, 101)]
    assert not loss_history(lines).steady


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"step": step} for step in range(50)],
        [line(step, loss=float("nan")) for step in range(1, 50)],
        [line(step, loss="3.1") for step in range(1, 50)],
        [line(50 - step) for step in range(1, 50)],
    ],
    ids=["none", "no-loss", "not-finite", "text", "backwards"],
)
def test_metrics_that_hold_no_history_are_refused(lines):
    with pytest.raises(UsageError, match="at least 8 lines with step, loss and tokens_seen"):
        loss_history(lines)
