"""A .tprog in torch, with no JAX in the process: python -m examples.own_model.in_torch DIRECTORY

Loads the weights into a transformers model and into a plain state dict, takes one step of AdamW, and saves a .tprog
that JAX reads.
"""

import sys
import tempfile
from pathlib import Path

import torch
import tprog.torch
import transformers
from tprog.reader import open_checkpoint


def main(source: Path, destination: Path | None = None) -> Path:
    destination = destination or Path(tempfile.mkdtemp()) / "trained.tprog"
    state = tprog.torch.load(source)  # names as in transformers, tensors bit-equal to those that JAX reads
    model = transformers.AutoModelForCausalLM.from_pretrained(source)  # no code of ours
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.arange(64).reshape(4, 16) % model.config.vocab_size
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    adamw.step()
    tprog.torch.save(destination, model, open_checkpoint(source).config, optimizer=adamw)
    print(f"loss {loss.item():.3f}; {len(state)} tensors read, trained weights and AdamW's moments in {destination}")
    assert "jax" not in sys.modules
    return destination


if __name__ == "__main__":
    main(Path(sys.argv[1]))
