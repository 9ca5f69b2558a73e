"""tritter info: what a checkpoint is."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree
from tprog import config_to_json, count_parameters, size_label

from tritter_jax.cli.arguments import source_path
from tritter_jax.cli.output import JsonOption, emit, human_bytes, ranges


def info(
    path: Annotated[str, typer.Argument(help="A .tprog, a Hugging Face directory, or a size: the newest one here.")],
    json: JsonOption = False,
) -> None:
    """Show a checkpoint's size, files, training progress and past expansions. Reads no weights.

    Example: tritter info tritter-3B-0.tprog
    """
    from tprog.reader import open_checkpoint

    checkpoint = open_checkpoint(source_path(path))
    config, progressive = checkpoint.config, checkpoint.progressive
    stored: dict[str, int] = {}
    for spec in checkpoint.specs.values():
        stored[spec.dtype.name] = stored.get(spec.dtype.name, 0) + spec.nbytes
    files = {
        entry.relative_to(checkpoint.path).as_posix(): entry.stat().st_size
        for entry in sorted(checkpoint.path.rglob("*"))
        if entry.is_file()
    }
    result: dict[str, Any] = {
        "path": str(checkpoint.path),
        "family": config.family,
        "size": size_label(config),
        "parameters": count_parameters(config),
        "bytes_by_dtype": stored,
        "config": config_to_json(config),
        "progressive": progressive.to_json(),
        "files": files,
    }

    def render(console: Console) -> None:
        tree = Tree(f"[bold]{escape(str(checkpoint.path))}[/bold]")
        model = tree.add(f"{config.family} {size_label(config)}: {count_parameters(config):,} parameters")
        model.add(f"{config.num_layers} layers, hidden {config.hidden_size:,}, feed-forward "
                  f"{config.intermediate_size:,}")  # fmt: skip
        model.add(f"{config.num_heads} query heads in {config.num_kv_heads} groups, each {config.head_dim} wide")
        tied = "tied" if config.tie_embeddings else "not tied"
        model.add(f"vocabulary {config.vocab_size:,}, embeddings {tied}")
        model.add(", ".join(f"{human_bytes(size)} of {dtype}" for dtype, size in stored.items()))
        if progress := progressive.training_progress:
            model.add(f"trained for {progress.steps:,} steps on {progress.tokens_seen:,} tokens")
        if progressive.expansion_history:
            lineage = tree.add("lineage")
            for entry in progressive.expansion_history:
                lineage.add(escape(_lineage(entry)))
        places = {"": tree.add("files")}
        for name, size in files.items():
            folder, _, leaf = name.rpartition("/")
            if folder not in places:
                places[folder] = places[""].add(f"{escape(folder)}/")
            places[folder].add(f"{escape(leaf)}  [dim]{human_bytes(size)}[/dim]")
        console.print(tree)

    emit(result, json, render)


def _lineage(entry: Any) -> str:
    parts = [f"{entry.from_size} -> {entry.to_size}, {entry.method}"]
    if entry.plan and entry.plan.get("new_layers"):
        parts.append(f"new layers {ranges(entry.plan['new_layers'])}")
    if entry.measured_drift and "max_relative" in entry.measured_drift:
        parts.append(f"drift {entry.measured_drift['max_relative']:.1e}")
    if entry.tokens_after:
        parts.append(f"{entry.tokens_after:,} tokens since")
    return ", ".join(parts)
