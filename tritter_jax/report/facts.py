"""What a report tells, gathered from a checkpoint and the runs before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tprog import ModelConfig, TritterError
from tprog.forgetting import Matrix, forgetting_matrix
from tprog.schema import Expansion, LayerAnalysis, Progressive, RecommendedExpansion

from tritter_jax.analysis import fisher_mass
from tritter_jax.growth import Plan, plan_from_record
from tritter_jax.report.loss_picture import LossCurves
from tritter_jax.train.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One growth of the past, and its plan where the record of it can be read."""

    entry: Expansion
    plan: Plan | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything a report shows; what is None or empty was never measured.

    Args:
        name: of the checkpoint or run.
        config: the model.
        progressive: what its metadata say.
        growths: those of its past, oldest first.
        curves: its losses.
        analysis: its layers' worth.
        fisher: Fisher mass by block and layer.
    """

    name: str
    config: ModelConfig
    progressive: Progressive
    growths: tuple[Growth, ...]
    curves: LossCurves | None
    analysis: LayerAnalysis | None
    fisher: Mapping[str, Sequence[float]] | None

    @property
    def matrix(self) -> Matrix | None:
        """How much of earlier tasks is kept."""
        return forgetting_matrix(self.progressive.to_json().get("task_losses"))

    @property
    def recommended(self) -> RecommendedExpansion | None:
        """The growth that is advised next."""
        return self.progressive.recommended_expansion


def collect(subject: Subject, before: Sequence[Sequence[Mapping[str, Any]]] = ()) -> Facts:
    """Gather what is known of a model.

    Args:
        subject: the checkpoint or run.
        before: the metrics of the runs that came before its own, oldest first.
    """
    checkpoint, progressive = subject.checkpoint, subject.progressive
    path = checkpoint.path if checkpoint is not None else subject.run
    growths = tuple(_growth(entry, subject.config) for entry in progressive.expansion_history)
    analysis = progressive.layer_analysis
    fits = analysis is not None and len(analysis.importance_scores or ()) == subject.config.num_layers
    return Facts(
        name=path.name if path is not None else "model",
        config=subject.config,
        progressive=progressive,
        growths=growths,
        curves=loss_curves([*before, subject.metrics()], progressive),
        analysis=analysis if fits else None,
        fisher=None if checkpoint is None else fisher_mass(checkpoint),
    )


def _growth(entry: Expansion, config: ModelConfig) -> Growth:
    try:
        return Growth(entry=entry, plan=None if entry.plan is None else plan_from_record(entry.plan, config))
    except TritterError:
        # Records of other releases, or edited ones, are listed without their picture.
        return Growth(entry=entry, plan=None)


def loss_curves(runs: Sequence[Sequence[Mapping[str, Any]]], progressive: Progressive) -> LossCurves | None:
    """The losses of runs that follow each other, by tokens seen; None where there are none.

    Lines of an earlier run that lie beyond the beginning of a later one are left out.
    """
    training: list[tuple[float, float]] = []
    held_out: list[tuple[float, float]] = []
    for lines in runs:
        tokens = {line["step"]: float(line["tokens_seen"]) for line in lines if _number(line, "tokens_seen")}
        if not tokens:
            continue
        begin = min(tokens.values())
        training = [point for point in training if point[0] < begin]
        held_out = [point for point in held_out if point[0] < begin]
        training += [(tokens[line["step"]], float(line["loss"])) for line in lines
                     if line["step"] in tokens and _number(line, "loss")]  # fmt: skip
        held_out += [(tokens[line["step"]], float(line["held_out_loss"])) for line in lines
                     if line["step"] in tokens and _number(line, "held_out_loss")]  # fmt: skip
    if not training and not held_out:
        return None
    return LossCurves(
        training=tuple(sorted(training)), held_out=tuple(sorted(held_out)), growths=_growths(progressive)
    )


def _growths(progressive: Progressive) -> tuple[tuple[float, str], ...]:
    """Tokens seen at each growth: all of them, less those since."""
    progress = progressive.training_progress
    at = 0 if progress is None else progress.tokens_seen
    found = []
    for entry in reversed(progressive.expansion_history):
        at -= entry.tokens_after
        found.append((float(at), f"{entry.from_size} to {entry.to_size}"))
    return tuple(reversed(found))


def _number(line: Mapping[str, Any], name: str) -> bool:
    return isinstance(line.get(name), int | float)
