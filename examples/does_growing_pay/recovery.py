"""How many tokens after growing until a model is what it was?

    python -m examples.does_growing_pay.recovery [--seeds N] [--steps N] [--every N] [--out FILE]

Variants are grown where the comparisons grow them and go on at the same learning rate, scored often. The small models
that do not grow are the control: a loss swings from scoring to scoring. Some minutes a seed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from examples.does_growing_pay.settings import FULL
from examples.does_growing_pay.training import Trainer
from examples.does_growing_pay.variants import DEPTH, PAYS, STRATEGIES, WIDTH, Variant
from tritter_jax.data import byte_tokenizer, open_corpus, tokenize

Losses = Sequence[tuple[int, float]]
"""Before growing, right after it, and from there on, by tokens since."""

_NAMES = ("not grown, for depth", "copy uniform", "solar", "not grown, for width", "fresh")
VARIANTS = (DEPTH, WIDTH, *(variant for variant in (*PAYS, *STRATEGIES) if variant.name.endswith(_NAMES)))


def recovered(losses: Losses) -> int | None:
    """Tokens from which on the loss stays at or below what it was before growing; None where it does not.

    Example:
        >>> recovered([(0, 2.0), (0, 2.5), (10, 2.1), (20, 1.9)]), recovered([(0, 2.0), (0, 2.0), (10, 1.9)])
        (20, 0)
        >>> recovered([(0, 2.0), (0, 2.0), (10, 2.1)]) is None
        True
    """
    before, after = losses[0][1] + 1e-5, losses[1:]
    above = [place for place, (_, loss) in enumerate(after) if loss > before]
    following = above[-1] + 1 if above else 0
    return after[following][0] if following < len(after) else None


def table(found: dict[str, list[Losses]]) -> str:
    """Markdown: a line a variant; losses and tokens seed by seed."""
    lines = [
        "| variant | at the moment of growing | highest after | not above from, tokens | at the end |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        jumps = ", ".join(f"{run[1][1] - run[0][1]:+.3f}" for run in runs)
        highest = ", ".join(f"{max(loss for _, loss in run[1:]) - run[0][1]:+.3f}" for run in runs)
        tokens = ", ".join("later" if (back := recovered(run)) is None else f"{back:,}" for run in runs)
        ends = ", ".join(f"{run[-1][1] - run[0][1]:+.3f}" for run in runs)
        lines.append(f"| {name} | {jumps} | {highest} | {tokens} | {ends} |")
    return "\n".join(lines)


def measure(trainer: Trainer, variants: Sequence[Variant], seeds: int, *, steps: int, every: int) -> dict[str, list]:
    """Every variant under every seed."""
    found: dict[str, list] = {variant.name: [] for variant in variants}
    for seed in range(seeds):
        for variant in variants:
            found[variant.name].append(trainer.afterwards(variant, seed, steps=steps, every=every))
            print(f"seed {seed}, {variant.name}", flush=True)
        trainer.forget()
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150, help="steps after growing")
    parser.add_argument("--every", type=int, default=10, help="steps between two scorings")
    parser.add_argument("--out", type=Path, help="write the losses as JSON")
    options = parser.parse_args(arguments)
    trainer = Trainer(FULL, tokenize(open_corpus("builtin:prose"), byte_tokenizer()))
    found = measure(trainer, VARIANTS, options.seeds, steps=options.steps, every=options.every)
    print("\n" + table(found))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
