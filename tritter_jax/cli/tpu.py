"""tritter tpu: what a configuration takes on a TPU, compiled on a machine that has none."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tritter_jax.cli import completion
from tritter_jax.cli.arguments import output_file
from tritter_jax.cli.output import emit, human_bytes, table
from tritter_jax.cli.progress import stages
from tritter_jax.cli.registry import command, new_app

if TYPE_CHECKING:
    from tritter_jax.aot import Check

app = new_app(no_args_is_help=True, help="Compile configurations for TPUs that are not here.")


@command(app, "check")
def check(
    configs: Annotated[list[Path], typer.Argument(help="Run configurations (TOML) with a [machine] section.")],
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: --set data.batch_size=32. May be repeated.")
    ] = None,
    remedies: Annotated[
        bool, typer.Option(help="Where a configuration does not fit, also compile what might make it fit.")
    ] = True,
    keep: Annotated[
        Path | None,
        typer.Option(help="A directory for what is compiled; what is in it already is not compiled again."),
    ] = None,
) -> None:
    """Compile what a configuration runs for its TPU, and show memory, work, and the least time a step can take.

    Exits with 1 where one does not fit.

    Example: tritter tpu check tpu_configs/3b-v5e-16.toml
    """
    from tritter_jax.aot import check as compiled
    from tritter_jax.train.config import RunConfig

    settings = [(path.stem, RunConfig.load(path, change or [])) for path in configs]
    with stages() as say:
        checks = [compiled(each, name, remedies=remedies, keep=keep, say=say) for name, each in settings]

    def render(console: Console) -> None:
        for one in checks:
            print_check(console, one)

    emit({"configurations": [one.to_json() for one in checks]}, render)
    if not all(one.fits for one in checks):
        raise typer.Exit(1)


@command(app, "plan")
def plan(
    size: Annotated[str, typer.Option(help="A named size.", autocompletion=completion.sizes)],
    topology: Annotated[str, typer.Option(help="A slice: v5e:4x8, or its accelerator name, v5e-32.")],
    slices: Annotated[int, typer.Option(help="Number of slices.", min=1)] = 1,
    sequence_length: Annotated[int, typer.Option(help="Tokens in a row.", min=2)] = 4096,
    compiled: Annotated[int, typer.Option(help="Candidates that fit to compile; each takes minutes.", min=1)] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Where the configuration goes; SIZE-TOPOLOGY.toml without.")
    ] = None,
) -> None:
    """Search meshes, batches and remat, compile the likeliest, and write the best as a run configuration.

    Example: tritter tpu plan --size 7B --topology v5e:4x8
    """
    from tprog import UsageError, named_size

    from tritter_jax.aot import Topology, best

    named_size(size)
    machine = Topology.parse(topology, slices)
    path = out or Path(f"{size.lower()}-{machine.name.replace(':', '-')}.toml")
    if path.exists():
        raise UsageError(path, expected="a new file", got="one that exists", remedy="Choose another name with --out.")
    output_file(path)
    with stages() as say:
        chosen, tried = best(size, machine, sequence_length=sequence_length, compiled=compiled, say=say)
    path.write_text(chosen.settings.to_toml(), encoding="utf-8")

    def render(console: Console) -> None:
        view = table("candidate", "memory", "step", "tokens/s", "", numbers=(1, 2, 3))
        for one in tried:
            step = rate = "-"
            if one.fits:
                least, most = max(one.times().values()), sum(one.times().values())
                step = f"{least:.3f} to {most:.3f} s"
                rate = f"{one.tokens / most:,.0f} to {one.tokens / least:,.0f}"
            note = "best" if one is chosen else "" if one.fits else "does not fit"
            view.add_row(one.name, human_bytes(one.needed), step, rate, note)
        console.print(view)
        print_check(console, chosen)
        console.print(f"wrote {path}", markup=False)

    emit({"path": str(path), "best": chosen.to_json(), "tried": [one.to_json() for one in tried]}, render)


def print_check(console: Console, one: "Check") -> None:
    """A configuration for a person."""
    said = one.to_json()
    chip = one.topology.chip
    slices = f"{one.topology.slices} x " if one.topology.slices > 1 else ""
    console.print(
        f"{one.name}: {said['program']}, {said['parameters']:,} parameters on {slices}{said['topology']} "
        f"({said['devices']} devices)",
        markup=False,
    )
    memory = said["memory"]
    if not one.fits:
        console.print(
            f"  does NOT fit: {human_bytes(memory['needed'])} a device, {human_bytes(said['short_by'])} more than "
            f"the {human_bytes(memory['available'])} there are"
        )
        for tried in one.remedies:
            needs = f" ({human_bytes(tried.needed)})" if tried.needed else ""
            console.print(f"  {tried}: {'would fit' if tried.fits else 'would not fit either'}{needs}", markup=False)
        return
    kinds = ", ".join(
        f"{name} {human_bytes(memory[name])}" for name in ("arguments", "temporaries", "outputs", "code")
    )
    peak = f"; peak {human_bytes(memory['peak'])}" if "peak" in memory else ""
    console.print(
        f"  memory      {human_bytes(memory['needed'])} of {human_bytes(memory['available'])}: {kinds}{peak}"
    )
    console.print(
        f"  a step      {said['flops'] / 1e12:.4g} TFLOP of products, {human_bytes(said['bytes'])} of memory"
    )
    for row in said["collectives"]:
        across = " across slices" if row["across_slices"] else ""
        console.print(f"  {row['count']:7,} x  {row['kind']}{across}, {human_bytes(row['bytes'])} received")
    roofline = said["roofline"]
    steps, use = roofline["step_seconds"], roofline["utilisation"]
    parts = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in roofline["seconds"].items() if seconds)
    console.print(f"  at peak     {parts}")
    console.print(
        f"  estimate    {steps['all_overlapped']:.3f} s a step if all of it overlaps, "
        f"{steps['none_overlapped']:.3f} s if nothing does; bound by {roofline['bound_by']}"
    )
    if one.tokens:
        rates = roofline["tokens_per_second"]
        console.print(
            f"              {rates['all_overlapped']:,.0f} to {rates['none_overlapped']:,.0f} tokens/s, utilisation "
            f"{use['all_overlapped']:.0%} to {use['none_overlapped']:.0%} of {chip.flops / 1e12:.4g} TFLOP/s"
        )
    for gathered in one.whole:
        console.print(f"  WHOLE PARAMETER gathered outside the layers' loop: {gathered}", markup=False)
    if one.cost is not None and one.cost.unknown:
        console.print(f"  {one.cost.unknown} loops of unknown length, or transfers of unknown kind, counted once")
