"""Expanding takes all of a checkpoint along: optimizer, Fisher information, anchor, random states and the rest."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import tprog.flax
import tprog.numpy
import tprog.torch_state
import transformers
from tprog import GrowthError, ModelConfig, ParameterError
from tprog.flax_state import load_optimizer, load_rng_key
from tprog.hf_names import hf_tensors
from tprog.parts import Parts
from tprog.reader import open_checkpoint
from tprog.schema import Progressive
from tprog.source import LazyTensors
from tprog.tree import flatten

from tests.support import every_value, gradients, random_params, random_tokens
from tritter_jax.growth import FISHER, MOMENTS, grow, grow_optimizer, make_plan, new_parameters
from tritter_jax.growth.carry import MeasuredFisher, grown_parts, unknown_fisher
from tritter_jax.growth.expand import expand

SMALL = ModelConfig(
    family="llama", hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=20, vocab_size=40
)
LARGE = replace(SMALL, hidden_size=40, num_layers=3, num_heads=8, num_kv_heads=4, intermediate_size=36)
GROW = {"layers": [1], "verify": False}
ADAMW = optax.adamw(1e-3, weight_decay=0.01)
STEPS = 3
MOVES = [name for name, row in MOMENTS.items() if row.factors is not None]


def trained():
    """Parameters and state of AdamW after three steps."""
    params = random_params(SMALL)
    state = ADAMW.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for seed in range(STEPS):
            updates, state = ADAMW.update(gradients(params, random_tokens(SMALL, seed=seed), SMALL), state, params)
            params = optax.apply_updates(params, updates)
    return params, state


TRAINED = trained()
FISHER_OF_SMALL = jax.tree.map(jnp.square, random_params(SMALL, seed=5))
ANCHOR = random_params(SMALL, seed=6)


@pytest.fixture
def source(tmp_path):
    """A checkpoint with every part."""
    params, state = TRAINED
    path = tprog.flax.save(
        tmp_path / "poet-1K-3.tprog",
        params,
        SMALL,
        opt_state=state,
        rng_key=jax.random.key(7),
        fisher=FISHER_OF_SMALL,
        old_params=ANCHOR,
        scheduler={"warmup": 5},
        data_state={"epoch": 2},
        progressive=Progressive.of(SMALL).with_fields(
            training_progress={"tokens_seen": 99, "steps": STEPS}, ewc_config={"enabled": True, "lambda": 5.0}
        ),
    )
    return open_checkpoint(path)


def grown(source, tmp_path, **options):
    return expand(source, tmp_path / "grown.tprog", LARGE, **(GROW | options))


@pytest.mark.parametrize("strategy", MOVES)
def test_the_optimizer_in_the_file_is_the_one_grown_in_memory(source, tmp_path, strategy):
    done = grown(source, tmp_path, optimizer=strategy)
    params, state = TRAINED
    due = grow_optimizer(state, done.plan, ADAMW, strategy=strategy)
    got = load_optimizer(done.path, ADAMW.init(grow(params, done.plan)))
    assert int(got[0].count) == STEPS
    assert jax.tree.structure(got) == jax.tree.structure(due)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(due), strict=True):
        np.testing.assert_array_equal(one, other)
    assert open_checkpoint(done.path).progressive.expansion_history[-1].optimizer == strategy


@pytest.mark.parametrize("strategy", MOVES)
def test_torch_goes_on_from_it_as_optax_does(source, tmp_path, strategy):
    path = grown(source, tmp_path, optimizer=strategy).path
    params = tprog.flax.load(path)
    state = load_optimizer(path, ADAMW.init(params))
    gradient = gradients(params, random_tokens(LARGE, seed=9), LARGE)

    def stepped(before) -> dict:
        with jax.numpy_dtype_promotion("standard"):
            return optax.apply_updates(params, ADAMW.update(gradient, before, params)[0])

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    tprog.torch_state.load_optimizer(optimizer, path, model)
    wanted = tprog.flax.to_tensors(gradient, LARGE)
    for name, parameter in model.named_parameters():
        parameter.grad = torch.from_numpy(np.array(wanted.tensor(name)))
    optimizer.step()
    ours, anew = (tprog.flax.to_tensors(stepped(before), LARGE) for before in (state, ADAMW.init(params)))
    parted = 0.0
    for name, parameter in model.named_parameters():
        value = parameter.detach().numpy()
        np.testing.assert_allclose(value, ours.tensor(name), atol=2e-6, err_msg=name)
        parted = max(parted, float(np.abs(value - anew.tensor(name)).max()))
    assert parted > 1e-4  # the control: from no state the step is another


def test_everything_else_goes_along_as_it_is(source, tmp_path):
    done = grown(source, tmp_path)
    result = open_checkpoint(done.path)
    assert set(done.carried) == set(source.parts) == set(result.parts)
    assert result.scheduler == {"warmup": 5}
    assert result.data_state == {"epoch": 2}
    assert np.array_equal(jax.random.key_data(load_rng_key(result)), jax.random.key_data(jax.random.key(7)))
    assert result.progressive.steps == STEPS
    assert result.progressive.training_progress.tokens_seen == 99
    assert result.progressive.ewc_config.enabled
    assert result.progressive.expansion_history[-1].fisher == "preserve"


def test_reset_leaves_the_optimizer_out_and_nothing_else(source, tmp_path):
    done = grown(source, tmp_path, optimizer="reset")
    assert set(source.parts) - set(done.carried) == {"optimizer"}
    assert "optimizer" not in open_checkpoint(done.path).parts
    assert open_checkpoint(done.path).progressive.expansion_history[-1].optimizer == "reset"


def test_a_source_without_parts_grows_without_them(tmp_path):
    path = tprog.flax.save(tmp_path / "bare-1K-0.tprog", random_params(SMALL), SMALL)
    done = grown(open_checkpoint(path), tmp_path)
    assert done.carried == ()
    assert open_checkpoint(done.path).progressive.expansion_history[-1].optimizer is None


def test_hooks_go_along(tmp_path):
    tensors = tprog.flax.to_tensors(random_params(SMALL), SMALL)
    path = tprog.numpy.save(tmp_path / "a-1K-0.tprog", tensors, SMALL, parts=Parts(hooks=b"x = 1\n"))
    assert (grown(open_checkpoint(path), tmp_path).path / "expansion_hooks.py").read_bytes() == b"x = 1\n"


def moved_cost(fisher: dict, move: dict) -> float:
    return sum(
        float(np.sum(np.asarray(flatten(fisher)[path], np.float64) * np.asarray(step, np.float64) ** 2))
        for path, step in flatten(move).items()
    )


@pytest.mark.parametrize("split", ["uneven", "even", "first"])
def test_preserved_fisher_charges_a_grown_move_what_the_old_move_cost(source, tmp_path, split):
    done = grown(source, tmp_path, split=split)
    move = random_params(SMALL, seed=8)
    before = moved_cost(FISHER_OF_SMALL, move)
    after = moved_cost(tprog.flax.load_part(done.path, "fisher"), grow(move, done.plan))
    assert after == pytest.approx(before, rel=1e-5)
    exact = grown(source, tmp_path, split=split, fisher="exact", overwrite=True)
    other = moved_cost(tprog.flax.load_part(exact.path, "fisher"), grow(move, done.plan))
    assert abs(other / before - 1) > 0.05 or split == "first"


def test_exact_fisher_is_the_square_of_the_grown_gradients(source, tmp_path):
    """Of one example's gradient squared, where the gradients themselves are mapped."""
    gradient = gradients(TRAINED[0], random_tokens(SMALL, (1, 17)), SMALL)
    tensors = tprog.flax.to_tensors(TRAINED[0], SMALL)
    squared = tprog.flax.to_tensors(jax.tree.map(jnp.square, gradient), SMALL)
    path = tprog.numpy.save(tmp_path / "one-1K-0.tprog", tensors, SMALL, parts=Parts(fisher=squared))
    done = grown(open_checkpoint(path), tmp_path, fisher="exact")
    got = flatten(tprog.flax.load_part(done.path, "fisher"))
    true = gradients(grow(TRAINED[0], done.plan), random_tokens(SMALL, (1, 17)), LARGE)
    for spec, target in done.plan.target_specs():
        holds = [
            np.ones(size, bool) if along is None else np.asarray(along.mapped)
            for size, along in zip(target.shape, done.plan.axis_maps(spec), strict=True)
        ]
        if all(mask.any() for mask in holds):
            due = np.square(np.asarray(flatten(true)[spec.path]))
            error = np.abs(np.asarray(got[spec.path]) - due)[np.ix_(*holds)].max()
            assert error < 1e-4 * due.max(), spec.name


