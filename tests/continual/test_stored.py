"""What is read of earlier tasks is checked: model, save, unit, sign and finiteness."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tprog.flax
from tprog import FormatError, UsageError
from tprog.parts import Parts
from tprog.reader import open_checkpoint
from tprog.schema import Progressive
from tprog.writer import write_checkpoint

from tests.continual.references import tiny_config
from tests.support import random_params
from tritter_jax.continual import stored_memory
from tritter_jax.sharding import MeshShape, make_mesh, param_shardings
from tritter_jax.train.start import open_start, write_start

CONFIG = tiny_config(dtype="float32")
PARAMS, ANCHOR = random_params(CONFIG), random_params(CONFIG, seed=1)
FISHER = jax.tree.map(jnp.square, random_params(CONFIG, seed=2))
PER_TOKEN = {"enabled": True, "unit": "per token"}


def saved(path, fisher=FISHER, anchor=ANCHOR, config=CONFIG, params=PARAMS, **ewc_config):
    progressive = Progressive.of(config).with_fields(ewc_config=PER_TOKEN | ewc_config)
    return tprog.flax.save(path, params, config, fisher=fisher, old_params=anchor, progressive=progressive)


def same(one, other) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fisher_anchor_and_constant_come_back_as_they_were(tmp_path):
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), FISHER)
    memory = stored_memory(open_checkpoint(saved(tmp_path / "a.tprog", narrow, constant=2.5)))
    same((memory.fisher, memory.anchor), (narrow, ANCHOR))
    assert float(memory.constant) == 2.5
    assert float(stored_memory(open_checkpoint(saved(tmp_path / "b.tprog"))).constant) == 0


def test_on_a_mesh_they_lie_as_the_parameters_do(tmp_path):
    config = tiny_config(dtype="float32", num_heads=4, num_kv_heads=2)
    fisher, params = (jax.tree.map(jnp.square, random_params(config, seed=seed)) for seed in (2, 3))
    checkpoint = open_checkpoint(saved(tmp_path / "a.tprog", fisher, params, config, params))
    lies = param_shardings(config, make_mesh(MeshShape(fsdp=4, tensor=2)))
    memory = stored_memory(checkpoint, shardings=lies)
    same((memory.fisher, memory.anchor), (fisher, params))
    for leaf, sharding in zip(jax.tree.leaves(memory.fisher), jax.tree.leaves(lies), strict=True):
        assert leaf.sharding == sharding


def test_the_start_of_a_run_holds_the_same(tmp_path):
    checkpoint = open_checkpoint(saved(tmp_path / "a.tprog", constant=1.0))
    write_start(tmp_path / "run", CONFIG, origin=checkpoint, tokenizer=None)
    memory = stored_memory(open_start(tmp_path / "run"))
    same(memory, stored_memory(checkpoint))


@pytest.mark.parametrize("given", [{}, {"fisher": FISHER}, {"old_params": ANCHOR}])
def test_where_nothing_or_half_of_it_is_stored_the_command_is_named(tmp_path, given):
    progressive = Progressive.of(CONFIG).with_fields(ewc_config=PER_TOKEN)
    path = tprog.flax.save(tmp_path / "a.tprog", PARAMS, CONFIG, progressive=progressive, **given)
    with pytest.raises(UsageError, match=r"(?s)a\.tprog: expected ewc/.*got none.*tritter fisher"):
        stored_memory(open_checkpoint(path))


def changed(tree: dict, value: float) -> dict:
    return tree | {"norm": tree["norm"].at[3].set(value)}


@pytest.mark.parametrize(
    ("fisher", "anchor", "said"),
    [
        (changed(FISHER, -1.0), ANCHOR, "fisher norm has negative values, the least -1"),
        (changed(FISHER, np.nan), ANCHOR, "fisher norm has values that are not finite"),
        (changed(FISHER, np.inf), ANCHOR, "fisher norm has values that are not finite"),
        (FISHER, changed(ANCHOR, np.nan), "anchor norm has values that are not finite"),
    ],
)
def test_negative_and_infinite_values_are_named(tmp_path, fisher, anchor, said):
    with pytest.raises(FormatError, match=f"(?s)ewc/fisher: expected finite values.*{said}"):
        stored_memory(open_checkpoint(saved(tmp_path / "a.tprog", fisher, anchor)))


def test_another_unit_and_no_unit_are_refused(tmp_path):
    for number, (unit, said) in enumerate((("per sequence", "got 'per sequence'"), (None, "got none"))):
        with pytest.raises(FormatError, match=f"(?s)ewc_config.unit: expected 'per token'.*{said}"):
            stored_memory(open_checkpoint(saved(tmp_path / f"{number}.tprog", unit=unit)))
    bare = tprog.flax.save(tmp_path / "bare.tprog", PARAMS, CONFIG, fisher=FISHER, old_params=ANCHOR)
    with pytest.raises(FormatError, match=r"ewc_config\.unit"):
        stored_memory(open_checkpoint(bare))


def test_a_file_of_another_model_is_refused(tmp_path):
    """Of another shape, and of the same shape from another save."""
    own = saved(tmp_path / "own.tprog")
    wide = tiny_config(dtype="float32", intermediate_size=20)
    drawn = random_params(wide)
    others = (
        saved(tmp_path / "w.tprog", jax.tree.map(jnp.square, drawn), drawn, wide, drawn),
        saved(tmp_path / "s.tprog"),
    )
    for other, said in zip(others, (r"has shape \[20, 8\], expected \[12, 8\]", "belongs to save"), strict=True):
        path = shutil.copytree(own, tmp_path / f"into-{other.name}")
        shutil.copy(other / "ewc" / "fisher.safetensors", path / "ewc" / "fisher.safetensors")
        with pytest.raises(FormatError, match=f"(?s)ewc/fisher: expected the fisher of this checkpoint.*{said}"):
            stored_memory(open_checkpoint(path))


def test_a_file_that_lacks_a_parameter_is_refused(tmp_path):
    tensors = tprog.flax.to_tensors(FISHER, CONFIG)
    fewer = {name: tensors.tensor(name) for name in tensors.specs if name != "model.norm.weight"}
    path = write_checkpoint(
        tmp_path / "a.tprog",
        CONFIG,
        tprog.flax.to_tensors(PARAMS, CONFIG),
        progressive=Progressive.of(CONFIG).with_fields(ewc_config=PER_TOKEN),
        parts=Parts(fisher=fewer, old_params=tprog.flax.to_tensors(ANCHOR, CONFIG)),
    )
    with pytest.raises(FormatError, match=r"(?s)got 1 that it lacks.*model\.norm\.weight"):
        stored_memory(open_checkpoint(path))
