"""Fisher information of a checkpoint, measured on a corpus and written into it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tprog.flax
from tprog import UsageError
from tprog.huggingface import kept_files
from tprog.reader import Checkpoint
from tprog.writer import write_checkpoint

from tritter_jax.continual import (
    ESTIMATORS,
    UNIT,
    Progress,
    estimate_fisher,
    language_logits,
    mean_fisher,
    windows_batch,
)
from tritter_jax.data import byte_tokenizer, load_tokenizer, open_corpus, tokenize, train_batches

STORED = ("float32", "bfloat16")
"""Dtypes that Fisher information is stored in."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, and where it was written.

    Args:
        path: the checkpoint.
        samples: number of rows.
        tokens: number of tokens.
        change: relative change of the estimate by its last batch, in L1.
        ewc_config: what progressive.json says of it.
    """

    path: Path
    samples: int
    tokens: int
    change: float
    ewc_config: dict[str, Any]


def measure_fisher(
    checkpoint: Checkpoint,
    data: str,
    destination: str | Path | None = None,
    *,
    samples: int = 10_000,
    estimator: str = next(iter(ESTIMATORS)),
    draws: int = 1,
    batch_size: int = 8,
    sequence_length: int = 256,
    seed: int = 0,
    stored: str = "float32",
    compute: str | None = None,
    cache: str | Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Measured:
    """Measure a checkpoint's Fisher information on a corpus, and write it with the weights as the anchor.

    Args:
        checkpoint: the model, with its tokenizer; bytes where it has none.
        data: as `--data`: a file, directory, glob, or builtin corpus, of which the training documents are used.
        destination: the checkpoint to make; the source itself is replaced, whole, when None.
        samples: number of rows, drawn without repetition.
        estimator: a key of `tritter_jax.continual.ESTIMATORS`.
        draws: label draws a batch.
        batch_size: rows at a time.
        sequence_length: tokens scored in a row.
        seed: of rows and draws.
        stored: dtype of the Fisher information in the file, one of `STORED`.
        compute: dtype of the computation; that of the weights when None.
        cache: where token files are kept.
        report: told after every batch.

    Raises:
        UsageError: the corpus has fewer rows than asked for, an option is none that there is, or the destination is
            taken.
        VerificationError: a batch gave NaN or infinity.
    """
    if stored not in STORED:
        raise UsageError("--dtype", expected=f"one of {', '.join(STORED)}", got=stored, remedy="Choose one of those.")
    config = checkpoint.config
    tokenizer = load_tokenizer(checkpoint.path) if checkpoint.tokenizer_files else byte_tokenizer()
    length = min(sequence_length, config.max_position_embeddings - 1)
    batches = train_batches(
        tokenize(open_corpus(data), tokenizer, cache=cache),
        batch_size=batch_size,
        sequence_length=length,
        seed=seed,
        vocab_size=config.vocab_size,
    )
    try:
        if samples > batches.rows_per_epoch:
            raise UsageError(
                "--samples", expected=f"at most {batches.rows_per_epoch}, the rows of {length} tokens in {data}",
                got=samples, remedy="Ask for fewer, give more data, or make --sequence-length smaller.",
            )  # fmt: skip
        params = tprog.flax.load(checkpoint)
        seen: list[Progress] = []

        def told(at: Progress) -> None:
            seen[:] = [at]
            report(at)

        total = estimate_fisher(
            language_logits(config, compute),
            params,
            (windows_batch(batch.tokens, batch.weights) for batch in batches),
            estimator=estimator,
            samples=samples,
            draws=draws,
            seed=seed,
            report=told,
        )
    finally:
        batches.close()
    fisher = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(stored)), mean_fisher(total))
    known = checkpoint.progressive.ewc_config
    found = ({} if known is None else known.to_json()) | {
        "enabled": True,
        "fisher_samples": samples,
        "estimator": estimator,
        "unit": UNIT,
        "draws": draws,
        "tokens": int(total.tokens),
        "data": data,
    }
    path = write_checkpoint(
        checkpoint.path if destination is None else destination,
        config,
        checkpoint,
        progressive=checkpoint.progressive.with_fields(ewc_config=found),
        tokenizer_from=checkpoint.path,
        files=kept_files(checkpoint),
        parts=replace(
            checkpoint.to_parts(),
            fisher=tprog.flax.to_tensors(fisher, config),
            old_params=tprog.flax.to_tensors(params, config),
        ),
        overwrite=destination is None,
    )
    return Measured(path=path, samples=samples, tokens=int(total.tokens), change=seen[-1].change, ewc_config=found)