@pytest.mark.parametrize("rule", FISHER)
def test_fresh_entries_get_the_median_of_their_layer(source, tmp_path, rule):
    done = grown(source, tmp_path, width="fresh", fisher=rule)
    gate = tprog.flax.load_part(done.path, "fisher")["layers"]["mlp"]["gate"]
    old = np.asarray(FISHER_OF_SMALL["layers"]["mlp"]["gate"])
    for layer, origin in enumerate(done.plan.stack.source):
        median = np.median(old[origin])
        np.testing.assert_allclose(gate[layer, :, 24:], median, rtol=1e-6)
        np.testing.assert_allclose(gate[layer, 20:], median, rtol=1e-6)
        assert not np.isclose(gate[layer, :20, :24], median, rtol=1e-6).all()


@pytest.mark.parametrize("rule", FISHER)
def test_new_projections_that_write_zeros_get_the_median_of_their_kind(source, tmp_path, rule):
    """Their gradients are not zero, though the old ones tell nothing of them; what they read from has none as yet."""
    done = grown(source, tmp_path, fisher=rule)
    (new,) = done.plan.new_layers
    fisher = tprog.flax.load_part(done.path, "fisher")["layers"]
    origin = done.plan.stack.source[new]
    for block, kind in (("attention", "out"), ("mlp", "down")):
        median = np.median(np.asarray(FISHER_OF_SMALL["layers"][block][kind])[origin])
        np.testing.assert_allclose(fisher[block][kind][new], median, rtol=1e-6)
        others = np.delete(np.asarray(fisher[block][kind]), new, 0)
        assert not np.isclose(others, median, rtol=1e-6).all(axis=tuple(range(1, others.ndim))).any()
    for block, kind in (("attention", "query"), ("mlp", "gate"), ("mlp", "up")):
        assert not np.asarray(fisher[block][kind][new]).any()
    counted = sum(
        np.asarray(fisher[block][kind][new]).size for block, kind in (("attention", "out"), ("mlp", "down"))
    )
    assert unknown_fisher(done.plan) == counted


