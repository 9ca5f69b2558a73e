"""The optional parts: moments move between optax and torch, random state resumes, what is hostile is refused."""

import os
import pickle
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import tprog.flax
import tprog.flax_state
import tprog.numpy
import tprog.torch
import tprog.torch_state
from tprog.errors import FormatError, ParameterError, UsageError
from tprog.huggingface import import_directory
from tprog.parts import Parts
from tprog.reader import open_checkpoint
from tprog.tensorfile import write_tensors
from tprog.writer import write_checkpoint

from tests.support import odd_config, random_tokens, torch_model
from tests.tprog.files import assert_same_bits, random_arrays, small_config

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
CONFIG = small_config()
LEARNING_RATE, DECAY, EPS = 1e-2, 0.1, 1e-8


@pytest.fixture
def promotion_of_optax():
    """Optax's own arithmetic mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def saved(path, **parts):
    return write_checkpoint(path, CONFIG, random_arrays(CONFIG), parts=Parts(**parts), shard_size=2000)


def moments(seed: int = 0) -> dict[str, np.ndarray]:
    arrays = {f"exp_avg.{name}": array for name, array in random_arrays(CONFIG, seed).items()}
    arrays |= {f"exp_avg_sq.{name}": array**2 for name, array in random_arrays(CONFIG, seed + 1).items()}
    return arrays | {"step": np.asarray(7, np.int64)}


def every_part() -> dict:
    return {
        "optimizer": moments(),
        "rng_state": {"jax.threefry2x32": np.array([0, 5], np.uint32)},
        "fisher": {name: array**2 for name, array in random_arrays(CONFIG, 2).items()},
        "old_params": random_arrays(CONFIG, 3),
        "scheduler": {"kind": "wsd", "warmup": 10},
        "data_state": {"epoch": 1, "offset": 4096, "files": ["a", "ä"]},
        "hooks": b"def expand(): ...\n",
    }


def test_every_part_survives_sharded(tmp_path):
    parts = every_part()
    checkpoint = open_checkpoint(saved(tmp_path / "a.tprog", **parts))
    assert set(checkpoint.parts) == set(parts)
    for name in ("optimizer", "rng_state", "fisher", "old_params"):
        assert_same_bits(tprog.numpy.load_part(checkpoint, name), parts[name])
    assert (checkpoint.scheduler, checkpoint.data_state) == (parts["scheduler"], parts["data_state"])
    assert (checkpoint.path / "training" / "optimizer.safetensors.index.json").exists()
    listed = checkpoint.progressive.manifest.files
    there = {path.relative_to(checkpoint.path).as_posix() for path in checkpoint.path.rglob("*") if path.is_file()}
    assert listed.keys() | {"progressive.json"} == there


def test_a_copy_carries_every_part(tmp_path):
    path = saved(tmp_path / "a.tprog", **every_part())
    copy = open_checkpoint(import_directory(path, tmp_path / "b.tprog"))
    for name in ("optimizer", "rng_state", "fisher", "old_params"):
        assert_same_bits(tprog.numpy.load_part(copy, name), every_part()[name])
    assert copy.to_parts().hooks == every_part()["hooks"]
    assert copy.progressive.manifest.save_id != open_checkpoint(path).progressive.manifest.save_id


def test_a_part_that_is_not_there_is_told(tmp_path):
    checkpoint = open_checkpoint(saved(tmp_path / "a.tprog", scheduler={}))
    assert checkpoint.parts == ("scheduler",)
    with pytest.raises(UsageError, match="a part named fisher, got only scheduler"):
        checkpoint.part("fisher")
    with pytest.raises(UsageError):
        checkpoint.part("weights")
    assert checkpoint.data_state is None


@pytest.mark.parametrize(
    ("parts", "finding"),
    [
        ({"fisher": {"model.norm.weight": np.zeros(3, np.float32)}}, "fisher: model.norm.weight has shape [3]"),
        ({"old_params": {"x": np.zeros(3, np.float32)}}, "old_params: x is unknown"),
        ({"optimizer": {"exp_avg.x": np.zeros(3, np.float32)}}, "exp_avg.x is unknown"),
        (
            {"optimizer": {"exp_avg_sq.model.norm.weight": np.zeros(3, np.float32)}},
            "exp_avg_sq.model.norm.weight has",
        ),
        ({"optimizer": {"step": np.zeros(3, np.int64)}}, "one whole number"),
        ({"optimizer": {"step": np.zeros((), np.float32)}}, "one whole number"),
        ({"scheduler": {"rate": float("nan")}}, "scheduler cannot be written as JSON"),
        ({"data_state": {"rate": object()}}, "data_state cannot be written as JSON"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, parts, finding):
    with pytest.raises(ParameterError) as caught:
        saved(tmp_path / "a.tprog", **parts)
    assert finding in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_part_on_disk_that_does_not_fit_is_refused(tmp_path):
    path = saved(tmp_path / "a.tprog")
    (path / "ewc").mkdir()
    write_tensors(path / "ewc" / "fisher.safetensors", {"x": np.zeros(3, np.float32)})
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path).part("fisher")
    assert len(caught.value.findings) == 2, "the unknown name, and the save it does not belong to"


def test_a_part_of_another_save_is_refused(tmp_path):
    one, other = (saved(tmp_path / name, fisher=every_part()["fisher"]) for name in ("a", "b"))
    shard = next(path.relative_to(one) for path in one.glob("ewc/fisher-*"))
    (other / shard).replace(one / shard)
    with pytest.raises(FormatError, match="belongs to save"):
        open_checkpoint(one).part("fisher")


def test_fisher_of_the_minimal_schema_is_found(tmp_path):
    path = saved(tmp_path / "a.tprog")
    write_tensors(path / "fisher_diag.safetensors", random_arrays(CONFIG))
    checkpoint = open_checkpoint(path)
    (path / "progressive.json").unlink()
    bare = open_checkpoint(path)
    assert "fisher" not in bare.parts
    ewc = {"enabled": True, "fisher_path": "fisher_diag.safetensors"}
    progressive = bare.progressive.with_fields(ewc_config=ewc).to_json()
    from tprog.jsonio import write_json

    write_json(path / "progressive.json", progressive)
    assert_same_bits(tprog.numpy.load_part(path, "fisher"), random_arrays(CONFIG))
    assert checkpoint.config == bare.config
    write_json(path / "progressive.json", progressive | {"ewc_config": ewc | {"fisher_path": "../x.safetensors"}})
    with pytest.raises(FormatError, match="inside the directory"):
        open_checkpoint(path).part("fisher")


def trained_torch(config, steps: int = 3):
    model = torch_model(config)
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=LEARNING_RATE, weight_decay=DECAY, eps=EPS)
    tokens = torch.from_numpy(random_tokens(config)).long()
    for _ in range(steps):
        step_torch(model, optimizer, tokens)
    return model, optimizer, tokens


def step_torch(model, optimizer, tokens):
    optimizer.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("tied", [False, True])
def test_torch_resumes_bit_for_bit(tmp_path, tied):
    config = odd_config("llama", num_layers=2, tie_embeddings=tied)
    model, optimizer, tokens = trained_torch(config)
    path = tprog.torch.save(tmp_path / "a.tprog", model, optimizer=optimizer)
    other = tprog.torch.load_into(torch_model(config, seed=1), path)
    resumed = torch.optim.AdamW(other.parameters(), lr=LEARNING_RATE, weight_decay=DECAY, eps=EPS)
    assert tprog.torch_state.load_optimizer(resumed, path, other) is resumed
    fresh = tprog.torch.load_into(torch_model(config, seed=1), path)
    started_over = torch.optim.AdamW(fresh.parameters(), lr=LEARNING_RATE, weight_decay=DECAY, eps=EPS)
    for pair in ((model, optimizer), (other, resumed), (fresh, started_over)):
        step_torch(*pair, tokens)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(fresh.model.norm.weight, model.model.norm.weight)


def test_optax_goes_on_where_torch_stopped(tmp_path):
    """The same gradients give the same weights in both, from moments that torch wrote."""
    config = odd_config("qwen3", num_layers=2)
    model, optimizer, tokens = trained_torch(config)
    path = tprog.torch.save(tmp_path / "a.tprog", model, optimizer=optimizer)
    params = tprog.flax.load(path)
    tx = optax.adamw(LEARNING_RATE, weight_decay=DECAY, eps=EPS)
    state = tprog.flax_state.load_optimizer(path, jax.eval_shape(tx.init, params))
    assert int(state[0].count) == 3
    step_torch(model, optimizer, tokens)
    gradients = {name: tprog.torch.as_numpy(parameter.grad) for name, parameter in model.named_parameters()}
    gradient = tprog.flax.load(tprog.numpy.save(tmp_path / "gradient.tprog", gradients, config))
    updates, _ = jax.jit(tx.update)(gradient, state, params)
    stepped = tprog.flax.to_tensors(jax.jit(optax.apply_updates)(params, updates), config)
    for name, tensor in model.state_dict().items():
        assert np.allclose(stepped.tensor(name), tensor.numpy(), rtol=0, atol=2e-6), name


def chain():
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(mu_dtype=jnp.bfloat16),
        optax.add_decayed_weights(DECAY),
        optax.scale_by_schedule(optax.constant_schedule(-LEARNING_RATE)),
    )


def wrapped():
    return optax.MultiSteps(optax.inject_hyperparams(optax.adamw)(learning_rate=LEARNING_RATE), every_k_schedule=2)


def partitioned():
    labels = {"embed": "frozen", "layers": "free", "norm": "frozen", "lm_head": "free"}
    return optax.multi_transform({"free": optax.adam(LEARNING_RATE), "frozen": optax.set_to_zero()}, labels)


@pytest.mark.parametrize(
    "build", [chain, wrapped, partitioned, lambda: optax.sgd(0.1, momentum=0.9), lambda: optax.lion(0.1)]
)
def test_any_state_of_optax_survives(tmp_path, build):
    params = tprog.flax.load(saved(tmp_path / "w.tprog"))
    tx = build()
    state = jax.jit(tx.init)(params)

    @jax.jit
    def step(params, state, factor):
        gradient = jax.tree.map(lambda leaf: jnp.cos(leaf * factor), params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for factor in (1.0, 2.0, 3.0):
        params, state = step(params, state, factor)
    path = tprog.flax.save(tmp_path / "a.tprog", params, CONFIG, opt_state=state)
    loaded = tprog.flax_state.load_optimizer(path, jax.eval_shape(tx.init, params))
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for expected, got in zip(jax.tree.leaves(state), jax.tree.leaves(loaded), strict=True):
        assert expected.dtype == got.dtype
        assert np.array_equal(np.asarray(expected), np.asarray(got))
    fresh = jax.jit(tx.init)(params)
    assert any(
        not np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True)
    )


def test_a_moment_that_is_missing_is_told_or_started_from_zero(tmp_path):
    optimizer = moments()
    del optimizer["exp_avg.model.layers.1.mlp.up_proj.weight"]
    path = saved(tmp_path / "a.tprog", optimizer=optimizer)
    tx = optax.adam(0.1)
    template = jax.eval_shape(tx.init, tprog.flax.load(path))
    with pytest.raises(ParameterError) as caught:
        tprog.flax_state.load_optimizer(path, template)
    assert caught.value.findings == ("exp_avg.model.layers.1.mlp.up_proj.weight",)
    state = tprog.flax_state.load_optimizer(path, template, strict=False)
    assert not np.any(state[0].mu["layers"]["mlp"]["up"][1])
    assert np.any(state[0].mu["layers"]["mlp"]["up"][0])


def test_torch_is_told_what_does_not_fit_and_nothing_is_changed(tmp_path):
    config = odd_config("llama", num_layers=2)
    model, optimizer, _ = trained_torch(config, steps=1)
    path = tprog.torch.save(tmp_path / "a.tprog", model, optimizer=optimizer)
    deeper = torch_model(odd_config("llama", intermediate_size=90))
    other = torch.optim.AdamW(deeper.parameters())
    with pytest.raises(ParameterError) as caught:
        tprog.torch_state.load_optimizer(other, path, deeper)
    text = str(caught.value)
    assert "model.layers.2.mlp.up_proj.weight has no state in the checkpoint" in text
    assert "exp_avg.model.layers.0.mlp.up_proj.weight has shape [88, 60], the parameter [90, 60]" in text
    assert not other.state
    with pytest.raises(ParameterError, match="whose names are known"):
        tprog.torch_state.load_optimizer(torch.optim.AdamW(model.parameters()), path)


def test_a_frozen_parameter_has_no_state(tmp_path):
    config = odd_config("llama", num_layers=2)
    model, optimizer, tokens = trained_torch(config, steps=1)
    model.model.embed_tokens.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters())
    step_torch(model, optimizer, tokens)
    path = tprog.torch.save(tmp_path / "a.tprog", model, optimizer=optimizer)
    assert "exp_avg.model.embed_tokens.weight" not in tprog.numpy.load_part(path, "optimizer")
    tprog.torch_state.load_optimizer(torch.optim.AdamW(model.parameters()), path, model, strict=False)


def test_counts_of_single_parameters_are_kept(tmp_path):
    config = odd_config("llama", num_layers=2)
    model, optimizer, _ = trained_torch(config, steps=2)
    optimizer.state[model.model.norm.weight]["step"].fill_(1.0)
    path = tprog.torch.save(tmp_path / "a.tprog", model, optimizer=optimizer)
    resumed = tprog.torch_state.load_optimizer(torch.optim.AdamW(model.parameters()), path, model)
    assert resumed.state[model.model.norm.weight]["step"] == 1
    assert resumed.state[model.lm_head.weight]["step"] == 2
    with pytest.raises(ParameterError, match="one step count"):
        tprog.flax_state.load_optimizer(path, optax.adam(0.1).init(tprog.flax.load(path)))


def test_ewc_goes_from_torch_to_jax_and_back(tmp_path):
    config = odd_config("llama", num_layers=2, tie_embeddings=True)
    model = torch_model(config)
    fisher = {name: parameter.detach() ** 2 for name, parameter in model.named_parameters()}
    path = tprog.torch.save(tmp_path / "a.tprog", model, fisher=fisher, old_params=dict(model.named_parameters()))
    tree = tprog.flax.load_part(path, "fisher")
    assert np.allclose(tree["embed"], fisher["model.embed_tokens.weight"])
    again = tprog.flax.save(
        tmp_path / "b.tprog", tprog.flax.load(path), config, fisher=tree,
        old_params=tprog.flax.load_part(path, "old_params"),
    )  # fmt: skip
    for part in ("fisher", "old_params"):
        assert_same_bits(tprog.numpy.load_part(again, part), tprog.numpy.load_part(path, part))
    assert torch.equal(tprog.torch.load_part(again, "fisher")["model.norm.weight"], fisher["model.norm.weight"])


def test_a_fisher_of_some_parameters_is_no_tree(tmp_path):
    path = saved(tmp_path / "a.tprog", fisher={"model.norm.weight": np.ones(12, np.float32)})
    assert tprog.numpy.load_part(path, "fisher")["model.norm.weight"].sum() == 12
    with pytest.raises(FormatError, match="the fisher of every parameter"):
        tprog.flax.load_part(path, "fisher")


def test_random_generators_go_on(tmp_path):
    torch.manual_seed(3), random.gauss(0, 1), np.random.standard_normal()
    # Annotations are checked at random in the tests: nothing of ours may run between the state and the numbers.
    state = tprog.torch_state.rng_state()
    expected = (torch.rand(2).tolist(), random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist())
    path = tprog.torch.save(tmp_path / "a.tprog", torch_model(CONFIG), rng_state=state)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert torch.rand(2).tolist() != expected[0]
    mirrored = tprog.torch_state.load_rng_state(path)
    pickled = tprog.torch_state.read_pickle(path / "training" / "rng_state.pt")
    assert mirrored.keys() == pickled.keys()
    for state in (mirrored, pickled):
        tprog.torch_state.set_rng_state(state)
        got = (torch.rand(2).tolist(), random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist())
        assert got == expected


def test_a_jax_key_goes_on_and_torch_keeps_it_apart(tmp_path):
    params = tprog.flax.load(saved(tmp_path / "w.tprog"))
    for number, key in enumerate(
        (jax.random.key(5), jax.random.split(jax.random.key(5), 3), jax.random.key(1, impl="rbg"))
    ):
        path = tprog.flax.save(tmp_path / f"{number}.tprog", params, CONFIG, rng_key=key)
        loaded = tprog.flax_state.load_rng_key(path)
        assert loaded.dtype == key.dtype
        assert np.array_equal(jax.random.key_data(loaded), jax.random.key_data(key))
    path = tprog.torch.save(tmp_path / "t.tprog", torch_model(CONFIG), rng_state=tprog.torch_state.rng_state())
    with pytest.raises(UsageError, match="the random key of a JAX program"):
        tprog.flax_state.load_rng_key(path)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil",))


@pytest.mark.parametrize(
    "content",
    [Evil(), {"torch.cpu": Evil()}, [1, 2], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(2)],
    ids=["code", "code in a dict", "a list", "no tensor", "no name", "one tensor"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_anything_but_tensors_is_refused(tmp_path, monkeypatch, content, legacy):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "a.tprog")
    (path / "training").mkdir()
    file = path / "training" / "rng_state.pt"
    if legacy:
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(FormatError, match="expected tensors by name"):
        tprog.torch_state.load_rng_state(path)
    assert not (tmp_path / "evil").exists()


def test_an_old_torch_reads_no_pickle(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.tprog", rng_pickle=tprog.torch_state.pickled({"torch.cpu": torch.get_rng_state()}))
    assert list(tprog.torch_state.load_rng_state(path)) == ["torch.cpu"]
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(UsageError, match=r"2\.10"):
        tprog.torch_state.load_rng_state(path)


def test_no_random_state_is_told(tmp_path):
    with pytest.raises(UsageError, match="a part named rng_state"):
        tprog.torch_state.load_rng_state(saved(tmp_path / "a.tprog"))
