"""The scripts of "Grow your own model" run, and show what they say."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tprog
import tprog.flax

from examples.own_model import encoder_decoder, loop, mesh, pytree
from tritter_jax.model import init_params


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("script", [pytree, encoder_decoder], ids=["pytree", "encoder_decoder"])
def test_a_model_of_ones_own_grows_exactly(script):
    seen = script.main()
    assert seen.exact and seen.max_relative < 1e-5
    assert seen.numbers > 100


def test_the_loss_does_not_move_when_a_loop_of_ones_own_grows():
    first, before, after, last = loop.main(steps=25)
    assert after == pytest.approx(before, rel=1e-5)
    assert last < before < first


def test_a_mesh_of_ones_own():
    grown = mesh.main()
    assert len(grown["blocks"]) == 3
    assert len(grown["blocks"][0]["wq"].sharding.device_set) == 4


def test_a_checkpoint_in_torch_without_jax(tmp_path):
    config = tprog.ModelConfig(
        family="llama", hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=24, vocab_size=40
    )
    tprog.flax.save(tmp_path / "a.tprog", init_params(config), config)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "examples.own_model.in_torch", tmp_path / "a.tprog"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "11 tensors read" in done.stdout or "12 tensors read" in done.stdout
