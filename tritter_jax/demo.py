"""The demonstration behind `tritter demo`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tprog.flax
from tprog import ModelConfig
from tprog.layout import CheckpointName
from tprog.params import Axis, flatten, nest

from tritter_jax.growth import Plan, describe, grow, make_plan
from tritter_jax.growth.axis_map import axis_map
from tritter_jax.growth.drift import measure_drift, sample_tokens
from tritter_jax.growth.expand import expand
from tritter_jax.model import apply, init_params

SOURCE = ModelConfig(
    family="llama",
    hidden_size=160,
    num_layers=6,
    num_heads=20,
    num_kv_heads=4,
    intermediate_size=432,
    vocab_size=4096,
    max_position_embeddings=256,
)
"""The head pattern and the hidden ratio of the 3B size, a sixteenth as wide."""

TARGET = replace(SOURCE, hidden_size=256, num_layers=8, num_heads=32, num_kv_heads=8, intermediate_size=688)
"""The head pattern of the 7B size, 1.6 times as wide."""


@dataclass(frozen=True)
class Row:
    """One comparison: what was compared, how far it lies apart, and how far it may (or must) lie."""

    title: str
    difference: float
    relation: str
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the difference is on the right side of the bound."""
        return self.difference < self.bound if self.relation == "<" else self.difference > self.bound


@dataclass(frozen=True)
class Outcome:
    """What the demonstration found."""

    plan: Plan
    rows: list[Row]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The outcome for a program."""
        rows = [asdict(row) | {"holds": row.holds} for row in self.rows]
        return {"plan": describe(self.plan), "comparisons": rows, "notes": self.notes}


def run_demo(directory: Path, *, seed: int, progress: Callable[[str], None]) -> Outcome:
    """Build, save, expand, load again and compare.

    Args:
        directory: where both checkpoints are written.
        seed: seed of weights and tokens.
        progress: told each stage's name as it begins.

    Raises:
        UsageError: the directory holds checkpoints of these names already, or cannot be written.
    """
    progress("building a small model")
    params = _lived_in(init_params(SOURCE, seed=seed), seed)
    small, large = (directory / str(CheckpointName(model="demo", size=s, step=0)) for s in ("small", "large"))
    tprog.flax.save(small, params, SOURCE)
    done = expand(small, large, TARGET, seed=seed, progress=progress)

    progress("comparing in JAX")
    tokens = sample_tokens(SOURCE, batch=4, length=64, seed=seed)
    before = _logits(tprog.flax.load(small), tokens, SOURCE)
    after = _logits(tprog.flax.load(large), tokens, TARGET)
    naive = _logits(grow(params, net2net(done.plan)), tokens, TARGET)
    rows = [
        Row("JAX: grown against source", measure_drift(before, after).max_relative, "<", 1e-5),
        Row("JAX, float64: grown against source", _float64_drift(params, done.plan, tokens), "<", 1e-12),
    ]
    notes: list[str] = []
    progress("comparing in transformers")
    try:
        theirs_before, theirs_after = (transformers_logits(path, tokens) for path in (small, large))
    except ImportError as error:
        notes.append(f"transformers was not compared ({error}): pip install 'tritter-jax[torch]'")
    else:
        rows += [
            Row("transformers: grown against source", _difference(theirs_before, theirs_after), "<", 1e-5),
            Row("grown: JAX against transformers", _difference(theirs_after, np.asarray(after)), "<", 1e-4),
        ]
    rows.append(Row("control: plain Net2Net, RMSNorm ignored", measure_drift(before, naive).max_relative, ">", 1e-2))
    return Outcome(done.plan, rows, notes)


def net2net(plan: Plan) -> Plan:
    """The same plan with plain Net2Net duplication along hidden, which RMSNorm does not let through.

    Copies are written as they are and read divided by their number; the mean square then changes, because some
    coordinates have more copies than others. Here as the control that shows the comparison can fail.
    """
    maps = dict(plan.maps)
    source = maps[Axis("hidden", "write")].source
    ones = np.ones(len(source))
    share = 1 / np.bincount(source)[np.asarray(source)]
    maps[Axis("hidden", "write")] = axis_map(source, ones, share)
    maps[Axis("hidden", "read")] = axis_map(source, share, ones)
    return replace(plan, maps=tuple(maps.items()))


def transformers_logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits that transformers computes from a checkpoint directory, with no code of ours."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.float().numpy()


def _logits(params: dict[str, Any], tokens: np.ndarray, config: ModelConfig) -> jax.Array:
    return jax.jit(partial(apply, config=config))(params, jnp.asarray(tokens))


def _lived_in(params: dict[str, Any], seed: int) -> dict[str, Any]:
    """Norm gains away from 1, as training would leave them: a fresh model's gains of 1 would hide errors in them."""
    keys = jax.random.split(jax.random.key(seed + 1), len(flatten(params)))
    moved = {
        path: leaf * (1 + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype)) if path[-1].endswith("norm") else leaf
        for key, (path, leaf) in zip(keys, flatten(params).items(), strict=True)
    }
    return nest(moved)


def _float64_drift(params: dict[str, Any], plan: Plan, tokens: np.ndarray) -> float:
    wide = make_plan(
        replace(plan.source, dtype="float64"),
        replace(plan.target, dtype="float64"),
        positions=plan.positions,
        width=plan.width,
        split=plan.split,
        seed=plan.seed,
    )
    with jax.enable_x64(True):
        doubled = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
        before = _logits(doubled, tokens, wide.source)
        return measure_drift(before, _logits(grow(doubled, wide), tokens, wide.target)).max_relative


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(one).max())
