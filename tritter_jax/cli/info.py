"""tritter info: what a checkpoint is."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree
from tprog import config_to_json, count_parameters, size_label
from tprog.errors import MOST_FINDINGS
from tprog.locate import hub_source, perhaps_a_directory
from tprog.printable import cut, printable

from tritter_jax.cli.arguments import Source, source_path
from tritter_jax.cli.output import emit, human_bytes, ranges

if TYPE_CHECKING:
    from tprog.schema import Expansion


def info(
    path: Source,
) -> None:
    """Show a checkpoint's size, files, training progress and past expansions. Reads no weights, nor fetches any.

    Examples:
        tritter info tritter-3B-0.tprog
        tritter info org/model
    """
    from tprog.disk import file_lengths
    from tprog.reader import open_checkpoint, read_description

    stored: dict[str, int] = {}
    if (source := hub_source(path)) is not None:
        from tprog.hub import look

        with perhaps_a_directory(path):
            place, files = look(source)
        config, progressive = read_description(place)
    else:
        checkpoint = open_checkpoint(source_path(path))
        place, config, progressive = checkpoint.path, checkpoint.config, checkpoint.progressive
        files = file_lengths(place)
        for spec in checkpoint.specs.values():
            stored[spec.dtype.name] = stored.get(spec.dtype.name, 0) + spec.nbytes
    result: dict[str, Any] = {
        "path": str(place if source is None else source),
        "family": config.family,
        "size": size_label(config),
        "parameters": count_parameters(config),
        "bytes_by_dtype": stored,
        "config": config_to_json(config),
        "progressive": progressive.to_json(),
        "files": files,
    }

    def render(console: Console) -> None:
        tree = Tree(Text(printable(result["path"]), "bold"))
        model = tree.add(f"{config.family} {size_label(config)}: {count_parameters(config):,} parameters")
        model.add(f"{config.num_layers} layers, hidden {config.hidden_size:,}, feed-forward "
                  f"{config.intermediate_size:,}")  # fmt: skip
        model.add(f"{config.num_heads} query heads in {config.num_kv_heads} groups, each {config.head_dim} wide")
        tied = "tied" if config.tie_embeddings else "not tied"
        model.add(f"vocabulary {config.vocab_size:,}, embeddings {tied}")
        if stored:
            model.add(", ".join(f"{human_bytes(size)} of {dtype}" for dtype, size in stored.items()))
        if progress := progressive.training_progress:
            model.add(f"trained for {progress.steps:,} steps on {progress.tokens_seen:,} tokens")
        if progressive.expansion_history:
            lineage = tree.add("lineage")
            for line in cut([printable(_lineage(entry)) for entry in progressive.expansion_history], MOST_FINDINGS):
                lineage.add(line)
        places = {"": tree.add("files")}
        for name, size in list(files.items())[:MOST_FINDINGS]:
            folder, _, leaf = name.rpartition("/")
            if folder not in places:
                places[folder] = places[""].add(f"{printable(folder)}/")
            places[folder].add(Text.assemble(printable(leaf), "  ", (human_bytes(size), "dim")))
        for line in cut((), 0, max(0, len(files) - MOST_FINDINGS)):
            places[""].add(line)
        console.print(tree)

    emit(result, render)


def _lineage(entry: "Expansion") -> str:
    parts = [f"{entry.from_size} -> {entry.to_size}, {entry.method}"]
    if entry.new_layers:
        parts.append(f"new layers {ranges(entry.new_layers)}")
    if measured := entry.described_drift:
        parts.append(f"drift {measured}")
    if entry.tokens_after:
        parts.append(f"{entry.tokens_after:,} tokens since")
    return ", ".join(parts)
