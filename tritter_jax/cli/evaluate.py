"""tritter eval and tritter generate: how well a model predicts text, and what it writes."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tritter_jax.cli.arguments import MAX_SEED, ReadWith, Source, own_path, source_path
from tritter_jax.cli.output import emit, out, table
from tritter_jax.cli.progress import stages


def eval_(
    path: Source,
    data: Annotated[list[str], typer.Option(help="A text file, directory, glob or builtin:prose. May be repeated.")],
    batch_size: Annotated[int, typer.Option(help="Rows at a time.", min=1)] = 8,
    sequence_length: Annotated[int, typer.Option(help="Tokens scored in a row.", min=1)] = 256,
    everything: Annotated[
        bool, typer.Option("--all", help="Score all documents, not the held-out ones only.")
    ] = False,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="An earlier checkpoint to compare with, oldest first. May be repeated; with one fewer than data "
            "sets, each learned the data set of its number."
        ),
    ] = None,
    untrained: Annotated[
        str | None,
        typer.Option(help="Beside --baseline: the model before it learned anything, for forward transfer."),
    ] = None,
    store: Annotated[
        bool,
        typer.Option("--store", help="Beside --baseline: write the losses into the checkpoint's progressive.json."),
    ] = False,
    tokenizer: ReadWith = None,
) -> None:
    """Print loss, perplexity and bits per byte of each data set; against earlier checkpoints also what was forgotten.

    Example: tritter eval after-b.tprog --baseline after-a.tprog --data a.txt --data b.txt
    """
    from tprog import UsageError
    from tprog.amend import amend, require_amendable
    from tprog.reader import open_checkpoint

    if not baseline and (untrained or store):
        raise UsageError(
            "--untrained, --store",
            expected="--baseline beside them",
            got="none",
            remedy="Name an earlier checkpoint.",
        )
    if store:
        own_path(path)  # raises where it would be written into the Hub's cache
    with stages() as stage:
        stage("starting")
        from tritter_jax.train.forgetting import compare

        checkpoint, *others = (
            open_checkpoint(source_path(each, parts=("tokenizer",)))
            for each in (path, *(baseline or ()), *((untrained,) if untrained else ()))
        )
        if store:
            require_amendable(checkpoint.path)
        done = compare(
            checkpoint,
            others[: len(baseline or ())],
            data,
            untrained=others[-1] if untrained else None,
            stage=stage,
            batch_size=batch_size,
            sequence_length=sequence_length,
            everything=everything,
            tokenizer=tokenizer,
        )
        if store:
            amend(checkpoint.path, task_losses=done.losses.to_json())
    kept = done.losses.by_task
    before = done.losses.losses[-2] if baseline else [None] * len(data)

    def render(console: Console) -> None:
        more = ("difference", "forgetting") if baseline else ()
        numbers = tuple(range(1, 5 + len(more)))
        view = table("data", "loss (nats/token)", *more, "perplexity", "bits per byte", "tokens", numbers=numbers)
        for found, old, task in zip(done.now, before, kept, strict=True):
            change = (
                (_signed(None if old is None else found.loss - old), _signed(task.forgetting)) if baseline else ()
            )
            view.add_row(
                escape(found.data),
                f"{found.loss:.4f}",
                *change,
                f"{found.perplexity:.2f}",
                f"{found.bits_per_byte:.4f}",
                f"{found.tokens:,}",
            )
        console.print(view)
        for name in ("average_loss", "forgetting", "backward_transfer", "forward_transfer"):
            value = getattr(done.losses, name)
            if baseline and value is not None:
                console.print(f"{name.replace('_', ' ')}: {value:+.4f}")
        if store:
            console.print(f"stored in {checkpoint.path}/progressive.json", markup=False)

    rows: list[dict[str, Any]] = [
        {
            "data": found.data,
            "loss": found.loss,
            "perplexity": found.perplexity,
            "bits_per_byte": found.bits_per_byte,
            "tokens": found.tokens,
        }
        | ({} if old is None else {"difference": found.loss - old, "forgetting": task.forgetting})
        for found, old, task in zip(done.now, before, kept, strict=True)
    ]
    result: dict[str, Any] = {"path": str(checkpoint.path), "results": rows}
    emit(result | ({"task_losses": done.losses.to_json()} if baseline else {}), render)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def generate(
    path: Source,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")] = "\n",
    length: Annotated[int, typer.Option(help="Number of tokens to add.", min=1)] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time.", min=0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw among the likeliest k; 0 for all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0, max=MAX_SEED)] = 0,
    tokenizer: ReadWith = None,
) -> None:
    """Sample text from a checkpoint, for a look at the model.

    Example: tritter generate runs/run/tritter-52M-200.tprog --prompt "The "
    """
    from tprog import UsageError
    from tprog.reader import open_checkpoint

    for option, value in (("--top-k", top_k), ("--seed", seed)):
        if value and not temperature:
            raise UsageError(
                option, expected="a --temperature above 0: at 0 nothing is drawn", got=value,
                remedy=f"Leave {option} out, or raise --temperature.",
            )  # fmt: skip
    checkpoint = open_checkpoint(source_path(path, parts=("tokenizer",)))
    with stages() as stage:
        stage("sampling")
        import jax
        import jax.numpy as jnp
        import tprog.flax

        from tritter_jax.data import choose_tokenizer
        from tritter_jax.model import generate as sample

        reader = choose_tokenizer(checkpoint, tokenizer)
        told = [int(token) for token in reader.encode(prompt)]
        ids = jnp.asarray([*reader.before, *told], jnp.int32)[None]
        made = sample(
            tprog.flax.load(checkpoint),
            ids,
            checkpoint.config,
            length=length,
            key=jax.random.key(seed),
            temperature=temperature,
            top_k=top_k,
        )
        text = reader.continuation(told, [int(token) for token in made[0]])

    emit({"prompt": prompt, "text": text}, lambda _: out().print(prompt + text, markup=False))
