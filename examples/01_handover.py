"""Train 20 steps in JAX, 20 in PyTorch, 20 in JAX: the loss curve of 60 in either. python examples/01_handover.py"""

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

SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 48}
CONFIG = ModelConfig(family="llama", vocab_size=128, **SIZES)
ADAMW = optax.adamw(3e-3, 0.9, 0.95, 1e-8, weight_decay=0.1)
STEP = jax.jit(train_step, static_argnames=("config", "optimizer"))
# Noisy repetitions, so that there is something to learn: the batch of each step, [8, 33].
DRAWS = np.random.default_rng(0).integers(0, 3, (60, 8, 33), dtype=np.int32)
BATCHES = np.cumsum(DRAWS, axis=2, dtype=np.int32) % CONFIG.vocab_size


def in_jax(source: Path, destination: Path, steps: slice) -> list[float]:
    state, losses = new_state(tprog.flax.load(source), ADAMW, seed=0), []
    if (source / "training").is_dir():
        state = state._replace(opt_state=load_optimizer(source, state.opt_state))
    for batch in BATCHES[steps]:
        state, metrics = STEP(state, batch, config=CONFIG, optimizer=ADAMW)
        losses.append(float(metrics["loss"]))
    tprog.flax.save(destination, state.params, CONFIG, opt_state=state.opt_state)
    return losses


def in_torch(source: Path, destination: Path, steps: slice) -> list[float]:
    model, losses = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager"), []
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    if (source / "training").is_dir():
        load_torch_optimizer(adamw, source, model)
    for tokens in torch.from_numpy(BATCHES[steps]).long():
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    tprog.torch.save(destination, model, CONFIG, optimizer=adamw)
    return losses


def main() -> float:
    root = Path(tempfile.mkdtemp())
    start, a, b, c, d, e = (root / f"{name}.tprog" for name in ("start", "a", "b", "c", "d", "e"))
    tprog.flax.save(start, init_params(CONFIG), CONFIG)
    mixed = in_jax(start, a, slice(20)) + in_torch(a, b, slice(20, 40)) + in_jax(b, c, slice(40, 60))
    curves = np.array([in_jax(start, d, slice(60)), in_torch(start, e, slice(60))])
    worst = float(np.max(np.abs(mixed - curves) / curves))
    print(f"loss {mixed[0]:.4f} -> {mixed[-1]:.4f}; largest relative difference {worst:.1e}")
    return worst


if __name__ == "__main__":
    main()
