"""What `tritter` alone shows: what lies here, and the commands that come next."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from tprog import SIZES, TritterError, count_parameters, named_size
from tprog.layout import CONFIG, PROGRESSIVE, progress
from tprog.printable import printable

from tritter_jax.cli.arguments import has, is_run_directory
from tritter_jax.cli.output import emit

if TYPE_CHECKING:
    from tprog.schema import Progressive


@dataclass(frozen=True)
class Step:
    """A command, and what it is good for."""

    command: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What was found, in words, and what can be done with it.

    Args:
        found: what lies here.
        path: where; None where there is nothing to work on.
        steps: the likeliest commands first.
    """

    found: str
    path: Path | None
    steps: tuple[Step, ...]


def guide(directory: Path = Path()) -> Guide:
    """Look at a directory for the run that was last at work and the checkpoint that has come furthest, and say what
    comes next for the one that was changed last.

    Models of other makers count where there is neither.

    Example:
        >>> import tempfile
        >>> [step.command for step in guide(Path(tempfile.mkdtemp())).steps][0]
        'tritter demo'
    """
    places = [directory, *sorted(path for path in directory.glob("*") if not path.name.startswith("."))]
    runs = [path for path in [*places, *directory.glob("runs/*")] if is_run_directory(path)]
    checkpoints = [path for path in places if _is_checkpoint(path)]
    found: list[tuple[int, Path, Callable[[Path], Guide]]] = []
    if runs:
        run = max(runs, key=_worked_at)
        found.append((_worked_at(run), run, _of_run))
    if checkpoints:
        furthest = max(checkpoints, key=progress)
        found.append((_changed(furthest), furthest, _of_checkpoint))
    found = found or [(_changed(path), path, _of_model) for path in places if _is_model(path)]
    if not found:
        return _of_nothing()
    _, path, describe = max(found, key=lambda each: each[0])
    return describe(path)


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def _worked_at(run: Path) -> int:
    """When a run was last at work: a report in its directory, or advice in one of its checkpoints, is no work."""
    from tritter_jax.train.metrics import METRICS

    return _changed(run / METRICS if has(run, METRICS) else run)


def show_guide() -> None:
    """Print what comes next in the working directory."""
    found = guide()

    def render(console: Console) -> None:
        console.print(f"{found.found} Next:\n", markup=False)
        width = max(len(step.command) for step in found.steps)
        for step in found.steps:
            console.print(f"  {step.command:{width}}  # {step.what}", markup=False, soft_wrap=True)
        console.print("\nAll commands: tritter --help. Each takes --help, --json, --quiet and --verbose.")

    steps: list[dict[str, Any]] = [{"command": step.command, "what": step.what} for step in found.steps]
    path = None if found.path is None else str(found.path)
    emit({"found": found.found, "path": path, "next": steps}, render)


def _is_checkpoint(path: Path) -> bool:
    """Whether it is a checkpoint, or is called one: what is wrong with it then is for `tritter verify` to say."""
    return has(path, PROGRESSIVE) or (path.suffix == ".tprog" and path.is_dir())


def _is_model(path: Path) -> bool:
    return has(path, CONFIG) and any(path.glob("*.safetensors"))


def _of_nothing() -> Guide:
    steps = (
        Step("tritter demo", "the whole job on a small model; needs nothing"),
        Step("tritter plan --from 3B --to 7B", "what growing would do, and what is guaranteed"),
        Step("tritter import ./Llama-3.2-1B llama-1B-0.tprog", "begin with a Hugging Face model directory"),
        Step("tritter train --set model.size=test --data builtin:prose", "train a small model on text that is here"),
    )
    return Guide(found="There is no checkpoint and no run in this directory.", path=None, steps=steps)


def _of_model(path: Path) -> Guide:
    name = path.resolve().name
    steps = (
        Step(f"tritter info {_quoted(path)}", "what it is"),
        Step(f"tritter import {_quoted(path)} {shlex.quote(f'{name}.tprog')}", "take it over, bit for bit"),
        Step(f"tritter analyze {_quoted(path)} --data builtin:prose", "what each layer is worth"),
    )
    return Guide(found=f"A Hugging Face model directory: {path}.", path=path, steps=steps)


def _of_run(path: Path) -> Guide:
    run = _quoted(path)
    steps = (
        Step(f"tritter train --resume {run}", "go on where its last checkpoint was saved"),
        Step(f"tritter recommend {run} --when", "at which step growing wins over going on"),
        Step(f"tritter report {run}", "losses, layers and lineage on one page"),
    )
    return Guide(found=f"A run: {path}.", path=path, steps=steps)


def _of_checkpoint(path: Path) -> Guide:
    from tprog.schema import read_progressive

    name = _quoted(path)
    try:
        known = read_progressive(path / PROGRESSIVE)
    except TritterError:
        step = Step(f"tritter verify {name}", "what is wrong with it: its progressive.json cannot be read")
        return Guide(found=f"A checkpoint: {path}.", path=path, steps=(step,))
    steps = [_advice(name, known), Step(f"tritter info {name}", "what it is")]
    if (larger := _larger(known)) is not None:
        steps.append(Step(f"tritter plan --from {name} --to {larger}", "what growing would do"))
    train = Step(f"tritter train --set model.checkpoint={name} --data builtin:prose", "train it on")
    steps.append(
        Step(f"tritter export {name} model --to hf", "for mlx-lm, and others that read model*.safetensors alone")
    )
    steps.insert(0 if _just_grown(known) else len(steps), train)
    return Guide(found=f"A checkpoint: {path}.", path=path, steps=tuple(steps))


def _advice(name: str, known: "Progressive") -> Step:
    if (advised := known.recommended_expansion) is not None:
        return Step(f"tritter expand --from {name}", f"grow it to {printable(advised.next_size)}, as recommended")
    if known.layer_analysis is not None:
        return Step(f"tritter recommend {name}", "what to grow into next, and why")
    return Step(f"tritter analyze {name} --data builtin:prose", "what each layer is worth, on this or your own text")


def _just_grown(known: "Progressive") -> bool:
    return bool(known.expansion_history) and not known.expansion_history[-1].tokens_after


def _larger(known: "Progressive") -> str | None:
    """The smallest named size above a checkpoint's, where that has one."""
    name = known.current_size.model_size
    if name not in SIZES:
        return None
    counts = {size: count_parameters(named_size(size)) for size in SIZES}
    return min((size for size in SIZES if counts[size] > counts[name]), key=lambda size: counts[size], default=None)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
