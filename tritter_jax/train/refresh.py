"""The Fisher information of what growing adds, measured on the grown model before it is written."""

from collections.abc import Callable
from pathlib import Path

import tprog.flax
from tprog import UsageError
from tprog.flax_load import load_tree
from tprog.reader import Checkpoint

from tritter_jax.continual import ESTIMATORS, Progress, estimate_fisher, language_logits, mean_fisher, windows_batch
from tritter_jax.continual.stored import check_stored
from tritter_jax.growth import Plan
from tritter_jax.growth.carry import MeasuredFisher, grown_parts
from tritter_jax.growth.fisher import FISHER
from tritter_jax.sharding import MeshShape, make_mesh
from tritter_jax.train.sampling import sample_rows

_SAMPLES = 10_000


def measure_grown(
    checkpoint: Checkpoint,
    plan: Plan,
    data: str,
    *,
    samples: int | None = None,
    batch_size: int = 8,
    sequence_length: int = 256,
    seed: int = 0,
    cache: str | Path | None = None,
    tokenizer: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> MeasuredFisher:
    """Measure the Fisher information of a grown model at its anchor, as that of its source was measured.

    Old gradients tell nothing of projections that begin at zero, through which the old function leaks once they move.
    Give the result to `tritter_jax.growth.expand.expand`, which uses it for these.

    Args:
        checkpoint: the source, with its Fisher information and anchor.
        plan: the growth.
        data: what the source's was measured on: a file, directory, glob, or builtin corpus.
        samples: number of rows; as many as the source's was measured on, or as there are, when None.
        batch_size: rows at a time.
        sequence_length: tokens scored in a row.
        seed: of rows and draws.
        cache: where token files are kept.
        tokenizer: another tokenizer than the checkpoint's, as for `tritter_jax.data.choose_tokenizer`.
        report: told after every batch.

    Raises:
        UsageError: no Fisher information is stored, or it was measured in a way that is not known; the corpus has
            fewer rows than asked for.
        FormatError: what is stored is of another model or unit.
        VerificationError: a batch gave NaN or infinity.
    """
    if "fisher" not in checkpoint.parts:
        raise UsageError(
            "--refresh-fisher", expected="a source with Fisher information", got=f"{checkpoint.path} without",
            remedy="Measure it first with `tritter fisher`, or leave this out.",
        )  # fmt: skip
    check_stored(checkpoint)
    known = checkpoint.progressive.ewc_config
    assert known is not None  # its unit was checked
    estimator = known.estimator or next(iter(ESTIMATORS))
    if estimator not in ESTIMATORS:
        raise UsageError(
            "--refresh-fisher", expected=f"Fisher information estimated as one of {', '.join(ESTIMATORS)}",
            got=repr(estimator), remedy="Measure it anew with `tritter fisher`, or leave this out.",
        )  # fmt: skip
    mesh = make_mesh(MeshShape())
    length = min(sequence_length, plan.target.max_position_embeddings - 1)
    batches = sample_rows(
        checkpoint, data, mesh, samples=samples, batch_size=batch_size, length=length, seed=seed, cache=cache,
        tokenizer=tokenizer,
    )  # fmt: skip
    try:
        anchor = grown_parts(checkpoint, plan, optimizer="reset", fisher=next(iter(FISHER))).tensors["old_params"]
        total = estimate_fisher(
            language_logits(plan.target),
            load_tree(anchor, plan.target),
            (windows_batch(batch.tokens, batch.weights) for batch in batches),
            estimator=estimator,
            samples=samples or min(known.fisher_samples or _SAMPLES, batches.rows_per_epoch),
            draws=(known.draws or 1) if ESTIMATORS[estimator].draws else 1,
            seed=seed,
            report=report,
        )
    finally:
        batches.close()
    return MeasuredFisher(tensors=tprog.flax.to_tensors(mean_fisher(total), plan.target), data=data)
