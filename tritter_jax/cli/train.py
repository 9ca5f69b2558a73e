"""tritter train: a run from a configuration file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from tprog.printable import printable

from tritter_jax.cli.output import emit, err
from tritter_jax.cli.progress import stages

if TYPE_CHECKING:
    from tritter_jax.train.config import RunConfig


def train(
    config: Annotated[Path | None, typer.Option(help="The run's configuration (TOML); the defaults without.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: --set training.steps=50. May be repeated.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="A text file, directory, glob or builtin:prose, for data.train. May be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Short for --set output.directory=...")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Short for --set data.tokenizer=...")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="A run directory: go on with its own run.toml, wherever it was moved to.")
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Join the other processes of this job (TPU pod, Slurm, Open MPI, Kubernetes). Elsewhere set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each.",
        ),
    ] = False,
) -> None:
    """Train a model; goes on where the run directory's last checkpoint was saved.

    Examples:
        tritter train --set model.size=test --set training.steps=100
        tritter train --set model.checkpoint=a-7B-0.tprog --data ./text --out runs/a
        tritter train --resume runs/a
    """
    settings = _settings(config, change or [], data or [], out, resume, tokenizer)
    import jax

    from tritter_jax.aot import Topology
    from tritter_jax.train.config import OWN
    from tritter_jax.train.loop import Report
    from tritter_jax.train.loop import train as run
    from tritter_jax.train.processes import all_or_none, is_first, start_processes
    from tritter_jax.train.processors import prepare_processors
    from tritter_jax.train.setup import Run, prepare

    start_processes(distributed=distributed)
    devices = 1 if jax.distributed.is_initialized() else settings.mesh.named
    prepare_processors(devices, keep_memory=settings.training.keep_memory)

    with stages(told=is_first()) as stage:

        def prepared() -> Run:
            if settings.machine.topology:
                Topology.parse(settings.machine.topology, settings.machine.slices).require(jax.devices())
            return prepare(settings, progress=stage.advance)

        stage("preparing")
        ready = all_or_none(prepared)
        rate = ready.settings.optimizer.peak
        if is_first():
            named = ready.settings.data.tokenizer
            used = "the checkpoint's" if named == OWN else printable(named or "bytes")
            err().print(f"tokenizer: {used}, {ready.tokenizer.vocab_size:,} tokens", style="dim", markup=False)
            err().print(f"learning rate {rate:g} at its peak: {ready.rate_from}", style="dim", markup=False)
        stage("training")

        def report(at: Report) -> None:
            held_out = "" if at.held_out_loss is None else f", held out {at.held_out_loss:.4f}"
            note = f"loss {at.loss:.4f}{held_out}, {at.tokens_per_second:,.0f} tokens/s"
            stage.advance(at.step, settings.training.steps, "steps", note)

        done = run(ready, report=report, say=lambda text: err().print(text, markup=False))
    if not is_first():
        return

    result: dict[str, Any] = {
        "checkpoint": str(done.checkpoint),
        "step": done.step,
        "learning_rate": rate,
        "loss": done.loss,
        "held_out_loss": done.held_out_loss,
        "best_loss": done.best_loss,
        "tokens_seen": done.tokens_seen,
        "stopped": done.stopped,
        "input_share": done.input_share,
    }

    def render(console: Console) -> None:
        if done.stopped:
            console.print(f"stopped early: {done.stopped}")
        held_out = "" if done.held_out_loss is None else f", held out {done.held_out_loss:.4f}"
        steps = settings.training.steps
        if done.loss is None and not done.stopped:
            console.print(f"nothing was left to do: it stands at step {done.step}, and training.steps is {steps}")
        else:
            loss = "" if done.loss is None else f"loss {done.loss:.4f}{held_out}, "
            console.print(f"step {done.step}: {loss}{done.tokens_seen:,} tokens seen")
        console.print(f"wrote {done.checkpoint}", markup=False)

    emit(result, render)


def _settings(
    config: Path | None,
    changes: list[str],
    data: list[str],
    out: Path | None,
    resume: Path | None,
    tokenizer: str | None,
) -> "RunConfig":
    from tprog import UsageError

    from tritter_jax.train.config import RunConfig
    from tritter_jax.train.resume import SETTINGS

    if resume is not None:
        if config is not None or out is not None:
            raise UsageError(
                "--resume", expected="to be given alone", got="--config or --out as well",
                remedy="Override fields of the run with --set.",
            )  # fmt: skip
        config, out = resume / SETTINGS, resume
    shorts = (
        ("--data", data, "data.train"), ("--tokenizer", tokenizer, "data.tokenizer"),
        ("--resume" if resume else "--out", out, "output.directory"),
    )  # fmt: skip
    for option, given, field in shorts:
        twice = [change for change in changes if change.partition("=")[0].strip() == field]
        if given and twice:
            raise UsageError(
                option, expected=f"{field} to be said once", got=f"{option} and --set {twice[0]}",
                remedy="Leave one of them out.",
            )  # fmt: skip
    places: dict[str, dict[str, Any]] = {}
    chosen = ({"train": data[0] if len(data) == 1 else data} if data else {}) | (
        {"tokenizer": tokenizer} if tokenizer else {}
    )
    if chosen:
        places["data"] = chosen
    if out is not None:
        places["output"] = {"directory": str(out)}
    return RunConfig.load(config, changes, places) if config else RunConfig.parse({}, changes, places)
