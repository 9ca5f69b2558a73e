"""tritter card: a checkpoint's model card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from tprog import UsageError

from tritter_jax.cli.arguments import Own, own_path
from tritter_jax.cli.output import emit

BaseModel = Annotated[str | None, typer.Option(help="The model of the Hub that it was made from: org/name.")]
License = Annotated[str | None, typer.Option("--license", help="Its licence, where known, such as apache-2.0.")]
Metrics = Annotated[
    Path | None, typer.Option(help="A run's directory or metrics.jsonl, for the card's table and picture of losses.")
]


def card(
    source: Own,
    base_model: BaseModel = None,
    license_: License = None,
    metrics: Metrics = None,
) -> None:
    """Write README.md into a checkpoint: what it is, how it grew, how to load it; with the pictures in plots/, where
    those of its loss (with --metrics) and of its layers (once analysed) are drawn.

    A card that is there is brought up to date: what stands outside the markers stays, and so does a section between
    them that you edited.

    Example: tritter card tritter-7B-0.tprog --license apache-2.0
    """
    from tprog.card import write_card
    from tprog.reader import open_checkpoint

    from tritter_jax.report.pictures import draw_pictures

    checkpoint, lines = open_checkpoint(own_path(source)), metrics_of(metrics)
    pictures = draw_pictures(checkpoint, lines)
    path, edited = write_card(checkpoint, base_model=base_model, license=license_, metrics=lines)

    def render(console: Console) -> None:
        for written in (path, *pictures):
            console.print(str(written), markup=False)
        tell_edited(console, edited)

    result = {"path": str(path), "edited_sections": list(edited), "drawn": [str(each) for each in pictures]}
    emit(result, render)


def metrics_of(path: Path | None) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where no run is named.

    Raises:
        UsageError: there are none.
    """
    if path is None:
        return []
    from tritter_jax.train.metrics import METRICS, read_metrics

    lines = read_metrics(path.parent if path.name == METRICS else path)
    if not lines:
        raise UsageError(path, expected=f"a run with {METRICS}", got="none", remedy="Check the path.")
    return lines


def tell_edited(console: Console, edited: Sequence[str]) -> None:
    """Say which sections were left as somebody edited them."""
    if edited:
        console.print(f"edited by hand, and left so: {', '.join(edited)}", markup=False)
