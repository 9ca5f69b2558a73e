"""tritter fisher: what a model needs to keep what it knows, measured on the data that it knows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tritter_jax.cli.arguments import MAX_SEED, ReadWith, Source, check_dtype, own_path, source_path
from tritter_jax.cli.output import emit, err
from tritter_jax.cli.progress import stages

if TYPE_CHECKING:
    from tritter_jax.continual import Progress


def fisher(
    path: Source,
    data: Annotated[str, typer.Option(help="What the model was trained on: a file, directory, glob, builtin:prose.")],
    samples: Annotated[int, typer.Option(help="Number of rows to measure on.", min=1)] = 10_000,
    estimator: Annotated[
        str, typer.Option(help="sampled: labels drawn from the model, unbiased; empirical: true labels, row by row.")
    ] = "sampled",
    draws: Annotated[int, typer.Option(help="Label draws a batch, for less noise.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="A new checkpoint; without, it is written into this one.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows at a time.", min=1)] = 8,
    sequence_length: Annotated[int, typer.Option(help="Tokens scored in a row.", min=1)] = 256,
    dtype: Annotated[str, typer.Option(help="Stored as float32 or bfloat16.")] = "float32",
    compute_dtype: Annotated[
        str | None, typer.Option(help="Computed in bfloat16 or float32; as the weights are without.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Where the checkpoint remembers tasks already: separate (keep all), online (the old ones fade by "
            "--gamma), or single (keep this one only)."
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(help="Beside --tasks online: what it multiplies the old information with; 1 without."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of rows and draws.", min=0, max=MAX_SEED)] = 0,
    mesh: Annotated[
        str | None,
        typer.Option(
            help="Devices along data, fsdp and tensor, as under [mesh]: data=-1, or fsdp=2,tensor=2,rules.vocab=none."
        ),
    ] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Join the other processes of this job, as `tritter train` does.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what was measured before an interruption.")
    ] = False,
    save_every: Annotated[float, typer.Option(help="Seconds between saves of what was measured.", min=0)] = 60.0,
    tokenizer: ReadWith = None,
) -> None:
    """Measure the diagonal of the Fisher information, for elastic weight consolidation, and store it with its anchor.

    After an interruption the same command goes on where it was.

    Example: tritter fisher tritter-52M-200.tprog --data builtin:prose --samples 1000
    """
    from tprog.reader import open_checkpoint

    from tritter_jax.sharding import make_mesh
    from tritter_jax.train.config import RunConfig
    from tritter_jax.train.fisher import measure_fisher
    from tritter_jax.train.processes import is_first, start_processes
    from tritter_jax.train.setup import mesh_rules, mesh_shape

    axes = RunConfig.parse({}, [f"mesh.{axis}" for axis in (mesh or "").split(",") if axis], where="--mesh").mesh
    start_processes(distributed=distributed)
    with stages(told=is_first()) as stage:

        def report(at: "Progress") -> None:
            stage.advance(at.rows, samples, "rows", f"change {at.change:.2e}")

        def say(text: str) -> None:
            if is_first():
                err().print(text, markup=False)

        stage("measuring")
        done = measure_fisher(
            open_checkpoint(own_path(path) if out is None else source_path(path)),
            data,
            out,
            samples=samples,
            estimator=estimator,
            draws=draws,
            batch_size=batch_size,
            sequence_length=sequence_length,
            seed=seed,
            stored=check_dtype(dtype) or dtype,
            compute=check_dtype(compute_dtype),
            tasks=tasks,
            gamma=gamma,
            mesh=make_mesh(mesh_shape(axes)),
            rules=mesh_rules(axes),
            restart=restart,
            save_every=save_every,
            tokenizer=tokenizer,
            report=report,
            say=say,
        )
    if not is_first():
        return
    result: dict[str, Any] = {
        "path": str(done.path),
        "samples": done.samples,
        "tokens": done.tokens,
        "relative_change": done.change,
        "ewc_config": done.ewc_config,
    }

    def render(console: Console) -> None:
        console.print(
            f"{estimator} Fisher information over {done.samples:,} rows, {done.tokens:,} tokens; "
            f"the last batch changed it by {done.change:.1e}"
        )
        console.print(f"wrote {done.path}", markup=False)

    emit(result, render)
