"""Nothing that is not finite is written by a growth: weights, moments, Fisher information, reference parameters."""

from dataclasses import replace

import numpy as np
import pytest
import tprog.numpy
from tprog import FormatError, ModelConfig
from tprog.dtypes import numpy_dtype
from tprog.parts import Parts, step_tensor
from tprog.reader import open_checkpoint
from tprog.source import named_source
from tprog.verify import verify

from tests.tprog.files import random_arrays
from tritter_jax.growth import make_plan
from tritter_jax.growth.carry import MeasuredFisher
from tritter_jax.growth.expand import expand
from tritter_jax.growth.onto_mesh import grow_onto
from tritter_jax.sharding import MeshShape, make_mesh, param_shardings

SMALL = ModelConfig(
    family="llama", hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=20, vocab_size=40
)
DEEPER = replace(SMALL, num_layers=3)
WIDER = replace(SMALL, hidden_size=40)
EMBED, UP = "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"
LARGEST = 65504.0


def tensors(dtype="float32", prefix="", **changed):
    """Small random tensors in which the first entry of some is another."""
    found = {name: array * 0.1 for name, array in random_arrays(SMALL).items()}
    for name, value in changed.items():
        found[{"embed": EMBED, "up": UP}[name]][0, 0] = value
    return {prefix + name: array.astype(numpy_dtype(dtype)) for name, array in found.items()}


def saved(tmp_path, weights, **parts):
    dtype = next(iter(weights.values())).dtype.name
    return tprog.numpy.save(tmp_path / "from.tprog", weights, replace(SMALL, dtype=dtype), parts=Parts(**parts))


def refused(tmp_path, source, target, match, **options):
    """The growth is refused, and leaves nothing."""
    with pytest.raises(FormatError, match=match):
        expand(source, tmp_path / "to.tprog", target, **{"verify": False} | options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["from.tprog"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_cast_that_would_write_infinity_is_refused(tmp_path, dtype, verify):
    source = saved(tmp_path, tensors(dtype, embed=1e5))
    match = rf"{EMBED}: expected numbers that float16 holds, up to 65504, got one .* 9.*\d\. Choose another .*--dtype"
    match = match if dtype == "bfloat16" else match.replace("9.*", "100000").replace(r"\d", "")
    refused(tmp_path, source, replace(DEEPER, dtype="float16"), match, verify=verify)


def test_a_rescaling_that_would_write_infinity_is_refused(tmp_path):
    source = saved(tmp_path, tensors("float16", embed=LARGEST))
    refused(tmp_path, source, replace(WIDER, dtype="float16"), f"{EMBED}: expected numbers that float16 holds")


@pytest.mark.parametrize("width", ["duplicate", "fresh"])
def test_what_fits_is_written_whole(tmp_path, width):
    source = saved(tmp_path, tensors("float16", embed=LARGEST / 4))
    done = expand(source, tmp_path / "to.tprog", replace(WIDER, dtype="float16"), width=width, verify=False)
    assert verify(done.path).ok


@pytest.mark.parametrize("target", [DEEPER, WIDER], ids=["copied", "rescaled"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_source_that_is_not_finite_is_said_to_be_so(tmp_path, target, value):
    source = saved(tmp_path, tensors(up=value))
    refused(tmp_path, source, target, f"{UP}: expected finite numbers in the source, got infinity or NaN")


def moments(**changed):
    slots = (tensors("float16", f"{slot}.", **changed) for slot in ("exp_avg", "exp_avg_sq"))
    return {name: abs(array) for slot in slots for name, array in slot.items()} | {"step": step_tensor(3)}


def test_moments_that_would_become_infinite_are_refused(tmp_path):
    source = saved(tmp_path, tensors(), optimizer=moments(up=LARGEST))
    match = r"exp_avg.*up_proj.weight: expected numbers that float16 holds.*--optimizer reset"
    refused(tmp_path, source, WIDER, match, optimizer="transport")
    assert verify(expand(source, tmp_path / "a.tprog", WIDER, optimizer="reset", verify=False).path).ok


def test_second_moments_and_fisher_information_may_underflow(tmp_path):
    tiny = 6e-8
    squares = {name: abs(array) for name, array in tensors("float16", up=tiny).items()}
    source = saved(tmp_path, tensors(), optimizer=moments(up=tiny), fisher=squares)
    assert verify(expand(source, tmp_path / "to.tprog", WIDER, verify=False).path).ok


@pytest.mark.parametrize("rule", ["exact", "preserve"])
def test_fisher_information_that_would_become_infinite_is_refused(tmp_path, rule):
    squares = {name: np.full_like(array, LARGEST) for name, array in tensors("float16").items()}
    source = saved(tmp_path, tensors(), fisher=squares)
    refused(tmp_path, source, WIDER, "expected numbers that float16 holds.*--fisher", fisher=rule)


def test_measured_fisher_information_that_would_become_infinite_is_refused(tmp_path):
    squares = {name: abs(array) for name, array in tensors("float16").items()}
    source = saved(tmp_path, tensors(), fisher=squares)
    grown = {name: np.full(array.shape, 1e6, np.float32) for name, array in random_arrays(DEEPER).items()}
    measured = MeasuredFisher(tensors=named_source(grown), data="builtin:prose")
    refused(tmp_path, source, DEEPER, "expected numbers that float16 holds", measured=measured)


def test_reference_parameters_that_would_become_infinite_are_refused(tmp_path):
    squares = {name: abs(array) for name, array in tensors().items()}
    source = saved(tmp_path, tensors(), fisher=squares, old_params=tensors(embed=1e5))
    refused(tmp_path, source, replace(DEEPER, dtype="float16"), f"{EMBED}: .*float16 holds.*100000")


def test_growing_onto_a_mesh_refuses_too(tmp_path):
    source = open_checkpoint(saved(tmp_path, tensors(embed=1e5)))
    plan = make_plan(source.config, replace(DEEPER, dtype="float16"))
    mesh = make_mesh(MeshShape())
    with pytest.raises(FormatError, match="embed: expected numbers that float16 holds"):
        grow_onto(source, plan, param_shardings(plan.target, mesh))
