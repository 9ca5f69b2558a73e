"""Noise is as strong as asked, the same for the same seed, and changes nothing unless it is told to."""

from dataclasses import replace

import numpy as np
import pytest
from tprog import GrowthError
from tprog.params import Axis
from tprog.tree import flatten

from tests.contracts.cases import BOTH, MODELS, in_dtype, params_for
from tests.growth.test_compose import HALFWAY
from tests.support import every_value, logits, random_params, random_tokens, relative_difference, same_values
from tritter_jax.growth import SPLITS, WIDTH, grow, make_plan, map_gradients
from tritter_jax.growth.drift import precision

WIDENED = [model for model in MODELS if model.widens]
each_widened = pytest.mark.parametrize("model", WIDENED, ids=lambda model: model.name)
CONFIG = MODELS[0].config


def noisy(config, *, noise: float | None = 10.0, everywhere: bool = False, seed: int = 7, **choices):
    target = BOTH.plan(config).target
    return make_plan(
        config, target, positions="spread", noise=noise, noise_everywhere=everywhere, seed=seed, **choices
    )


def moved(plan, clean) -> dict:
    """What the noise added to every parameter."""
    params = params_for(plan.source)
    noise, without = flatten(grow(params, plan)), flatten(grow(params, clean))
    return {path: np.asarray(noise[path]) - np.asarray(without[path]) for path in noise}


def drift(plan) -> float:
    tokens = random_tokens(plan.source)
    with precision("float64"):
        params = random_params(plan.source)
        after = logits(grow(params, plan), tokens, plan.target)
        return relative_difference(after[..., : plan.source.vocab_size], logits(params, tokens, plan.source))


@each_widened
def test_loud_noise_leaves_the_function_where_it_is(model):
    plan = noisy(in_dtype(model.config, "float64"), noise=0.0)
    assert plan.guarantee.exact
    assert drift(plan) < plan.guarantee.tolerance


@every_value(width=WIDTH, split=SPLITS)
def test_it_leaves_the_function_under_every_width_and_split(width, split):
    plan = noisy(in_dtype(CONFIG, "float64"), noise=0.0, width=width, split=split)
    assert drift(plan) < 1e-12


@pytest.mark.parametrize("depth", ["identity", "copy"])
def test_noise_everywhere_moves_the_function_and_the_plan_says_so(depth):
    plan = noisy(in_dtype(CONFIG, "float64"), noise=20.0, everywhere=True, depth=depth)
    assert not plan.guarantee.exact
    assert "noise of 20 dB lies on every new entry" in plan.guarantee.reason
    assert drift(plan) > 1e-2


def test_less_noise_everywhere_moves_the_function_less():
    config = in_dtype(CONFIG, "float64")
    loud, low = (drift(noisy(config, noise=decibels, everywhere=True)) for decibels in (20.0, 60.0))
    assert low == pytest.approx(loud / 100, rel=0.5)


@pytest.mark.parametrize("decibels", [0.0, 10.0, 30.0])
def test_a_silent_layer_has_noise_as_strong_as_asked_in_all_but_what_it_writes(decibels):
    target = replace(CONFIG, num_layers=5)
    plan = make_plan(CONFIG, target, layers=[0, 2], noise=decibels, seed=1)
    clean = make_plan(CONFIG, target, layers=[0, 2])
    source, new = flatten(params_for(CONFIG)), list(plan.new_layers)
    for path, noise in moved(plan, clean).items():
        axes = {axis for spec, _ in plan.target_specs() if spec.path == path for axis in spec.axes}
        if Axis("layers", "stack") not in axes:
            assert not noise.any(), path
            continue
        assert not np.delete(noise, new, axis=0).any()
        for layer in new:
            signal = np.square(source[path][plan.stack.source[layer]]).mean()
            exactly = 0.3 if noise[layer].size > 1000 else 3
            assert 10 * np.log10(signal / np.square(noise[layer]).mean()) == pytest.approx(decibels, abs=exactly)


def test_noise_of_copies_lies_in_what_reads_them_and_cancels_over_the_copies():
    plan, clean = noisy(CONFIG), noisy(CONFIG, noise=None)
    maps = dict(plan.maps)
    old = np.flatnonzero(~np.asarray(plan.stack.new))
    gate, read = moved(plan, clean)["layers", "mlp", "gate"][old], maps[Axis("hidden", "read")]
    source, heard = np.asarray(read.source), np.asarray(read.gradient)
    sums = np.zeros((160, *gate.shape[:2]))
    np.add.at(sums, source, np.moveaxis(gate * heard, 2, 0))
    twice = np.bincount(source)[source] > 1
    spread = np.sqrt(np.square(gate[..., twice]).mean())
    assert spread > 0.01 * np.std(params_for(CONFIG)["layers"]["mlp"]["gate"])
    assert np.abs(sums).max() < 1e-5 * spread
    assert not gate[..., ~twice].any()
    assert not moved(plan, clean)["embed",].any()


def test_copies_under_an_even_split_are_told_apart_by_it():
    plan, clean = noisy(CONFIG, split="even"), noisy(CONFIG, split="even", noise=None)

    def columns(which) -> tuple[np.ndarray, np.ndarray]:
        down = np.asarray(grow(params_for(CONFIG), which)["layers"]["mlp"]["down"])[0]
        return down[:, 0], down[:, 192]

    assert np.array_equal(*columns(clean))
    one, other = columns(plan)
    assert np.abs(one - other).max() > 0.05 * np.abs(one).max()


def test_the_seed_decides():
    params = params_for(CONFIG)
    once = grow(params, noisy(CONFIG))
    assert same_values(grow(params, noisy(CONFIG)), once)
    assert not same_values(grow(params, noisy(CONFIG, seed=8)), once)


def test_noise_moves_no_gradient_and_the_plan_says_that_they_are_not_the_old_ones():
    plan, clean = noisy(CONFIG), noisy(CONFIG, noise=None)
    assert same_values(map_gradients(params_for(CONFIG), plan), map_gradients(params_for(CONFIG), clean))
    assert (plan.guarantee.gradients_exact, clean.guarantee.gradients_exact) == (False, True)
    deeper = make_plan(CONFIG, replace(CONFIG, num_layers=5), positions="spread", noise=10, seed=0)
    assert deeper.guarantee.gradients_exact


def test_vocabulary_and_noise_together():
    plan = make_plan(in_dtype(CONFIG, "float64"), replace(CONFIG, **HALFWAY, dtype="float64"), noise=3.0, seed=0)
    assert drift(plan) < 1e-12


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"seed": None}, "seed: expected one for the noise, .* got none. Add --seed"),
        ({"noise": float("nan")}, "noise: expected a signal-to-noise ratio from -200 to 200 dB, got nan"),
        ({"noise": 1e9}, "from -200 to 200 dB"),
        ({"depth": "copy", "num_layers": 4}, "got a growth without any. Leave it out, or add --noise-everywhere"),
    ],
)
def test_noise_that_makes_no_sense_is_refused(choices, message):
    layers = choices.pop("num_layers", None)
    target = replace(CONFIG, num_layers=layers) if layers else BOTH.plan(CONFIG).target
    with pytest.raises(GrowthError, match=message):
        make_plan(CONFIG, target, **({"positions": "spread", "noise": 10.0, "seed": 0} | choices))


def test_noise_everywhere_without_noise_is_refused():
    with pytest.raises(GrowthError, match="noise_everywhere: expected a signal-to-noise ratio beside it, got none"):
        make_plan(CONFIG, replace(CONFIG, num_layers=4), positions="spread", noise_everywhere=True, seed=0)
