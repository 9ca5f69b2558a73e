"""tritter push and tritter pull: checkpoints on the Hugging Face Hub, and in buckets."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from tprog import UsageError

from tritter_jax.cli.arguments import Own, own_path
from tritter_jax.cli.card import BaseModel, License, Metrics, metrics_of, tell_edited
from tritter_jax.cli.output import emit, err, tell_code

if TYPE_CHECKING:
    from tprog.bucket import Moved

Parts = Annotated[
    str | None,
    typer.Option(help="Only these, with commas: weights, tokenizer, training, ewc, hooks. Weights always go along."),
]


class Whose(StrEnum):
    """Whose text of a model card is kept."""

    here = "here"
    hub = "hub"


def push(
    source: Own,
    repository: Annotated[
        str,
        typer.Argument(help="org/name, or org/name@branch, made where there is none; or a URL: gs://bucket/a.tprog."),
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    parts: Parts = None,
    message: Annotated[str, typer.Option("--message", "-m", help="The commit's first line.")] = "",
    card: Annotated[
        Whose | None, typer.Option(help="Whose text of the card is kept, where the one here and the Hub's differ.")
    ] = None,
    base_model: BaseModel = None,
    license_: License = None,
    metrics: Metrics = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint in a bucket.")] = False,
) -> None:
    """Put a checkpoint and its model card on the Hugging Face Hub, in one commit; or a .tprog, as it is, in a bucket.

    Log in first with `hf auth login`, or set HF_TOKEN. Interrupted, run it again: what has arrived is not sent twice.
    A bucket takes what the extra `bucket` can open, and has the checkpoint once all of it has arrived.

    Examples:
        tritter push tritter-7B-0.tprog org/tritter-7B --private
        tritter push tritter-7B-0.tprog gs://bucket/tritter-7B-0.tprog
    """
    from tprog.bucket import upload
    from tprog.disk import is_url
    from tprog.hub_push import push as run
    from tprog.reader import open_checkpoint

    from tritter_jax.report.pictures import draw_pictures

    directory = own_path(source)
    err().print(f"checking {directory}", style="dim", markup=False)
    if is_url(repository):
        _refuse_hubs(private, parts, message, card, base_model, license_, metrics)
        _tell_moved(upload(directory, repository, overwrite=overwrite))
        return
    checkpoint, lines = open_checkpoint(directory), metrics_of(metrics)
    draw_pictures(checkpoint, lines)
    done = run(
        checkpoint,
        repository,
        private=private,
        parts=_listed(parts),
        message=message,
        card=card.value if card else None,
        base_model=base_model,
        license=license_,
        metrics=lines,
    )
    result: dict[str, Any] = {
        "url": done.url,
        "commit": done.commit,
        "files": list(done.files),
        "deleted": list(done.deleted),
        "left_out": list(done.left_out),
        "edited_sections": list(done.edited),
    }

    def render(console: Console) -> None:
        console.print(f"{len(done.files)} files, {done.url}", markup=False)
        for title, names in (("removed there", done.deleted), ("left out", done.left_out)):
            if names:
                console.print(f"{title}: {', '.join(names)}", markup=False)
        tell_edited(console, done.edited)

    emit(result, render)


def pull(
    source: Annotated[
        str, typer.Argument(help="org/name or org/name@revision; or the URL of a .tprog: gs://bucket/a.tprog.")
    ],
    destination: Annotated[
        Path | None, typer.Argument(help="The directory to make; default: its name, here.")
    ] = None,
    parts: Parts = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")] = False,
) -> None:
    """Fetch a model from the Hugging Face Hub or a bucket, check it, and put it in place.

    Interrupted, run it again: from the Hub, it goes on from what has arrived.

    Examples:
        tritter pull org/tritter-7B@main --parts weights,tokenizer
        tritter pull gs://bucket/tritter-7B-0.tprog
    """
    from tprog.bucket import download
    from tprog.disk import is_url
    from tprog.hub import pull as run

    if is_url(source):
        _refuse_hubs(parts)
        _tell_moved(download(source, destination, overwrite=overwrite))
        return
    done = run(source, destination, parts=_listed(parts), overwrite=overwrite)
    tell_code(done.path, "code is not fetched, load the model without trust_remote_code")

    def render(console: Console) -> None:
        console.print(f"{done.path}: {len(done.files)} files of commit {done.commit[:12]}, checked", markup=False)

    emit({"path": str(done.path), "commit": done.commit, "files": list(done.files)}, render)


def _refuse_hubs(*options: object) -> None:
    if any(options):
        raise UsageError(
            "bucket", expected="a whole .tprog, as it is", got="options for a repository of the Hub",
            remedy="Leave out all but --overwrite.",
        )  # fmt: skip


def _tell_moved(done: "Moved") -> None:
    emit(
        {"path": done.path, "files": list(done.files)},
        lambda console: console.print(f"{done.path}: {len(done.files)} files, checked", markup=False),
    )


def _listed(parts: str | None) -> list[str] | None:
    if parts is None:
        return None
    names = [name.strip() for name in parts.split(",") if name.strip()]
    if not names:
        raise UsageError("--parts", expected="names with commas", got=repr(parts), remedy="For example: weights.")
    return names
