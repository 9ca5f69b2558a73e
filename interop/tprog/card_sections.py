"""The sections of a model card that are made from what a checkpoint knows of itself; each is Markdown, or empty."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tprog.card_merge import TITLE
from tprog.families import FAMILIES
from tprog.forgetting import forgetting_matrix
from tprog.hub_files import PARTS
from tprog.layout import TOKENIZER
from tprog.printable import LONGEST_MESSAGE, cut, markdown, printable
from tprog.reader import Checkpoint
from tprog.schema import Expansion
from tprog.sizes import count_parameters, size_label
from tprog.tokenizer_copies import missing_copies

_MOST = 200
_BY_NAME = "Programs that read nothing but `model*.safetensors`, such as mlx-lm, take a plain Hugging Face directory:"


def sections(
    checkpoint: Checkpoint, name: str, *, metrics: Sequence[Mapping[str, Any]] = (), plots: Iterable[str] = ()
) -> dict[str, str]:
    """Every section by its name, in the order of the card.

    Args:
        checkpoint: the model.
        name: what code calls it: `org/name`, or the path of its directory.
        metrics: lines of a run's metrics.jsonl.
        plots: relative names of pictures.
    """
    return {
        TITLE: f"# {markdown(name.partition('@')[0].rpartition('/')[2])}",
        "architecture": _architecture(checkpoint),
        "lineage": _lineage(checkpoint.progressive.expansion_history),
        "new-layers": _new_layers(checkpoint.progressive.expansion_history),
        "loading": _loading(checkpoint, name),
        "losses": _losses(checkpoint, metrics),
        "plots": "\n\n".join(f"![{markdown(plot)}]({quote(plot)})" for plot in plots),
    }


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown.

    Example:
        >>> print(table(("a", "b"), [(1, "x|y")]))
        | a | b |
        |---|---|
        | 1 | x\\|y |
    """
    lines = [columns, *rows]
    cells = [
        [printable(" ".join(str(cell).split()), LONGEST_MESSAGE).replace("|", "\\|") for cell in line]
        for line in lines
    ]
    drawn = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([drawn[0], "|" + "---|" * len(columns), *drawn[1:]])


