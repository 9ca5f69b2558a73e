"""Expanding a checkpoint on disk: open, plan, grow, write, check, commit."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tprog import ModelConfig, size_label
from tprog.commit import refuse_taken
from tprog.disk import require_space
from tprog.huggingface import kept_files
from tprog.journal import Journal
from tprog.parts import MINIMAL_FISHER
from tprog.paths import user_path
from tprog.reader import Checkpoint, is_checkpoint, open_checkpoint
from tprog.schema import Expansion, Progressive
from tprog.unchanged import Unchanged
from tprog.writer import SHARD_SIZE, Advance, write_checkpoint

from tritter_jax import __version__
from tritter_jax.growth.carry import MeasuredFisher, grown_parts
from tritter_jax.growth.compare import check_source
from tritter_jax.growth.drift import NARROW, Drift, measure_drift, precision, require_finite, sample_tokens
from tritter_jax.growth.fisher import FISHER
from tritter_jax.growth.moments import MOMENTS
from tritter_jax.growth.plan import Plan
from tritter_jax.growth.planning import make_plan
from tritter_jax.growth.record import method_of, plan_to_record
from tritter_jax.growth.stream import grown_tensors
from tritter_jax.model import logits_by_layer

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """The outcome of `expand`.

    Args:
        path: the grown checkpoint.
        plan: the growth that was applied.
        drift: the measured difference of the logits; None where it was not asked for.
        carried: the optional parts of the source that were taken along.
    """

    path: Path
    plan: Plan
    drift: Drift | None
    carried: tuple[str, ...]


def expand(
    source: str | Path | Checkpoint,
    destination: str | Path,
    target: ModelConfig | Plan,
    *,
    optimizer: str = next(iter(MOMENTS)),
    fisher: str = next(iter(FISHER)),
    measured: MeasuredFisher | None = None,
    verify: bool = True,
    overwrite: bool = False,
    shard_size: int = SHARD_SIZE,
    progress: Progress = lambda stage: None,
    advance: Advance = lambda done, total: None,
    resume: bool = False,
    **choices: Any,
) -> Expanded:
    """Grow a checkpoint into a larger one, and write it only if it keeps what its plan promises.

    All that the checkpoint holds goes along: optimizer, Fisher information and anchor grown tensor by tensor as the
    weights are; random states, schedule, place in the data, tokenizer and history as they are.

    Args:
        source: a `.tprog` or Hugging Face directory, or a checkpoint already open.
        destination: the `.tprog` to write.
        target: a configuration of the size wanted, whose dtype is that of the result, or a plan for this source.
        optimizer: a key of `MOMENTS`: how the optimizer's state moves.
        fisher: a key of `FISHER`: how Fisher information moves.
        measured: Fisher information of the grown model, used where the old one tells nothing; medians when None.
        verify: run source and result, as written, on the same tokens before the result is put in place.
        overwrite: whether an existing checkpoint may be replaced.
        shard_size: largest weights file in bytes.
        progress: told each stage's name as it begins.
        advance: told how many bytes of the result are written, and how many there will be.
        resume: go on with what a killed run of the same growth left, from its last whole file.
        **choices: `depth`, `positions`, `layers`, `width`, `split`, `noise`, `noise_everywhere`, `allow_inexact`,
            `seed`, as for `make_plan`; none beside a plan.

    Raises:
        GrowthError: the growth cannot be planned, the plan is for another model, or the optimizer's state cannot be
            moved.
        VerificationError: the plan said exact, and the result is not.
        FormatError: the source is not a model, or changed while it was read; or the result would hold numbers that
            are not finite, since its dtype is too narrow or the source holds such numbers.
        UsageError: the destination is taken, cannot be written, its disk is too small, or what a killed run left is
            of another plan or source.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    unchanged = Unchanged.of(checkpoint.path)
    refuse_taken(destination, overwrite=overwrite, is_ours=is_checkpoint, source=checkpoint.path)
    if isinstance(target, Plan):
        check_source(target.source, checkpoint.config)
        plan = target
    else:
        plan = make_plan(checkpoint.config, target, scores=stored_scores(checkpoint), **choices)
    parts = grown_parts(checkpoint, plan, optimizer=optimizer, fisher=fisher, measured=measured)
    tensors = grown_tensors(checkpoint, plan)
    # Before the source is run, which may take minutes; the writer asks again, less what is there already.
    if not resume:
        _require_room(destination, parts, tensors)
    moved = {name: how for name, how in (("optimizer", optimizer), ("fisher", fisher)) if name in checkpoint.parts}
    if measured is not None:
        moved["fisher_measured_on"] = measured.data
    tokens = sample_tokens(checkpoint.config, seed=plan.seed)
    widest = max((spec.dtype.name for spec in checkpoint.specs.values()), key=lambda name: name == "float64")
    computed = "float64" if plan.keeps_codes else None
    with precision(widest), precision(plan.target.dtype), precision(computed or plan.target.dtype):
        before = None
        if verify:
            progress("running the source")
            before = logits_by_layer(checkpoint, tokens, plan.source, dtype=computed)
            require_finite(before, checkpoint.path)
        drifts: list[Drift] = []

        def check(written: Path) -> Progressive | None:
            unchanged.require()
            if before is None:
                return None
            progress("running the result")
            after = logits_by_layer(open_checkpoint(written), tokens, plan.target, dtype=computed)
            drift = measure_drift(before, after)
            if plan.target.dtype in NARROW or plan.keeps_codes:
                progress("running the result before rounding")
                exact = plan.unrounded()
                unrounded = logits_by_layer(grown_tensors(checkpoint, exact), tokens, exact.target)
                drift = replace(drift, before_rounding=measure_drift(before, unrounded).max_relative)
            drifts.append(drift)
            drifts[0].check(plan.guarantee, where=f"{destination}")
            unchanged.require()
            return grown_metadata(checkpoint.progressive, plan, drifts[0], moved)

        progress("growing and writing")
        path = write_checkpoint(
            destination,
            plan.target,
            tensors,
            progressive=grown_metadata(checkpoint.progressive, plan, None, moved),
            shard_size=shard_size,
            overwrite=overwrite,
            tokenizer_from=checkpoint.path,
            files=kept_files(checkpoint),
            parts=parts,
            check=check,
            advance=advance,
            journal=Journal(made_from(plan, unchanged, moved, shard_size), resume=resume),
        )
    return Expanded(path=path, plan=plan, drift=drifts[0] if drifts else None, carried=parts.given)


