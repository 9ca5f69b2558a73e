"""Layer analysis of a checkpoint, measured on a corpus and written into its progressive.json."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tprog.flax
from tprog.amend import amend, require_amendable
from tprog.reader import Checkpoint
from tprog.schema import LayerAnalysis

from tritter_jax.analysis import (
    METHOD,
    LayerMeasures,
    fisher_mass,
    losses_without,
    mass_by_layer,
    measure_layers,
    notable_layers,
)
from tritter_jax.data import EvalBatches
from tritter_jax.train.evaluate import batches_of


@dataclass(frozen=True, kw_only=True)
class Analyzed:
    """What was measured.

    Args:
        measures: of every layer.
        record: what progressive.json says of it now.
        without_expendable: loss without all layers called expendable; None where there are none.
        without_critical: loss without all layers called critical.
    """

    measures: LayerMeasures
    record: LayerAnalysis
    without_expendable: float | None
    without_critical: float


def analyze(
    checkpoint: Checkpoint,
    data: str,
    *,
    samples: int = 256,
    batch_size: int = 8,
    sequence_length: int = 256,
    everything: bool = False,
    dtype: str | None = None,
    cache: str | Path | None = None,
    tokenizer: str | None = None,
    report: Callable[[int, int], None] = lambda rows, total: None,
) -> Analyzed:
    """Measure what each layer is worth, and store it in the checkpoint's progressive.json; no weight is touched.

    Args:
        checkpoint: the model, with its tokenizer.
        data: as `--data`: a file, directory, glob, or builtin corpus, of which the held-out documents are used.
        samples: number of rows at most; batches are taken at even distances.
        batch_size: rows at a time.
        sequence_length: tokens scored in a row.
        everything: use the training documents too.
        dtype: dtype of the computation; that of the weights when None.
        cache: where token files are kept.
        tokenizer: another tokenizer than the checkpoint's, as for `tritter_jax.data.choose_tokenizer`.
        report: told rows done and rows in all after every batch.

    Raises:
        UsageError: the data are too short to tell layers apart, or the checkpoint cannot be written.
        VerificationError: a loss is not finite.
    """
    require_amendable(checkpoint.path)
    batch_size = min(batch_size, samples)
    batches = batches_of(
        checkpoint,
        data,
        batch_size=batch_size,
        sequence_length=sequence_length,
        everything=everything,
        cache=cache,
        tokenizer=tokenizer,
    )
    stride = -(-len(batches) * batch_size // samples)
    rows = -(-len(batches) // stride) * batch_size
    params, config = tprog.flax.load(checkpoint), checkpoint.config
    measures = measure_layers(
        params, _every(batches, stride), config, dtype=dtype, report=lambda done: report(done, rows)
    )
    expendable, critical = notable_layers(measures.scores)
    without = losses_without(params, _every(batches, stride), config, [expendable, critical], dtype=dtype)
    mass = fisher_mass(checkpoint)
    fields = {
        "importance_scores": measures.scores,
        "expendable_layers": expendable,
        "critical_layers": critical,
        "method": METHOD,
        "data": data,
        "tokens": measures.tokens,
        "steps": checkpoint.progressive.steps,
        "loss": measures.loss,
        "loss_when_skipped": list(measures.loss_when_skipped),
        "block_influence": list(measures.block_influence),
        "residual_norms": list(measures.residual_norms),
        **({} if mass is None else {"fisher_mass": mass_by_layer(mass)}),
    }
    record = LayerAnalysis(**fields)
    amend(checkpoint.path, layer_analysis=record)
    return Analyzed(
        measures=measures,
        record=record,
        without_expendable=without[0] if expendable else None,
        without_critical=without[1],
    )


def _every(batches: EvalBatches, stride: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number, batch in enumerate(batches):
        if number % stride == 0:
            yield batch.tokens, batch.weights