def _architecture(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    dtypes = sorted({spec.dtype.name for spec in checkpoint.specs.values()})
    rows = (
        ("parameters", f"{count_parameters(config):,} ({size_label(config)})"),
        ("family", f"{config.family} (`{FAMILIES[config.family].architecture}` in transformers)"),
        ("layers", config.num_layers),
        ("hidden size", f"{config.hidden_size:,}"),
        ("feed-forward size", f"{config.intermediate_size:,}"),
        ("query heads", f"{config.num_heads}, each {config.head_dim} wide"),
        ("key and value heads", config.num_kv_heads),
        ("vocabulary", f"{config.vocab_size:,}, embeddings {'tied' if config.tie_embeddings else 'not tied'}"),
        ("context", f"{config.max_position_embeddings:,} tokens"),
        ("weights", ", ".join(dtypes)),
    )
    return "## Architecture\n\n" + table(("", ""), rows)


def _lineage(history: Sequence[Expansion]) -> str:
    if not history:
        return ""
    rows = [
        (
            number,
            f"{markdown(entry.from_size)} → {markdown(entry.to_size)}",
            markdown(entry.method.replace("_", " ")),
            _guarantee(entry),
            entry.described_drift or "not measured",
            f"{entry.tokens_after:,}",
        )
        for number, entry in enumerate(history, 1)
    ]
    columns = ("", "sizes", "method", "promised", "measured", "tokens trained on since")
    return (
        "## Lineage\n\nThis model was grown from a smaller one, oldest growth first. What was measured is the "
        "largest difference of the logits before and after, over the largest logit; the mean KL divergence of the "
        "predictions, in nats a token; and the share of positions with the same most likely token.\n\n"
        + table(columns, rows)
    )


def _guarantee(entry: Expansion) -> str:
    if entry.exact is None:
        return "not recorded"
    word = "the same function" if entry.exact else "not the same function"
    reason = (entry.guarantee or {}).get("reason")
    return f"{word}: {markdown(reason)}" if isinstance(reason, str) else word


def _new_layers(history: Sequence[Expansion]) -> str:
    lines = []
    for number, entry in enumerate(history, 1):
        plan = entry.plan or {}
        sources = plan.get("layer_sources")
        if not isinstance(sources, list) or not entry.new_layers:
            continue
        known = [layer for layer in entry.new_layers if layer in range(len(sources))]
        pairs = [f"{layer} (from {markdown(sources[layer])})" for layer in known]
        lines.append(f"- growth {number}, depth by {markdown(plan.get('depth'))}: {', '.join(cut(pairs, _MOST))}")
    if not lines:
        return ""
    intro = "Counted from 0, each with the layer of the smaller model that it was copied from."
    return f"## New layers\n\n{intro}\n\n" + "\n".join(lines)


def _loading(checkpoint: Checkpoint, name: str) -> str:
    remote = "/" in name
    where = f"fetch({name!r})" if remote else repr(name)
    bring = "from tprog.hub import fetch\n" if remote else ""
    repository, _, revision = name.partition("@")
    chosen = f", revision={revision!r}" if remote and revision else ""
    target = repr(repository if remote else name)
    blocks = [
        "from transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({target}{chosen}, dtype='auto')",
        f"import jax.numpy as jnp\nimport tprog.flax\n{bring}from tprog.reader import open_checkpoint\n"
        f"from tritter_jax.model import apply\n\ncheckpoint = open_checkpoint({where})\n"
        "params = tprog.flax.load(checkpoint)\n"
        "logits = apply(params, jnp.zeros((1, 8), jnp.int32), checkpoint.config)",
        f"import tprog.numpy\n{bring}\ntensors = tprog.numpy.load({where})  # by Hugging Face name, read lazily",
    ]
    if checkpoint.tokenizer_files:
        folder = f", subfolder={TOKENIZER!r}" if missing_copies(checkpoint.path) else ""
        blocks[0] = blocks[0].replace("AutoModelForCausalLM\n", "AutoModelForCausalLM, AutoTokenizer\n", 1)
        blocks[0] += f"\ntokenizer = AutoTokenizer.from_pretrained({target}{chosen}{folder})"
    titles = (
        "With transformers:",
        "In JAX, with `pip install 'tritter-jax[hub]'`:",
        "As numpy arrays, with `tprog`:",
    )
    text = "\n\n".join(f"{title}\n\n```python\n{block}\n```" for title, block in zip(titles, blocks, strict=True))
    text += f"\n\n{_BY_NAME}\n\n```sh\ntritter export {shlex.quote(printable(name))} model --to hf\n```"
    if remote:
        text += (
            f"\n\nOr as a directory; `--parts` takes some of {', '.join(PARTS)}:\n\n```sh\ntritter pull {name}\n```"
        )
    return f"## How to load it\n\n{text}"


def _losses(checkpoint: Checkpoint, metrics: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    progress = checkpoint.progressive.training_progress
    if progress is not None:
        lines.append(f"Trained for {progress.steps:,} steps on {progress.tokens_seen:,} tokens.")
        if progress.best_loss is not None:
            lines.append(f"Lowest held-out loss: {progress.best_loss:.4f} nats a token.")
    rows = [_course(name, metrics) for name in dict.fromkeys(key for line in metrics for key in line)]
    rows = [row for row in rows if row is not None]
    text = " ".join(lines)
    if rows:
        columns = ("nats a token", "first", "lowest", "at step", "last", "forgotten since the lowest")
        text += "\n\n" + table(columns, rows)
    text += _forgetting(checkpoint)
    return f"## Losses and forgetting\n\n{text.strip()}" if text else ""


def _forgetting(checkpoint: Checkpoint) -> str:
    """The loss of every task at every time, where `tritter eval --store` or a run has put it on record."""
    matrix = forgetting_matrix(checkpoint.progressive.to_json().get("task_losses"))
    if matrix is None:
        return ""
    rows = [(markdown(title), *(_number(cell.loss) for cell in cells)) for title, cells in matrix.rows]
    now = [None if cell.loss is None else cell.lost for cell in matrix.rows[-1][1]]
    rows.append(("forgotten since the lowest", *map(_number, now)))
    text = "\n\nLoss of each task, in nats a token, a row for each time it was measured.\n\n"
    text += table(("", *map(markdown, matrix.tasks)), rows)
    figures = ", ".join(f"{name} {value:+.4f}" for name, value in matrix.summary)
    return f"{text}\n\nIn all: {figures}." if figures else text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _course(name: str, metrics: Sequence[Mapping[str, Any]]) -> tuple[object, ...] | None:
    """What became of one loss: a row; None for what is no loss."""
    seen = [(line[name], line.get("step", 0)) for line in metrics if isinstance(line.get(name), float | int)]
    if "loss" not in name or not seen:
        return None
    (lowest, step), last = min(seen), seen[-1][0]
    title = markdown(name.replace("_", " "))
    return title, f"{seen[0][0]:.4f}", f"{lowest:.4f}", f"{step:,}", f"{last:.4f}", f"{last - lowest:.4f}"
