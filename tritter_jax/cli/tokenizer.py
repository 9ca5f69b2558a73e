"""tritter tokenizer: tokenizers of one's own, and one that was edited in a checkpoint."""

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from tprog.printable import printable

from tritter_jax.cli.arguments import Own, own_path
from tritter_jax.cli.output import emit, human_bytes
from tritter_jax.cli.progress import stages
from tritter_jax.cli.registry import command, new_app

app = new_app(help="Train a tokenizer on your own text, or put an edited one into effect.", no_args_is_help=True)

_SAMPLE = 1 << 20


@command(app, "train")
def train(
    data: Annotated[
        list[str],
        typer.Option(help="A text file, a directory, a glob, builtin:prose or builtin:code; may be repeated."),
    ],
    vocab_size: Annotated[int, typer.Option(help="Number of token ids; a multiple of 64 splits best.")],
    out: Annotated[Path, typer.Option(help="The directory to write.")],
    min_frequency: Annotated[int, typer.Option(help="How often a pair occurs before it becomes a token.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing tokenizer.")] = False,
) -> None:
    """Train a byte-level BPE tokenizer; the same text gives the same tokenizer.

    Example: tritter tokenizer train --data builtin:prose --vocab-size 2048 --out words
    """
    with stages() as stage:
        stage("listing")
        from tprog.commit import new_directory, refuse_taken

        from tritter_jax.data.corpus import open_corpus
        from tritter_jax.data.tokenizer import TOKENIZER_JSON
        from tritter_jax.data.vocabulary import train_bpe

        def is_ours(path: Path) -> bool:
            return (path / TOKENIZER_JSON).is_file()

        refuse_taken(out, overwrite=overwrite, is_ours=is_ours)
        corpora = [open_corpus(spec) for spec in data]
        documents = list(chain.from_iterable(corpora))
        stage("training")
        pieces = (piece for document in documents for piece in document.read())
        tokenizer = train_bpe(pieces, vocab_size, min_frequency=min_frequency)
        stage("measuring")
        sample: list[str] = []
        for piece in (piece for document in documents for piece in document.read()):
            sample.append(piece)
            if sum(map(len, sample)) > _SAMPLE:
                break
        tokens = sum(map(len, tokenizer.encode_batch(sample)))
        stage("writing")
        with new_directory(out, overwrite=overwrite, is_ours=is_ours) as temporary:
            tokenizer.save(temporary)

    size = sum(corpus.size for corpus in corpora)
    result = {
        "path": str(out),
        "vocab_size": tokenizer.vocab_size,
        "documents": len(documents),
        "bytes": size,
        "skipped": sum(len(corpus.skipped) for corpus in corpora),
        "bytes_per_token": round(sum(len(piece.encode("utf-8")) for piece in sample) / tokens, 3),
        "end_of_text": tokenizer.end_of_text,
    }

    def render(console: Console) -> None:
        console.print(
            f"{out}: {tokenizer.vocab_size:,} tokens from {len(documents):,} documents ({human_bytes(size)}), "
            f"{result['bytes_per_token']:.2f} bytes a token"
        )
        if tokenizer.vocab_size < vocab_size:
            console.print(f"No more than that repeats in this text; {vocab_size:,} were asked for.")
        if result["skipped"]:
            console.print(f"{result['skipped']:,} files were passed over because they are not text.")

    emit(result, render)


@command(app, "refresh")
def refresh(path: Own) -> None:
    """Copy an edited tokenizer/ of a checkpoint to its top, where transformers reads it, and record its checksums.

    Example: tritter tokenizer refresh tritter-7B-0.tprog
    """
    from tprog.tokenizer_copies import refresh_tokenizer

    directory = own_path(path)
    with stages() as stage:
        stage("copying")
        changed = refresh_tokenizer(directory)

    def render(console: Console) -> None:
        said = ", ".join(map(printable, changed)) or "nothing to do"
        console.print(f"{printable(directory)}: {said}", markup=False)

    emit({"path": str(directory), "changed": list(changed)}, render)
