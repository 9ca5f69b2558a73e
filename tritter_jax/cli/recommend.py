"""tritter recommend: what to grow into next, when, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from tprog import UsageError

from tritter_jax.cli import completion
from tritter_jax.cli.arguments import own_path, target_for
from tritter_jax.cli.guide import guide
from tritter_jax.cli.output import emit, err, ranges

if TYPE_CHECKING:
    from tritter_jax.analysis import Advice, History
    from tritter_jax.train.subject import Subject


def recommend(
    path: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint, a run directory, or a size: the most trained one here; without it, what was at "
            "work last here of runs and checkpoints.",
            autocompletion=completion.sources,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", help="A named size or a config.json; one is chosen without it.")
    ] = None,
    when: Annotated[
        bool, typer.Option("--when", help="Only say at which step growing wins over going on; stores nothing.")
    ] = False,
    tokens_a_parameter: Annotated[
        float,
        typer.Option(help="At which a model is compute-optimal, if you know better than the literature.", min=0.01),
    ] = 20.0,
    tokens_seen: Annotated[
        float | None,
        typer.Option(help="Tokens that the model has seen, such as 2e12; default what is on record.", min=0),
    ] = None,
) -> None:
    """Advise on the next growth: how large, which layers, whether to wait, and why.

    It goes by the layers' importance (`tritter analyze`), the loss history of the run that the checkpoint lies in,
    compute-optimal tokens, and this machine's memory, and stores what it advises: `tritter expand` follows it.

    Examples:
        tritter recommend tritter-3B-0.tprog
        tritter recommend runs/run --when
        tritter recommend smollm2.tprog --tokens-seen 2e12
    """
    from tprog.amend import amend, require_amendable

    from tritter_jax.analysis import advise, this_machine
    from tritter_jax.train.subject import open_subject

    subject = open_subject(_newest() if path is None else own_path(path))
    goal = None if target is None else target_for(subject.config, target, None)
    history, missing = _history(subject, required=when)
    if not when:
        if subject.checkpoint is None:
            raise UsageError(
                subject.run, expected="a checkpoint to store the advice in", got="a run that has written none yet",
                remedy="Ask with --when, or wait for its first.",
            )  # fmt: skip
        require_amendable(subject.checkpoint.path)
    advice = advise(
        subject.config,
        subject.progressive,
        this_machine(),
        target=goal,
        history=history,
        tokens_a_parameter=tokens_a_parameter,
        tokens_seen=tokens_seen,
    )
    result: dict[str, Any] = {
        "path": str(subject.checkpoint.path if subject.checkpoint else subject.run),
        "when": _when(advice, history),
    }
    if not when and subject.checkpoint is not None:
        amend(subject.checkpoint.path, recommended_expansion=advice.record)
        result["recommended_expansion"] = advice.record.to_json()
    emit(result, lambda console: _render(console, advice, result, history, missing, when))


def _newest() -> Path:
    """What `tritter` alone would go on with.

    Raises:
        UsageError: there is nothing here.
    """
    path = guide().path
    if path is None:
        raise UsageError(
            Path().resolve(), expected="a checkpoint or a run in this directory", got="none",
            remedy="Name one: tritter recommend PATH.",
        )  # fmt: skip
    err().print(f"looking at {path.resolve()}", style="dim", markup=False)
    return path


def _history(subject: "Subject", *, required: bool) -> tuple["History | None", str | None]:
    """The loss history, or why there is none."""
    from tritter_jax.analysis import fit_power_law, loss_history

    try:
        history = loss_history(subject.metrics())
        fit_power_law(history.tokens, history.losses)
    except UsageError as error:
        if required:
            raise
        return None, str(error) if subject.run is not None else None
    return history, None


def _when(advice: "Advice", history: "History | None") -> dict[str, Any]:
    point = advice.point
    found: dict[str, Any] = {
        "tokens": {"low": point.low, "best": point.tokens, "high": point.high},
        "tokens_seen": advice.tokens_seen,
        "grow_now": advice.grow_now,
        "probability_passed": point.passed if advice.tokens_seen is not None else None,
    }
    if history is not None and advice.law is not None:
        ends = (("low", point.low), ("best", point.tokens), ("high", point.high))
        low, best, high = advice.law.exponent_interval
        found["step"] = {name: history.step_at(tokens) for name, tokens in ends}
        found["at_step"] = history.step
        found["power_law"] = {
            "loss": history.kind,
            "points": advice.law.points,
            "floor": advice.law.floor,
            "exponent": {"low": low, "best": best, "high": high},
        }
    return found


def _render(
    console: Console,
    advice: "Advice",
    result: dict[str, Any],
    history: "History | None",
    missing: str | None,
    when: bool,
) -> None:
    found = result["when"]
    if when:
        step, law = found["step"], found["power_law"]
        verdict = "it has come" if advice.grow_now else f"{step['best'] - found['at_step']:,} steps from now"
        console.print(f"Growing wins over going on from step {step['best']:,}: {verdict}.")
        console.print(f"90 %: step {step['low']:,} to {step['high']:,}; "
                      f"{found['probability_passed']:.0%} that it lies behind step {found['at_step']:,}")  # fmt: skip
        exponent = law["exponent"]
        console.print(
            f"from {law['points']} points of the {law['loss']} loss, exponent {exponent['best']:.2f} "
            f"({exponent['low']:.2f} to {exponent['high']:.2f})"
        )
        console.print(
            "If long training follows: new entries cost something until they are of use "
            "(examples/when_to_grow has measured it).",
            style="dim",
        )
        if history is not None and not history.steady:
            said = "The learning rate fell during the run, so that the exponent comes out too high."
            console.print(said, style="yellow")
        return
    record = advice.record
    console.print(record.reason, markup=False, soft_wrap=False)
    if missing is not None:
        console.print(f"\nThe run's history could not be used: {missing}", markup=False)
    layers = record.layer_duplication_indices or []
    copies = f", copying layers {ranges(layers)}" if layers else ""
    console.print(f"\nstored: {record.next_size} by {record.method}{copies}", markup=False)
    console.print(f"follow it with: tritter expand --from {result['path']}", markup=False)