@pytest.mark.parametrize("width", ["fresh", "duplicate"])
def test_what_is_measured_takes_the_place_of_medians_and_of_nothing_else(source, tmp_path, width):
    split = {"split": "first"} if width == "duplicate" else {}
    guessed = grown(source, tmp_path, width=width, **split)
    found = random_params(LARGE, seed=11)
    measured = MeasuredFisher(tensors=tprog.flax.to_tensors(found, LARGE), data="elsewhere")
    before = flatten(tprog.flax.load_part(guessed.path, "fisher"))
    done = grown(source, tmp_path, width=width, measured=measured, overwrite=True, **split)
    after, found = flatten(tprog.flax.load_part(done.path, "fisher")), flatten(found)
    taken = 0
    for path, leaf in after.items():
        new = np.asarray(leaf) == np.asarray(found[path])
        np.testing.assert_array_equal(np.asarray(leaf)[~new], np.asarray(before[path])[~new])
        taken += int(new.sum())
    assert taken == unknown_fisher(done.plan) > 0
    assert open_checkpoint(done.path).progressive.expansion_history[-1].fisher_measured_on == "elsewhere"


@every_value(width=["duplicate", "fresh"], noise=[None, 20.0])
def test_the_anchor_grows_as_the_weights_do_before_noise(source, tmp_path, width, noise):
    done = grown(source, tmp_path, width=width, noise=noise, seed=3)
    quiet = replace(done.plan, noise=None)
    weights = flatten(grow(TRAINED[0], quiet))
    anchor = flatten(grow(ANCHOR, quiet))
    got = flatten(tprog.flax.load_part(done.path, "old_params"))
    stored = flatten(tprog.flax.load(done.path))
    assert noise is None or any(not np.array_equal(stored[path], weights[path]) for path in weights)
    for spec, _ in done.plan.target_specs():
        fresh = np.zeros(got[spec.path].shape, bool)
        for axis, along in enumerate(done.plan.axis_maps(spec)):
            if along is not None:
                np.moveaxis(fresh, axis, -1)[...] |= along.fresh
        due = np.where(fresh, weights[spec.path], anchor[spec.path])
        np.testing.assert_allclose(got[spec.path], due, rtol=1e-6, err_msg=spec.name)


