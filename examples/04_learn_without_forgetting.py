"""Learn prose, measure what it needs, expand, and learn code without forgetting it, in one call.

    python examples/04_learn_without_forgetting.py

The same as four commands: tritter train, tritter fisher, tritter expand, tritter train --set ewc.lambda=100. About a
minute on two cores.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from tprog import ModelConfig, config_to_json
from tprog.jsonio import write_json
from tprog.reader import open_checkpoint

from tritter_jax.train.config import RunConfig
from tritter_jax.train.evaluate import evaluate
from tritter_jax.train.workflow import Learned, learn_without_forgetting

SMALL = ModelConfig(
    family="llama", hidden_size=48, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=12, intermediate_size=128,
    vocab_size=320, max_position_embeddings=128,
)  # fmt: skip
LARGE = replace(SMALL, hidden_size=72, num_layers=6, num_heads=6, num_kv_heads=3, intermediate_size=192)
OLD, NEW = "builtin:prose", "builtin:code"


def learn(directory: Path, *, steps: int = 400, more: int = 100, samples: int = 1000, **data: object) -> Learned:
    write_json(directory / "small.json", config_to_json(SMALL))

    def run(name: str, text: str, until: int, **sections: dict) -> RunConfig:
        return RunConfig.parse(
            {
                "data": {"train": text, "sequence_length": 64, **data},
                "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.0},
                "schedule": {"name": "constant"},
                "training": {"steps": until},
                "output": {"directory": str(directory / name), "eval_interval": 0},
                **sections,
            }
        )

    first = run("old", OLD, steps, model={"config": str(directory / "small.json")})
    second = run("new", NEW, steps + more, ewc={"lambda": 100, "form": "proximal"})
    return learn_without_forgetting(first, LARGE, second, directory, fisher={"samples": samples}, progress=print)


def main() -> None:
    directory = Path(tempfile.mkdtemp())
    learned = learn(directory)
    for text in (OLD, NEW):
        before, after = (
            evaluate(open_checkpoint(path), text, sequence_length=64).loss
            for path in (learned.expanded, learned.second.checkpoint)
        )
        print(f"held-out loss on {text}: {before:.3f} before, {after:.3f} after")
    print(f"Everything is in {directory}")


if __name__ == "__main__":
    main()
