"""tritter diff: what differs between two checkpoints."""

from typing import Annotated, Any

import typer
from rich.console import Console
from tprog.errors import MOST_FINDINGS
from tprog.printable import cut, printable

from tritter_jax.cli.arguments import Source, source_path
from tritter_jax.cli.output import emit, table


def diff(
    a: Source,
    b: Source,
    most: Annotated[int, typer.Option(help="How many tensors to print, the farthest apart first.", min=0)] = 20,
) -> None:
    """Name what differs: configuration, metadata, and tensors by their largest difference.

    Exits with 0 where the models are the same, with 4 where they differ.

    Example: tritter diff tritter-3B-0.tprog tritter-3B-1000.tprog
    """
    from tprog.diff import diff as compare

    found = compare(source_path(a), source_path(b))

    def render(console: Console) -> None:
        for title, fields in (("config", found.config), ("metadata", found.metadata)):
            lines = [f"{name}: {_short(one)} -> {_short(other)}" for name, (one, other) in fields.items()]
            for line in cut(lines, MOST_FINDINGS):
                console.print(f"{title} {printable(line)}")
        for which, names in ((a, found.only_a), (b, found.only_b)):
            if names:
                console.print(f"only in {which}: {len(names)} tensors, {_listed(names)}")
        if found.tensors[:most]:
            view = table("tensor", "largest difference", "relative", "", numbers=(1, 2))
            for entry in found.tensors[:most]:
                numbers = ["" if n is None else f"{n:.2e}" for n in (entry.largest, entry.relative)]
                view.add_row(printable(entry.name), *numbers, entry.what)
            console.print(view)
        more = max(0, len(found.tensors) - most)
        console.print(
            f"{found.equal} tensors equal, {len(found.tensors)} different" + (f" ({more} not shown)" if more else "")
        )

    result: dict[str, Any] = {
        "same_model": found.same_model,
        "config": {name: list(pair) for name, pair in found.config.items()},
        "metadata": {name: list(pair) for name, pair in found.metadata.items()},
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
        "tensors": [
            {"name": entry.name, "largest": entry.largest, "relative": entry.relative, "what": entry.what}
            for entry in found.tensors
        ],
        "equal": found.equal,
    }
    emit(result, render)
    if not found.same_model:
        raise typer.Exit(4)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(printable, names[:3])) + (" ..." if len(names) > 3 else "")


def _short(value: object) -> str:
    return printable(repr(value), most=80)