def test_parameters_without_moments_stay_without(tmp_path):
    frozen = optax.masked(optax.adamw(1e-3), lambda tree: {name: name == "layers" for name in tree})
    path = tprog.flax.save(tmp_path / "part-1K-0.tprog", TRAINED[0], SMALL, opt_state=frozen.init(TRAINED[0]))
    names = open_checkpoint(grown(open_checkpoint(path), tmp_path).path).part("optimizer").names
    assert {name.partition(".")[2] for name in names if name.startswith("exp_avg.")} == {
        tensor.name for tensor in hf_tensors(LARGE) if tensor.layer is not None
    }


def with_optimizer(tmp_path, tensors: dict):
    weights = tprog.flax.to_tensors(TRAINED[0], SMALL)
    return open_checkpoint(
        tprog.numpy.save(tmp_path / "o-1K-0.tprog", weights, SMALL, parts=Parts(optimizer=tensors))
    )


def test_moments_that_nothing_is_known_of_are_refused_before_anything_is_written(tmp_path):
    source = with_optimizer(tmp_path, {"square_avg.model.norm.weight": np.ones(24, np.float32)})
    with pytest.raises(GrowthError, match=r"square_avg\.<name>.*--optimizer reset"):
        grown(source, tmp_path)
    assert not (tmp_path / "grown.tprog").exists()
    assert grown(source, tmp_path, optimizer="reset").carried == ()


def test_moments_of_another_shape_are_refused(tmp_path):
    source = with_optimizer(tmp_path, {"momentum_buffer.model.norm.weight": np.ones(25, np.float32)})
    with pytest.raises(ParameterError, match=r"momentum_buffer.model.norm.weight has shape \[25\], expected \[24\]"):
        grown(source, tmp_path)


@pytest.mark.parametrize(("option", "near"), [("optimizer", "transport"), ("fisher", "exact")])
def test_an_unknown_choice_is_refused_with_the_nearest(source, tmp_path, option, near):
    with pytest.raises(GrowthError, match=f"Did you mean {near}"):
        grown(source, tmp_path, **{option: near[:-1]})


def test_counts_of_single_parameters_follow_their_tensors(tmp_path):
    name = "model.layers.{}.mlp.up_proj.weight"
    tensors = {"step": np.int64(7), f"step.{name.format(1)}": np.int64(4)}
    tensors |= {f"exp_avg.{name.format(i)}": np.ones((20, 24), np.float32) for i in range(2)}
    optimizer = open_checkpoint(grown(with_optimizer(tmp_path, tensors), tmp_path).path).part("optimizer")
    counts = {key: int(optimizer.tensor(key)) for key in optimizer.names if key.startswith("step")}
    assert counts == {"step": 7, f"step.{name.format(1)}": 4, f"step.{name.format(2)}": 4}


def test_nothing_is_computed_before_it_is_asked_for_and_only_one_tensor_at_a_time(source, monkeypatch):
    asked: list[str] = []
    plan = make_plan(SMALL, LARGE, layers=[1])
    whole = type(source).to_parts(source)

    def counting(part) -> LazyTensors:
        return LazyTensors(part.specs, lambda name: asked.append(name) or part.tensor(name))

    watched = replace(whole, **{name: counting(part) for name, part in whole.tensors.items()})
    monkeypatch.setattr(type(source), "to_parts", lambda self: watched)
    parts = grown_parts(source, plan, optimizer="transport", fisher="preserve")
    assert asked == []
    for part in (parts.optimizer, parts.fisher, parts.old_params):
        for name in part.specs:
            before = len(asked)
            array = part.tensor(name)
            assert array.shape == part.specs[name].shape
            assert array.dtype == part.specs[name].dtype
            assert len(asked) == before + 1


def test_new_entries_of_an_asymmetric_file_hold_zeros(source, tmp_path):
    done = grown(source, tmp_path)
    state = load_optimizer(done.path, ADAMW.init(random_params(LARGE)))
    for path, entries in flatten(new_parameters(done.plan)).items():
        assert not np.asarray(flatten(state[0].nu)[path])[np.asarray(entries.new())].any()
        assert np.asarray(flatten(state[0].nu)[path])[np.asarray(entries.old())].any()
