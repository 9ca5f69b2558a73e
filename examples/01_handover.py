"""Train in JAX, go on in PyTorch, and back: one loss curve. Run: python examples/01_handover.py

Three times twenty steps of AdamW on the same batches, handed over as `.tprog` directories with the optimizer's state,
against sixty steps in JAX and sixty in PyTorch.
"""

import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
import torch
import tprog.flax
import tprog.torch
import transformers
from tprog import ModelConfig
from tprog.flax_state import load_optimizer
from tprog.torch_state import load_optimizer as load_torch_optimizer

from tritter_jax.model import init_params
from tritter_jax.train.state import new_state
from tritter_jax.train.step import train_step

RATE, DECAY = 3e-3, 0.1
CONFIG = ModelConfig(
    family="llama", vocab_size=128, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48
)
ADAMW = optax.adamw(RATE, 0.9, 0.95, 1e-8, weight_decay=DECAY)
STEP = jax.jit(train_step, static_argnames=("config", "optimizer"))


def batch(step: int) -> np.ndarray:
    """The batch of a step: noisy repetitions, so that there is something to learn."""
    random = np.random.default_rng(step)
    return (np.cumsum(random.integers(0, 3, (8, 33)), axis=1) % CONFIG.vocab_size).astype(np.int32)


def in_jax(source: Path, destination: Path, steps: range) -> list[float]:
    """Train in JAX from a checkpoint; writes another and gives the losses."""
    state, losses = new_state(tprog.flax.load(source), ADAMW, seed=0), []
    if (source / "training").is_dir():
        state = state._replace(opt_state=load_optimizer(source, state.opt_state))
    for step in steps:
        state, metrics = STEP(state, jax.numpy.asarray(batch(step)), config=CONFIG, optimizer=ADAMW)
        losses.append(float(metrics["loss"]))
    tprog.flax.save(destination, state.params, CONFIG, opt_state=state.opt_state)
    return losses


def in_torch(source: Path, destination: Path, steps: range) -> list[float]:
    """The same in PyTorch, with the model of transformers and torch.optim.AdamW."""
    model, losses = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager"), []
    adamw = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=DECAY)
    if (source / "training").is_dir():
        load_torch_optimizer(adamw, source, model)
    for step in steps:
        tokens = torch.from_numpy(batch(step)).long()
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    tprog.torch.save(destination, model, CONFIG, optimizer=adamw)
    return losses


def main() -> float:
    """Print the largest relative difference between the curves."""
    root = Path(tempfile.mkdtemp())
    start, a, b = root / "start.tprog", root / "a.tprog", root / "b.tprog"
    tprog.flax.save(start, init_params(CONFIG), CONFIG)
    mixed = in_jax(start, a, range(20)) + in_torch(a, b, range(20, 40)) + in_jax(b, root / "c.tprog", range(40, 60))
    curves = [np.array(run(start, root / f"{run.__name__}.tprog", range(60))) for run in (in_jax, in_torch)]
    worst = max(float(np.max(np.abs(mixed - curve) / curve)) for curve in curves)
    print(f"loss {mixed[0]:.4f} -> {mixed[-1]:.4f}; largest relative difference {worst:.1e}")
    return worst


if __name__ == "__main__":
    main()
