"""`tritter train` with [ewc]: what it holds on to, on any mesh, through a stop, and what is said before it begins."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tprog.flax
import tprog.numpy
from tprog import FormatError, TritterError, UsageError
from tprog.reader import open_checkpoint
from tprog.writer import write_checkpoint

from tests.support import random_params
from tests.tprog.files import assert_same_bits
from tests.train.conftest import SMALL
from tritter_jax.continual import FORMS, penalty, proximal, remember
from tritter_jax.train import loop
from tritter_jax.train.config import EwcSection, OptimizerSection, RunConfig
from tritter_jax.train.ewc import load_memory
from tritter_jax.train.exchange import export_run
from tritter_jax.train.fisher import measure_fisher
from tritter_jax.train.kept import warning_of
from tritter_jax.train.metrics import read_metrics
from tritter_jax.train.optimizer import OPTIMIZERS, make_optimizer
from tritter_jax.train.setup import prepare
from tritter_jax.train.start import open_start
from tritter_jax.train.state import memory_shardings, new_state
from tritter_jax.train.step import train_step

ON_A_MESH = 1e-5
LAMBDA = 1e4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("ewc")


@pytest.fixture(scope="module")
def base(root, token_cache):
    (root / "config.json").write_text(json.dumps(SMALL))
    return {
        "model": {"name": "tiny"},
        "data": {"cache": str(token_cache), "sequence_length": 32, "batch_size": 8},
        "optimizer": {"weight_decay": 0.0},
        "schedule": {"name": "constant", "warmup": 0},
        "output": {"log_interval": 1, "eval_interval": 0, "checkpoint_interval": 2},
    }


@pytest.fixture(scope="module")
def learned(base, root, token_cache):
    """A checkpoint of four steps on prose, with its Fisher information."""
    first = ["training.steps=4", f"model.config={root / 'config.json'}", f"output.directory={root / 'first'}"]
    done = loop.train(prepare(RunConfig.parse(base, first)))
    return measure_fisher(
        open_checkpoint(done.checkpoint), "builtin:prose", root / "learned.tprog",
        samples=64, sequence_length=32, cache=token_cache,
    ).path  # fmt: skip


@pytest.fixture(scope="module")
def second(base, root, learned):
    """Settings of a run that goes on from there with other text, to step 8."""
    numbers = root / "numbers"
    numbers.mkdir()
    for number in range(20):
        (numbers / f"{number}.txt").write_text("".join(f"{number * place % 97:03d};" for place in range(300)))

    def make(directory: str, *changes: str, origin: Path = learned, strength: float = LAMBDA) -> RunConfig:
        given = [f"model.checkpoint={origin}", f"data.train={numbers}", f"ewc.lambda={strength}", "training.steps=8"]
        return RunConfig.parse(base, [*given, f"output.directory={root / directory}", *changes])

    return make


@pytest.fixture(scope="module")
def whole(second):
    """A run that was never stopped."""
    chosen = second("whole")
    return chosen, loop.train(prepare(chosen))


def course(settings: RunConfig, field: str = "loss") -> dict[int, float]:
    return {line["step"]: line[field] for line in read_metrics(settings.directory) if field in line}


def changed(checkpoint: Path, destination: Path, *, ewc_config=None, **parts) -> Path:
    """The same checkpoint with other parts, or another ewc_config."""
    had = open_checkpoint(checkpoint)
    progressive = had.progressive.with_fields(
        ewc_config=had.progressive.ewc_config if ewc_config is None else ewc_config
    )
    return write_checkpoint(
        destination, had.config, had, progressive=progressive, parts=replace(had.to_parts(), **parts),
        tokenizer_from=had.path,
    )  # fmt: skip


def distance(checkpoint: Path, learned: Path) -> float:
    """The penalty at lambda 1 of what a run ended with."""
    memory = remember(tprog.flax.load_part(learned, "fisher"), tprog.flax.load_part(learned, "old_params"))
    return float(penalty(tprog.flax.load(checkpoint), memory, 1.0))


def test_a_run_stays_near_what_it_holds_on_to(second, whole, learned):
    chosen, done = whole
    free = second("free", strength=0)
    apart = distance(loop.train(prepare(free)).checkpoint, learned)
    near = distance(done.checkpoint, learned)
    assert near < 0.1 * apart
    assert "penalty" not in read_metrics(free.directory)[0]
    told = course(chosen, "penalty")
    assert told[5] == 0  # it begins at the anchor
    assert 0 < told[8] < LAMBDA * apart
    assert course(chosen)[5] == pytest.approx(course(free)[5], rel=1e-6)  # the loss is the task's alone
    assert course(chosen)[8] != course(free)[8]


def test_a_stopped_run_goes_on_exactly_with_what_it_began_with(second, whole, root, learned):
    origin = Path(shutil.copytree(learned, root / "origin.tprog"))
    chosen = second("stopped", origin=origin)

    class KilledError(Exception):
        pass

    def kill(at: loop.Report) -> None:
        if at.step == 7:
            raise KilledError

    with pytest.raises(KilledError):
        loop.train(prepare(chosen), report=kill)
    twice = {name: 2 * np.asarray(value) for name, value in tprog.numpy.load_part(learned, "fisher").items()}
    shutil.rmtree(origin)
    changed(learned, origin, fisher=twice)
    loop.train(prepare(chosen))
    assert course(chosen) == course(whole[0])
    fresh = second("fresh", origin=origin)
    loop.train(prepare(fresh))
    assert course(fresh) != course(whole[0])  # the control: twice the Fisher information is felt


def test_a_published_run_takes_its_memory_along_and_goes_on_exactly(second, whole, root, learned):
    chosen = second("early", "training.steps=6")
    early = open_checkpoint(loop.train(prepare(chosen)).checkpoint)
    for part in ("fisher", "old_params"):
        assert_same_bits(tprog.numpy.load_part(early, part), tprog.numpy.load_part(learned, part))
    told = early.progressive.to_json()["ewc_config"]
    before = open_checkpoint(learned).progressive.to_json()["ewc_config"]
    assert told == before | {"lambda": LAMBDA, "form": "proximal"}
    exported = export_run(early, root / "exported")
    more = RunConfig.load(exported / "run.toml", ["training.steps=8", f"data.cache='{chosen.data.cache}'"])
    assert (more.ewc, more.model.checkpoint) == (chosen.ewc, None)
    loop.train(prepare(more))
    assert course(more) == {step: loss for step, loss in course(whole[0]).items() if step > 6}


@pytest.mark.parametrize("change", ["mesh.data=2 mesh.fsdp=2 mesh.tensor=2", "training.accumulate=4"])
def test_neither_devices_nor_parts_of_a_batch_change_the_losses(second, whole, change):
    chosen = second(change.partition("=")[0], *change.split())
    loop.train(prepare(chosen))
    for field in ("loss", "penalty"):
        mine, theirs = course(chosen, field), course(whole[0], field)
        assert mine.keys() == theirs.keys()
        np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=10 * ON_A_MESH, atol=1e-9)


def test_the_memory_lies_on_the_devices_as_the_parameters_do(second, whole):
    run = prepare(second("whole", "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"))
    memory = load_memory(run, open_start(run.settings.directory), print)
    due = memory_shardings(run.config, run.mesh, run.rules)
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, memory, due))
    query = memory.fisher["layers"]["attention"]["query"]
    assert query.addressable_shards[0].data.size == query.size // 4


CONFIG = tprog.ModelConfig(
    hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=12, vocab_size=11, dtype="float32"
)


def squares(seed: int) -> dict:
    return jax.tree.map(jnp.square, random_params(CONFIG, seed=seed))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_form_is_felt_where_it_says(name):
    """In the loss: clipped with the task; in the gradient: behind the clipping; as a step: behind everything."""
    section, unclipped = (OptimizerSection(name=name, clip=clip, beta2=0.8, eps=1e-5) for clip in (0.1, 0))
    rate = optax.constant_schedule(1e-3)

    @jax.jit
    def updates(params, gradient, memory):
        def moved(chain, gradient, **extra):
            with jax.numpy_dtype_promotion("standard"):
                return chain.update(gradient, chain.init(params), params, **extra)[0]

        def ours(form):
            chosen = EwcSection(lambda_=30, form=form)
            return moved(make_optimizer(section, rate, CONFIG, chosen), gradient, memory=memory)

        plain, pull = make_optimizer(section, rate, CONFIG), jax.grad(penalty)(params, memory, 30.0)
        clipped, _ = optax.clip_by_global_norm(0.1).update(gradient, optax.EmptyState())
        by_hand = {
            "loss": moved(plain, jax.tree.map(jnp.add, gradient, pull)),
            "gradient": moved(make_optimizer(unclipped, rate, CONFIG), jax.tree.map(jnp.add, clipped, pull)),
            "proximal": moved(proximal(plain, 30.0, rate, beta2=0.8, eps=1e-5), gradient, memory=memory),
        }
        return {form: ours(form) for form in FORMS}, by_hand

    memory = remember(squares(2), random_params(CONFIG, seed=3))
    found, due = updates(random_params(CONFIG), random_params(CONFIG, seed=1), memory)
    assert found.keys() == due.keys()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-9)
    assert len({np.ravel(jax.tree.leaves(each)[0]).tobytes() for each in found.values()}) == len(FORMS)


def test_a_penalty_beyond_all_numbers_changes_nothing():
    memory = remember(squares(2), jax.tree.map(lambda leaf: leaf + 1e15, random_params(CONFIG, seed=3)))
    optimizer = make_optimizer(OptimizerSection(), optax.constant_schedule(1e-3), CONFIG, EwcSection(lambda_=1e20))
    state = new_state(random_params(CONFIG), optimizer, 0)
    step = jax.jit(partial(train_step, config=CONFIG, optimizer=optimizer, strength=1e20))
    after, told = step(state, jnp.zeros((2, 5), jnp.int32), memory)
    assert np.isfinite(told["loss"])
    assert not told["finite"]
    assert int(after.step) == 0
    np.testing.assert_array_equal(after.params["norm"], state.params["norm"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["ewc.lambda=-1"], r"ewc\.lambda: Input should be greater than or equal to 0, got -1"),
        (["ewc.lambda=inf"], r"ewc\.lambda: Input should be a finite number"),
        (["ewc.lambda=1e31"], r"ewc\.lambda: Input should be less than or equal to"),
        (["ewc.lamda=1"], r"ewc\.lamda is no field \(did you mean lambda\?\)"),
        (["ewc.form=quadratic"], "ewc.form: expected one of proximal, gradient, loss, got 'quadratic'"),
        (["model.checkpoint=", "model.size=test"], r"ewc\.lambda=10000: expected a checkpoint to go on from"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(second, changes, said):
    with pytest.raises(UsageError, match=said):
        prepare(second("never", *changes))
    assert not second("never").directory.exists()


@pytest.mark.parametrize(
    ("fields", "parts", "said"),
    [
        ({}, {"fisher": None}, r"expected ewc/fisher.safetensors, .*, got none\. Measure it first: tritter fisher"),
        ({}, {"old_params": None}, r"expected ewc/old_params.safetensors, .*, got none"),
        ({"enabled": False}, {}, r"ewc_config\.enabled: expected true, got false"),
        ({"unit": "per sequence"}, {}, r"ewc_config\.unit: expected 'per token', .*, got 'per sequence'"),
        ({"unit": None}, {}, r"ewc_config\.unit: expected 'per token', .*, got none"),
    ],
)
def test_a_memory_that_is_not_there_or_not_this_is_named(second, learned, tmp_path, fields, parts, said):
    told = open_checkpoint(learned).progressive.to_json()["ewc_config"] | fields
    bad = changed(learned, tmp_path / "bad.tprog", ewc_config=told, **parts)
    with pytest.raises(TritterError, match=said):
        prepare(second("never", origin=bad))
    assert not second("never").directory.exists()
    prepare(second("never", origin=bad, strength=0))  # without [ewc] nothing is asked of it


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("fisher", -1.0, "fisher norm has negative values, the least -1"),
        ("fisher", np.nan, "fisher norm has values that are not finite"),
        ("old_params", np.inf, "anchor norm has values that are not finite"),
        ("fisher", None, "got 1 that it lacks"),
    ],
)
def test_a_broken_memory_is_told_before_the_first_step(second, learned, tmp_path, part, value, said):
    arrays = {name: np.array(array) for name, array in tprog.numpy.load_part(learned, part).items()}
    if value is None:
        del arrays["model.norm.weight"]
    else:
        arrays["model.norm.weight"][3] = value
    bad = changed(learned, tmp_path / "bad.tprog", **{part: arrays})
    chosen = second("broken", f"output.directory={tmp_path / 'run'}", origin=bad)
    with pytest.raises(FormatError, match=said):
        loop.train(prepare(chosen))
    assert course(chosen) == {}


def test_the_fisher_information_of_another_model_is_refused(second, learned, tmp_path):
    bad = Path(shutil.copytree(learned, tmp_path / "bad.tprog"))
    other = tprog.flax.save(
        tmp_path / "other.tprog", random_params(CONFIG), CONFIG, fisher=squares(2), old_params=squares(3)
    )
    shutil.copy(other / "ewc" / "fisher.safetensors", bad / "ewc")
    with pytest.raises(TritterError, match="expected the fisher of this checkpoint"):
        prepare(second("never", origin=bad))


def test_learning_what_it_holds_on_to_is_warned_of(second, whole, tmp_path):
    run = prepare(second("same", "data.train=builtin:prose", f"output.directory={tmp_path}"))
    start = open_start(whole[0].directory)
    said: list[str] = []
    load_memory(run, start, said.append)
    (warning,) = said
    assert "measured on builtin:prose, which is data.train as well" in warning
    for other in (second("other"), second("both", "data.train=['builtin:prose', 'builtin:code']")):
        assert warning_of(other, start) is None
