"""tritter analyze: what each layer of a model is worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tritter_jax.cli.arguments import Own, ReadWith, output_file, own_path
from tritter_jax.cli.output import emit, ranges, table
from tritter_jax.cli.progress import stages

if TYPE_CHECKING:
    from tritter_jax.train.analyze import Analyzed


def analyze(
    path: Own,
    data: Annotated[str, typer.Option(help="What to measure on: a file, directory, glob, builtin:prose.")],
    samples: Annotated[int, typer.Option(help="Number of rows at most, taken at even distances.", min=1)] = 256,
    batch_size: Annotated[int, typer.Option(help="Rows at a time.", min=1)] = 8,
    sequence_length: Annotated[int, typer.Option(help="Tokens scored in a row.", min=1)] = 256,
    everything: Annotated[bool, typer.Option("--all", help="Use all documents, not the held-out ones only.")] = False,
    plot: Annotated[Path, typer.Option(help="The picture to write.")] = Path("tritter-layers.png"),
    tokenizer: ReadWith = None,
) -> None:
    """Measure what each layer does: the loss without it, its block influence, the residual stream, Fisher mass.

    The scores are stored in progressive.json, where `tritter expand --positions importance` and `tritter recommend`
    find them. No weight is touched.

    Example: tritter analyze runs/run/tritter-52M-200.tprog --data builtin:prose
    """
    from tprog.reader import open_checkpoint

    from tritter_jax.analysis import plot_layers
    from tritter_jax.train.analyze import analyze as run

    checkpoint = open_checkpoint(own_path(path))
    output_file(plot)
    with stages() as stage:
        stage("measuring")
        done = run(
            checkpoint,
            data,
            samples=samples,
            batch_size=batch_size,
            sequence_length=sequence_length,
            everything=everything,
            tokenizer=tokenizer,
            report=lambda rows, total: stage.advance(rows, total, "rows"),
        )
    found = done.record
    drawn = plot_layers(
        done.measures,
        found.expendable_layers or [],
        found.critical_layers or [],
        plot,
        fisher=found.fisher_mass,
        title=f"{checkpoint.path.name} on {data}",
    )
    result: dict[str, Any] = {
        "path": str(checkpoint.path),
        "layer_analysis": found.to_json(),
        "loss_without_expendable": done.without_expendable,
        "loss_without_critical": done.without_critical,
        "plot": str(plot) if drawn else None,
    }
    emit(result, lambda console: _render(console, done, str(checkpoint.path), str(plot) if drawn else None))


_WIDTH = 30


def _render(console: Console, done: "Analyzed", path: str, plot: str | None) -> None:
    measures, found = done.measures, done.record
    scores, norms = measures.scores, measures.residual_norms
    expendable, critical = found.expendable_layers or [], found.critical_layers or []
    fisher = found.fisher_mass
    columns = ["layer", "importance", "", "loss without it", "block influence", "residual rms"]
    view = table(
        *columns, *(["Fisher mass"] if fisher else []), "", numbers=(0, 2, 3, 4, 5, 6) if fisher else (0, 2, 3, 4, 5)
    )
    most = max(*scores, 1e-12)
    for layer, score in enumerate(scores):
        mark, style = "", "blue"
        if layer in expendable:
            mark, style = "expendable", "yellow"
        elif layer in critical:
            mark, style = "critical", "magenta"
        more = measures.loss_when_skipped[layer] - measures.loss
        cells = [f"{score:.3f}", f"{more:+.4f}", f"{measures.block_influence[layer]:.3f}", f"{norms[layer]:.3g}"]
        if fisher:
            cells.append(f"{fisher[layer]:.3g}")
        view.add_row(str(layer), Text(bar(score / most, _WIDTH), style), *cells, mark)
    console.print(view)
    console.print(
        f"loss {measures.loss:.4f} nats a token over {measures.tokens:,} tokens of {found.data}", markup=False
    )
    for name, layers, without in (
        ("expendable", expendable, done.without_expendable),
        ("critical", critical, done.without_critical),
    ):
        if layers and without is not None:
            console.print(f"without the {name} layers {ranges(layers)}: {without - measures.loss:+.4f}")
    console.print(f"stored in {path}/progressive.json", markup=False)
    if plot is not None:
        console.print(f"The picture is {plot}.", markup=False)
    else:
        console.print("No picture: pip install 'tritter-jax[plots]'", markup=False)


def bar(share: float, width: int) -> str:
    """A bar of at most `width` cells, in eighths of a cell.

    Example:
        >>> bar(0.5, 4), bar(0.03125, 4)
        ('██', '▏')
    """
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])
