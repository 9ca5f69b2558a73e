"""Fisher information over many batches: one jitted step, checked as it goes, resumable, on one device or a mesh."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from tprog import UsageError, VerificationError

from tritter_jax.continual.accumulate import FisherSum, compile_step, new_sum, require_tokens
from tritter_jax.continual.fisher import ESTIMATORS, batch_shards, require_draws
from tritter_jax.continual.likelihood import Labelled, LogitsOf
from tritter_jax.sharding import BATCH_AXES, automatic, on_automatic, require_axes


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the measuring is.

    Args:
        rows: number of rows so far.
        change: relative change of the estimate by the last batch, in L1; in the end about 1 / batches.
        total: what was measured so far, to be saved; the next batch frees it.
    """

    rows: int
    change: float
    total: FisherSum


def estimate_fisher(
    logits_of: LogitsOf,
    params: Any,
    batches: Iterable[Labelled],
    *,
    estimator: str = next(iter(ESTIMATORS)),
    samples: int | None = None,
    draws: int = 1,
    seed: int = 0,
    mesh: Mesh | None = None,
    begun: FisherSum | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> FisherSum:
    """Measure the Fisher information of `params` on batches.

    Args:
        logits_of: the model, for instance `language_logits(config)`.
        params: its parameters, of any float dtype; what is summed is float32, or float64 where they are.
        batches: labelled rows, from host or device; on a mesh each process gives its part.
        estimator: a key of `ESTIMATORS`.
        samples: number of rows to measure on, exactly; all there are when None.
        draws: label draws a batch, for estimators that draw.
        seed: of the draws; a batch's follow from it and the batch's number alone.
        mesh: the devices; `params` lie on it already.
        begun: an earlier measurement to go on with; it is freed. `batches` then begin after those it has seen.
        report: told after every batch; what it raises ends the measuring.

    Returns:
        What was measured; `mean_fisher` of it is the estimate.

    Raises:
        UsageError: no such estimator, fewer rows than `samples`, no token, draws below 1, more than one for an
            estimator that draws none, or rows that the mesh does not divide.
        VerificationError: a batch gave NaN or infinity; it is named.

    Example:
        >>> import tprog
        >>> from tritter_jax.continual.accumulate import mean_fisher
        >>> from tritter_jax.continual.likelihood import language_logits, windows_batch
        >>> from tritter_jax.model import init_params
        >>> config = tprog.ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                            vocab_size=16)
        >>> tokens = jax.random.randint(jax.random.key(0), (4, 9), 0, 16)
        >>> total = estimate_fisher(language_logits(config), init_params(config), [windows_batch(tokens)])
        >>> total.tokens, mean_fisher(total)["norm"].shape
        (32, (8,))
    """
    row = UsageError.choose("estimator", estimator, ESTIMATORS)
    for name, value in (("draws", draws), ("samples", 1 if samples is None else samples)):
        if value < 1:
            raise UsageError(name, expected="a whole number above 0", got=value, remedy="Correct it.")
    require_draws(row, draws)
    if mesh is not None:
        require_axes(mesh, BATCH_AXES)
        mesh, params, begun = automatic(mesh), on_automatic(params), on_automatic(begun)
    step = compile_step(logits_of, params, row, draws, mesh)
    total = new_sum(params) if begun is None else begun
    number, key = int(total.batches), jax.random.key(seed)
    shown = int(total.rows)
    # A mesh that is set splits activations by rows, of which a scan over single rows has none to split.
    with jax.set_mesh(mesh) if mesh is not None and row.whole_batch else jax.sharding.use_abstract_mesh(_NO_MESH):
        for batch in batches:
            if samples is not None and shown >= samples:
                break
            number += 1
            total, seen = step(total, params, _placed(batch, mesh, number), key, samples)
            if not seen.finite:
                raise VerificationError(
                    f"batch {number} (after {shown} rows)", expected="finite gradients", got="NaN or infinity",
                    remedy="Look at the weights and at that batch, or compute in float32.",
                )  # fmt: skip
            shown = int(total.rows)
            report(Progress(rows=shown, change=float(seen.change), total=total))
    if samples is not None and shown < samples:
        raise UsageError(
            "samples", expected=f"{samples} rows of data", got=f"{shown}", remedy="Give more data, or ask for fewer.",
        )  # fmt: skip
    return require_tokens(total)


_NO_MESH = AbstractMesh((), ())


def _placed(batch: Any, mesh: Mesh | None, number: int) -> Labelled:
    if not isinstance(batch, Labelled):
        raise UsageError(
            f"batch {number}", expected="a Labelled of inputs, labels and weights", got=type(batch).__name__,
            remedy="Pass Labelled(x, y, weights) for each batch, or windows_batch(tokens) for rows of token ids.",
        )  # fmt: skip
    if mesh is None:
        return jax.tree.map(jnp.asarray, batch)
    local, shards = len(batch.labels), batch_shards(mesh) // jax.process_count()
    if local % max(shards, 1):
        raise UsageError(
            f"batch {number}", expected=f"a multiple of {shards} rows, as the mesh has batch shards", got=local,
            remedy="Choose another batch size, and fill up the last batch with rows of weight 0.",
        )  # fmt: skip
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            NamedSharding(mesh, PartitionSpec(BATCH_AXES, *(None,) * (leaf.ndim - 1))), leaf
        ),
        batch,
    )
