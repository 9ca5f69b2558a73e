"""A checkpoint onto the Hugging Face Hub, in one commit: a reader there sees the old model or the new one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tprog.card import merge_cards, model_card, plots_of, read_card
from tprog.disk import file_lengths
from tprog.errors import FormatError, UsageError
from tprog.hub import HubId
from tprog.hub_errors import library, told
from tprog.hub_files import Listing, check_parts, part_of, trimmed
from tprog.jsonio import to_bytes
from tprog.layout import CARD, PROGRESSIVE, TOKENIZER
from tprog.reader import Checkpoint, open_checkpoint
from tprog.tokenizer_copies import missing_copies, with_copies
from tprog.verify import verify

_MAIN = "main"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What `push` did: the commit and its page, what it holds, what it removed, what stayed behind.

    Args:
        url: page of the commit.
        commit: its name.
        files: what the model there consists of.
        deleted: files of an earlier model that were removed.
        left_out: files here that were not asked for, or are no checkpoint's.
        edited: sections of the card that were edited by hand, and stayed as they were.
    """

    url: str
    commit: str
    files: tuple[str, ...]
    deleted: tuple[str, ...]
    left_out: tuple[str, ...]
    edited: tuple[str, ...]


def push(
    source: str | Path | Checkpoint,
    repository: str | HubId,
    *,
    private: bool = False,
    parts: Iterable[str] | None = None,
    message: str = "",
    card: str | None = None,
    **facts: Any,
) -> Pushed:
    """Put a checkpoint and its model card into a repository of the Hub, which is made where there is none.

    The checkpoint is verified first. What an interrupted push has brought to the Hub is not sent again. Files of an
    earlier model that do not belong to this one are removed in the same commit; the card's own text stays.

    Args:
        source: the checkpoint.
        repository: `org/name`, or `org/name@branch`; the branch is made where there is none.
        private: make a new repository private; an existing one must be so already.
        parts: some of `tprog.hub_files.PARTS`; all where left out.
        message: the commit's first line.
        card: `here` or `hub`: whose text is kept where the card here and the one there both have their own.
        **facts: `base_model`, `license` and `metrics`, as for `tprog.card.model_card`.

    Raises:
        FormatError: the checkpoint is not whole.
        UsageError: there is no token, it may not write there, or the network or the Hub failed; nothing has changed
            on the Hub then, but that a repository or branch may be new and empty.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    target, wanted = HubId.of(repository), check_parts(parts)
    hub = library()
    if hub.get_token() is None:
        raise UsageError(
            target, expected="a token to write with", got="none",
            remedy="Log in with `hf auth login`, or set HF_TOKEN.",
        )  # fmt: skip
    _refuse_broken(checkpoint.path)
    names = list(file_lengths(checkpoint.path))
    chosen = [name for name in names if part_of(name) in wanted]
    branch = target.revision or _MAIN
    with told(target):
        api = hub.HfApi()
        api.create_repo(target.repository, private=private or None, exist_ok=True)
        if branch != _MAIN:
            api.create_branch(target.repository, branch=branch, exist_ok=True)
        listing = Listing.of(api, target.repository, branch)
        _refuse_public(target, private, listing)
        old = None
        if CARD in listing.files:
            old = read_card(Path(hub.hf_hub_download(target.repository, CARD, revision=listing.commit)))
    fresh = model_card(checkpoint, str(target), plots=plots_of(checkpoint), **facts)
    text, edited = merge_cards(fresh, read_card(checkpoint.path / CARD), old, prefer=card)
    files: dict[str, Path | bytes] = {name: checkpoint.path / name for name in chosen} | {CARD: text.encode("utf-8")}
    added = missing_copies(checkpoint.path) if TOKENIZER in wanted else {}
    files |= added
    kept = trimmed(with_copies(checkpoint.progressive, checkpoint.path), wanted)
    if PROGRESSIVE in files and kept is not checkpoint.progressive:
        files[PROGRESSIVE] = to_bytes(kept.to_json())
    deleted = [name for name in listing.files if part_of(name) is not None and name not in files]
    with told(target):
        commit = api.create_commit(
            target.repository,
            _operations(hub, files, deleted),
            commit_message=message or f"Upload {checkpoint.path.name}",
            revision=branch,
            parent_commit=listing.commit,
        )
    return Pushed(
        url=str(commit.commit_url),
        commit=str(commit.oid),
        files=tuple(files),
        deleted=tuple(deleted),
        left_out=tuple(name for name in names if name not in files),
        edited=edited,
    )


def _operations(hub: Any, files: Mapping[str, Path | bytes], deleted: Iterable[str]) -> list[Any]:
    adding = [
        hub.CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    return [*adding, *(hub.CommitOperationDelete(name) for name in deleted)]


def _refuse_broken(directory: Path) -> None:
    report = verify(directory, finite=False)
    if not report.ok:
        raise FormatError(
            directory, expected="a whole checkpoint", got=f"{len(report.findings)} things wrong with it",
            remedy="Correct these first, or save the checkpoint again:",
            findings=[str(each) for each in report.findings],
        )  # fmt: skip


def _refuse_public(target: HubId, private: bool, listing: Listing) -> None:
    if private and not listing.private:
        raise UsageError(
            target, expected="a private repository", got="one that exists and is public",
            remedy="Make it private in its settings, choose another name, or leave --private out.",
        )  # fmt: skip
