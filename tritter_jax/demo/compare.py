"""A grown model held against its source, and against a growth that is known to be wrong."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tprog.flax
from tprog import ModelConfig
from tprog.params import Axis

from tritter_jax.growth import Plan, grow, make_plan
from tritter_jax.growth.axis_map import axis_map
from tritter_jax.growth.drift import measure_drift, sample_tokens
from tritter_jax.model import apply


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


def compare(small: Path, large: Path, plan: Plan, seed: int) -> tuple[list[Row], list[str]]:
    """Both checkpoints on the same tokens, in JAX and, where it is installed, in transformers; and the control.

    Args:
        small: the source's `.tprog`.
        large: the grown one's.
        plan: the growth between them.
        seed: seed of the tokens.

    Returns:
        The comparisons, and what could not be compared and why.
    """
    params = tprog.flax.load(small)
    tokens = sample_tokens(plan.source, batch=4, length=64, seed=seed)
    before = _logits(params, tokens, plan.source)
    after = _logits(tprog.flax.load(large), tokens, plan.target)
    naive = _logits(grow(params, net2net(plan)), tokens, plan.target)
    rows = [
        Row("JAX: grown against source", measure_drift(before, after).max_relative, "<", 1e-5),
        Row("JAX, float64: grown against source", _float64_drift(params, plan, tokens), "<", 1e-12),
    ]
    notes: list[str] = []
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
    return rows, notes


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
