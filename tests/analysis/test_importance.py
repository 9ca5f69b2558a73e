"""What a layer is called agrees with what happens when it is left out."""

import itertools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import UsageError, VerificationError
from tprog.params import param_specs
from tprog.tree import flatten, nest

from tests.support import logits, random_params, random_tokens
from tritter_jax.analysis import losses_without, measure_layers, notable_layers
from tritter_jax.analysis.importance import FEWEST_TOKENS


@pytest.fixture(scope="module")
def measured(params, batches, checkpoint):
    return measure_layers(params, batches, checkpoint.config)


def silenced(params, config, layers):
    """The same model with layers that add nothing to the residual stream: skipping them by other means."""
    flat = flatten(params)
    for spec in param_specs(config):
        if spec.axes[0].role == "residual":
            flat[spec.path] = flat[spec.path].at[jnp.asarray(layers)].set(0)
    return nest(flat)


def loss_of(params, batches, config):
    nll = tokens = 0.0
    for windows, weights in batches:
        log_p = jax.nn.log_softmax(logits(params, windows[:, :-1], config), axis=-1)
        picked = np.take_along_axis(np.asarray(log_p), windows[:, 1:, None], axis=-1)[..., 0]
        nll, tokens = nll - float((picked * weights).sum()), tokens + float(weights.sum())
    return nll / tokens


def test_losses_are_those_of_the_model_with_that_layer_silenced(measured, params, batches, checkpoint):
    config = checkpoint.config
    assert measured.loss == pytest.approx(loss_of(params, batches, config), rel=1e-5)
    assert measured.tokens == sum(int(weights.sum()) for _, weights in batches)
    for layer in (0, 3, config.num_layers - 1):
        expected = loss_of(silenced(params, config, [layer]), batches, config)
        assert measured.loss_when_skipped[layer] == pytest.approx(expected, rel=1e-5), layer
    both = loss_of(silenced(params, config, [1, 4]), batches, config)
    assert losses_without(params, batches, config, [[1, 4]])[0] == pytest.approx(both, rel=1e-5)


def test_influence_and_norms_are_what_the_layers_do_to_the_stream(params, batches, checkpoint):
    config = checkpoint.config
    silent = silenced(params, config, [2])
    measured = measure_layers(silent, batches, config)
    assert measured.block_influence[2] == pytest.approx(0, abs=1e-6)
    assert measured.loss_when_skipped[2] == pytest.approx(measured.loss, rel=1e-6)
    assert measured.residual_norms[3] == pytest.approx(measured.residual_norms[2], rel=1e-6)
    others = [value for layer, value in enumerate(measured.block_influence) if layer != 2]
    assert min(others) > 1e-4
    first = np.asarray(params["embed"])[np.concatenate([windows[:, :-1] for windows, _ in batches])]
    weights = np.concatenate([weights for _, weights in batches])
    rms = (np.sqrt((first**2).mean(-1)) * weights).sum() / weights.sum()
    assert measured.residual_norms[0] == pytest.approx(rms, rel=1e-5)


def test_skipping_expendable_layers_costs_less_than_others_and_critical_ones(measured, params, batches, checkpoint):
    config = checkpoint.config
    order = sorted(range(config.num_layers), key=lambda layer: measured.scores[layer])
    # All sets of a size, not a draw of them: their mean is what a random choice costs.
    sets = [choice for count in (1, 2, 3) for choice in itertools.combinations(range(config.num_layers), count)]
    found = dict(zip(sets, losses_without(params, batches, config, sets), strict=True))
    for count in (1, 2, 3):
        expendable, critical = tuple(sorted(order[:count])), tuple(sorted(order[-count:]))
        costs = [loss for choice, loss in found.items() if len(choice) == count]
        assert found[expendable] < min(statistics.mean(costs), statistics.median(costs)), count
        assert found[expendable] < found[critical], count
    expendable, critical = notable_layers(measured.scores)
    assert (expendable, critical) == (order[:1], order[-1:])


def test_scores_are_a_share_of_probability(measured):
    assert all(0 <= score <= 1 for score in measured.scores)
    assert max(measured.scores) > 0.1
    for score, without in zip(measured.scores, measured.loss_when_skipped, strict=True):
        assert score == pytest.approx(max(0.0, 1 - np.exp(measured.loss - without)), abs=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 3, 26, 80])
def test_no_layer_is_both_expendable_and_critical(layers):
    expendable, critical = notable_layers([0.5] * layers)
    assert not set(expendable) & set(critical)
    assert len(critical) == max(1, round(layers / 8))
    assert len(expendable) == (0 if layers == 1 else len(critical))


def test_padding_does_not_count(params, batches, checkpoint):
    windows, weights = batches[0]
    spoilt = np.concatenate([windows, windows[::-1]])
    found = measure_layers(params, [(spoilt, np.concatenate([weights, 0 * weights]))] * 4, checkpoint.config)
    plain = measure_layers(params, [(windows, weights)] * 4, checkpoint.config)
    assert found.tokens == plain.tokens
    assert found.loss_when_skipped == pytest.approx(plain.loss_when_skipped, rel=1e-5)
    assert found.block_influence == pytest.approx(plain.block_influence, rel=1e-4)


def test_too_few_tokens_and_broken_weights_are_refused(params, batches, checkpoint):
    config = checkpoint.config
    tokens = random_tokens(config, (4, 17))
    with pytest.raises(UsageError, match=f"at least {FEWEST_TOKENS:,} tokens .* got 64"):
        measure_layers(params, [(tokens, np.ones((4, 16)))], config)
    with pytest.raises(UsageError, match="got 0"):
        measure_layers(params, [], config)
    broken = random_params(config) | {"norm": jnp.full(config.hidden_size, jnp.nan)}
    with pytest.raises(VerificationError, match="loss of the whole model"):
        measure_layers(broken, batches, config)
    with pytest.raises(UsageError, match="numbers from 0 to 7"):
        losses_without(params, batches, config, [[8]])
