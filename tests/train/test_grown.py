"""A run goes on from a grown checkpoint: with its moments, its step and its place in the history."""

import json

import jax
import numpy as np
import pytest
from tprog import load_config
from tprog.flax_state import load_optimizer
from tprog.reader import open_checkpoint

from tests.support import first_of
from tests.train.conftest import SMALL
from tritter_jax.growth.expand import expand
from tritter_jax.train.loop import train
from tritter_jax.train.setup import prepare

LARGER = SMALL | {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 3}


@pytest.fixture
def finished(settings):
    """A run of four steps."""
    return train(prepare(settings("training.steps=4")))


def grown(finished, tmp_path, **options):
    (tmp_path / "larger.json").write_text(json.dumps(LARGER | {"head_dim": 8}))
    source = open_checkpoint(finished.checkpoint)
    target = load_config(tmp_path / "larger.json")
    return expand(source, tmp_path / "grown.tprog", target, layers=[0], **options)


@pytest.mark.parametrize("strategy", first_of(["asymmetric", "transport", "reset"]))
def test_training_goes_on_from_the_grown_state(finished, settings, tmp_path, strategy):
    done = grown(finished, tmp_path, optimizer=strategy)
    changes = ("model.config=", f"model.checkpoint={done.path}", "training.steps=8")
    run = prepare(settings(*changes, directory="on"))
    state = run.first_state()
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    if strategy == "reset":
        assert not any(np.asarray(leaf).any() for leaf in moments)
    else:
        stored = load_optimizer(done.path, run.optimizer.init(state.params))
        for one, other in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(stored), strict=True):
            np.testing.assert_array_equal(one, other)
        assert any(np.asarray(leaf).any() for leaf in moments)
    assert int(state.step) == 4
    more = train(run)
    assert more.step == 8
    assert np.isfinite(more.loss)
    after = open_checkpoint(more.checkpoint)
    assert after.config.num_layers == 3
    assert after.progressive.expansion_history[-1].tokens_after == 4 * 8 * 32
    assert "optimizer" in after.parts