def require_room(
    checkpoint: Checkpoint,
    destination: str | Path,
    plan: Plan,
    *,
    optimizer: str = next(iter(MOMENTS)),
    fisher: str = next(iter(FISHER)),
) -> None:
    """Refuse a growth whose result the disk has no room for; for callers that do long work before they call `expand`.

    Args:
        checkpoint: the source.
        destination: the `.tprog` to write.
        plan: the growth.
        optimizer: as for `expand`.
        fisher: as for `expand`.

    Raises:
        UsageError: fewer bytes are free than it takes.
    """
    parts = grown_parts(checkpoint, plan, optimizer=optimizer, fisher=fisher)
    _require_room(destination, parts, grown_tensors(checkpoint, plan))


def _require_room(destination: str | Path, parts: Any, tensors: Any) -> None:
    needed = parts.nbytes + sum(spec.nbytes for spec in tensors.specs.values())
    require_space(user_path(destination), needed)


def made_from(plan: Plan, source: Unchanged, moved: Mapping[str, str], shard_size: int) -> dict[str, str]:
    """Digests of all that decides which bytes a growth writes."""
    what = {
        "plan": [plan_to_record(plan), moved, shard_size],
        "source": [str(source.directory), source.stamps],
        "release": __version__,
    }
    return {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in what.items()}


def stored_scores(checkpoint: Checkpoint) -> list[float] | None:
    """The importance of each layer as progressive.json has it; None where it was never measured."""
    analysis = checkpoint.progressive.layer_analysis
    return None if analysis is None else analysis.importance_scores


def grown_metadata(
    progressive: Progressive, plan: Plan, drift: Drift | None, moved: Mapping[str, str]
) -> Progressive:
    """The source's metadata with the growth added to its history, and what no longer holds left out.

    Args:
        progressive: the source's.
        plan: the growth.
        drift: what was measured, if anything.
        moved: how `optimizer` and `fisher` were moved, where the source has them, and what else is to be told.
    """
    entry = Expansion(
        from_size=size_label(plan.source),
        to_size=size_label(plan.target),
        method=method_of(plan),
        tokens_after=0,
        plan=plan_to_record(plan),
        guarantee=plan.guarantee.as_json(),
        measured_drift=None if drift is None else drift.as_json(),
        **moved,
    )
    # Both speak of layers by their old numbers, or of a size that has been reached.
    stale: dict[str, Any] = {"layer_analysis": None, "recommended_expansion": None}
    if progressive.ewc_config is not None:
        known = progressive.ewc_config.to_json()
        known.pop(MINIMAL_FISHER, None)
        stale["ewc_config"] = known if "fisher" in moved else known | {"enabled": False}
    return progressive.with_fields(expansion_history=[*progressive.expansion_history, entry], **stale)
