"""tritter eval and tritter generate: how well a model predicts text, and what it writes."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tritter_jax.cli.arguments import MAX_SEED, source_path
from tritter_jax.cli.output import JsonOption, emit, out, stages, table

Path_ = Annotated[str, typer.Argument(help="A checkpoint, a size: the newest one here, or org/name on the Hub.")]


def eval_(
    path: Path_,
    data: Annotated[list[str], typer.Option(help="A text file, directory, glob or builtin:prose. May be repeated.")],
    batch_size: Annotated[int, typer.Option(help="Rows at a time.", min=1)] = 8,
    sequence_length: Annotated[int, typer.Option(help="Tokens scored in a row.", min=1)] = 256,
    everything: Annotated[
        bool, typer.Option("--all", help="Score all documents, not the held-out ones only.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Print loss, perplexity and bits per byte of each data set.

    Example: tritter eval runs/run/tritter-52M-200.tprog --data builtin:prose
    """
    from tprog.reader import open_checkpoint

    with stages() as stage:
        stage("starting")
        from tritter_jax.train.evaluate import evaluate

        checkpoint = open_checkpoint(source_path(path, parts=("tokenizer",)))
        results = []
        for name in data:
            stage(f"scoring {name}")
            results.append(
                evaluate(
                    checkpoint, name, batch_size=batch_size, sequence_length=sequence_length, everything=everything
                )
            )

    def render(console: Console) -> None:
        view = table("data", "loss (nats/token)", "perplexity", "bits per byte", "tokens", numbers=(1, 2, 3, 4))
        for found in results:
            view.add_row(
                escape(found.data),
                f"{found.loss:.4f}",
                f"{found.perplexity:.2f}",
                f"{found.bits_per_byte:.4f}",
                f"{found.tokens:,}",
            )
        console.print(view)

    rows: list[dict[str, Any]] = [
        {
            "data": found.data,
            "loss": found.loss,
            "perplexity": found.perplexity if found.perplexity < float("inf") else None,
            "bits_per_byte": found.bits_per_byte,
            "tokens": found.tokens,
        }
        for found in results
    ]
    emit({"path": str(checkpoint.path), "results": rows}, json, render)


def generate(
    path: Path_,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")] = "\n",
    length: Annotated[int, typer.Option(help="Number of tokens to add.", min=1)] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time.", min=0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw among the likeliest k; 0 for all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0, max=MAX_SEED)] = 0,
    json: JsonOption = False,
) -> None:
    """Sample text from a checkpoint, for a look at the model.

    Example: tritter generate runs/run/tritter-52M-200.tprog --prompt "The "
    """
    from tprog.reader import open_checkpoint

    checkpoint = open_checkpoint(source_path(path, parts=("tokenizer",)))
    with stages() as stage:
        stage("sampling")
        import jax
        import jax.numpy as jnp
        import tprog.flax

        from tritter_jax.data import byte_tokenizer, load_tokenizer
        from tritter_jax.model import generate as sample

        tokenizer = load_tokenizer(checkpoint.path) if checkpoint.tokenizer_files else byte_tokenizer()
        ids = jnp.asarray(tokenizer.encode(prompt), jnp.int32)[None]
        made = sample(
            tprog.flax.load(checkpoint),
            ids,
            checkpoint.config,
            length=length,
            key=jax.random.key(seed),
            temperature=temperature,
            top_k=top_k,
        )
        text = tokenizer.decode([int(token) for token in made[0]])

    emit({"prompt": prompt, "text": text}, json, lambda _: out().print(prompt + text, markup=False))
