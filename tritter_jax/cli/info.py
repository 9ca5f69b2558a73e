"""tritter info: what a checkpoint is."""

from typing import Annotated, Any

import typer
from rich.console import Console
from tprog import config_to_json, count_parameters, size_label

from tritter_jax.cli.arguments import source_path
from tritter_jax.cli.output import JsonOption, emit, human_bytes, ranges, table


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
        view = table("", "")
        view.add_row("family", config.family)
        view.add_row("size", f"{size_label(config)}: {count_parameters(config):,} parameters")
        view.add_row("shape", f"{config.num_layers} layers, hidden {config.hidden_size:,}, "
                     f"{config.num_heads} heads in {config.num_kv_heads} groups of width {config.head_dim}, "
                     f"feed-forward {config.intermediate_size:,}, vocabulary {config.vocab_size:,}")  # fmt: skip
        view.add_row("embeddings", "tied" if config.tie_embeddings else "not tied")
        view.add_row("weights", ", ".join(f"{human_bytes(size)} {dtype}" for dtype, size in stored.items()))
        if progress := progressive.training_progress:
            view.add_row("trained", f"{progress.steps:,} steps, {progress.tokens_seen:,} tokens")
        for entry in progressive.expansion_history:
            view.add_row("grown", _lineage(entry))
        for name, size in files.items():
            view.add_row("file", f"{name}  [dim]{human_bytes(size)}[/dim]")
        console.print(view)

    emit(result, json, render)


def _lineage(entry: Any) -> str:
    parts = [f"{entry.from_size} -> {entry.to_size}, {entry.method}"]
    if entry.plan and entry.plan.get("new_layers"):
        parts.append(f"new layers {ranges(entry.plan['new_layers'])}")
    if entry.measured_drift:
        parts.append(f"drift {entry.measured_drift['max_relative']:.1e}")
    return ", ".join(parts)
