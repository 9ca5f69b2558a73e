"""Models on the Hugging Face Hub: pushed in one commit, pulled whole or in part, checked before they are used.

Tokens, the cache and the endpoint are huggingface_hub's own: `hf auth login`, HF_TOKEN, HF_HOME, HF_ENDPOINT.
"""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tprog.commit import new_directory, refuse_taken
from tprog.config_json import load_config
from tprog.disk import file_lengths
from tprog.errors import FormatError, UsageError
from tprog.foreign import foreign_names
from tprog.hf_names import most_names
from tprog.hub_errors import is_offline, library, told
from tprog.hub_files import Listing, check_parts, part_of, trimmed
from tprog.layout import CHAT_TEMPLATES, CONFIG, INDEX, PROGRESSIVE, TOKENIZER, TOKENIZER_FILES
from tprog.paths import real_path
from tprog.reader import is_checkpoint
from tprog.schema import read_progressive, write_progressive
from tprog.tokenizer import tokenizer_files
from tprog.tokenizer_copies import add_copies
from tprog.verify import verify
from tprog.weights import read_index

_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w][\w./-]*))?")


@dataclass(frozen=True)
class HubId:
    """A repository of the Hub and, after an @, one of its branches, tags or commits.

    Example:
        >>> HubId.parse("org/model@v2"), HubId.parse("./model")
        (HubId(repository='org/model', revision='v2'), None)
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"

    @classmethod
    def parse(cls, text: str) -> "HubId | None":
        """The parts of `org/name` or `org/name@revision`; None where a text has another form."""
        match = _ID.fullmatch(text)
        return None if match is None else cls(match["repository"], match["revision"])

    @classmethod
    def of(cls, text: "str | HubId") -> "HubId":
        """The same, for a text that must have this form.

        Raises:
            UsageError: it has not.
        """
        found = text if isinstance(text, HubId) else cls.parse(text)
        if found is None:
            raise UsageError(text, expected="org/name or org/name@revision", got="another form", remedy="Mend it.")
        return found


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What `pull` put in place: where, of which commit, and which files."""

    path: Path
    commit: str
    files: tuple[str, ...]


def fetch(source: str | HubId, *, parts: Iterable[str] | None = None) -> Path:
    """The directory of a model in huggingface_hub's cache, where what is missing of it is fetched first.

    Without a network it is what the cache has. Every file that is new there is checked against the Hub's listing.

    Args:
        source: `org/name` or `org/name@revision`.
        parts: some of `tprog.hub_files.PARTS`; all where left out.

    Raises:
        UsageError: there is no such repository or revision, it is private, or the network or the Hub failed.
        FormatError: it holds no model that is read here, or what arrived is not what is listed.
    """
    source, wanted = HubId.of(source), check_parts(parts)
    hub = library()
    with told(source):
        snapshot = _with_config(hub, source)
        try:
            listing = Listing.of(hub.HfApi(), source.repository, snapshot.name)
        except Exception as error:
            if is_offline(error) and any(snapshot.glob("*.safetensors")):
                return snapshot
            raise
        names = _choose(hub, source, listing, wanted)
        new = [name for name in names if not (snapshot / name).exists()]
        hub.snapshot_download(source.repository, revision=listing.commit, allow_patterns=names)
    _check_cached(source, snapshot, listing, new)
    return snapshot


def fetch_tokenizer(source: str | HubId) -> Path:
    """The directory in huggingface_hub's cache with nothing but the files of a tokenizer fetched, and checked.

    The repository may hold a model or nothing else. Without a network it is what the cache has.

    Raises:
        UsageError: as for `fetch`, or it holds no tokenizer.
        FormatError: what arrived is not what is listed.
    """
    source = HubId.of(source)
    hub = library()
    patterns = [*TOKENIZER_FILES, f"{CHAT_TEMPLATES}/*.jinja"]
    patterns += [f"{TOKENIZER}/{name}" for name in patterns]
    with told(source):
        snapshot = Path(hub.snapshot_download(source.repository, revision=source.revision, allow_patterns=patterns))
        try:
            listing = Listing.of(hub.HfApi(), source.repository, snapshot.name)
        except Exception as error:
            if not is_offline(error):
                raise
        else:
            _check_cached(source, snapshot, listing, [name for name in listing.files if part_of(name) == TOKENIZER])
    if not tokenizer_files(snapshot):
        raise UsageError(
            source, expected="a repository that holds a tokenizer, or a network to fetch it", got="no tokenizer.json",
            remedy="Check its name and revision, and the network.",
        )  # fmt: skip
    return snapshot


def peek(source: str | HubId) -> Path:
    """The directory in the cache with nothing but config.json and progressive.json fetched.

    Raises:
        UsageError: as for `fetch`.
    """
    source = HubId.of(source)
    hub = library()
    with told(source):
        snapshot = _with_config(hub, source)
        hub.snapshot_download(source.repository, revision=snapshot.name, allow_patterns=[CONFIG, PROGRESSIVE])
    return snapshot


def look(source: str | HubId) -> tuple[Path, dict[str, int]]:
    """What a model is, without its weights: the directory that `peek` fetches, and the length of every file there is.

    Without a network the files are those in the cache.

    Raises:
        UsageError: as for `fetch`.
    """
    source = HubId.of(source)
    snapshot = peek(source)
    with told(source):
        try:
            listing = Listing.of(library().HfApi(), source.repository, snapshot.name)
        except Exception as error:
            if not is_offline(error):
                raise
            return snapshot, file_lengths(snapshot)
    return snapshot, {name: file.size for name, file in sorted(listing.files.items())}


def pull(
    source: str | HubId,
    destination: str | Path | None = None,
    *,
    parts: Iterable[str] | None = None,
    overwrite: bool = False,
) -> Pulled:
    """Fetch a model into a directory, which appears complete and checked or not at all.

    An interrupted pull leaves what has arrived in a hidden directory beside the destination, and goes on from there.

    Args:
        source: `org/name` or `org/name@revision`.
        destination: the directory to make; `name` here where left out, with `.tprog` where it is one.
        parts: some of `tprog.hub_files.PARTS`; all where left out.
        overwrite: whether an existing checkpoint may be replaced.

    Raises:
        UsageError: as for `fetch`; or the destination is taken, or cannot be written.
        FormatError: it holds no model that is read here, or a file is not the one on record.
    """
    source, wanted = HubId.of(source), check_parts(parts)
    hub = library()
    if destination is not None:
        refuse_taken(destination, overwrite=overwrite, is_ours=is_checkpoint)
    with told(source):
        listing = Listing.of(hub.HfApi(), source.repository, source.revision)
    name = source.repository.partition("/")[2]
    suffix = ".tprog" if PROGRESSIVE in listing.files and not name.endswith(".tprog") else ""
    path = real_path(name + suffix if destination is None else destination)
    with told(source):
        names = _choose(hub, source, listing, wanted)
    needed = sum(listing.files[name].size for name in names)
    staging = path.with_name(f".{path.name}.{listing.commit[:12]}.pull")
    here = sum(entry.stat().st_size for entry in staging.rglob("*") if entry.is_file())
    with new_directory(path, overwrite=overwrite, needed=max(0, needed - here), is_ours=is_checkpoint) as temporary:
        for old in path.parent.glob(f".{path.name}.*.pull"):
            if old != staging:
                shutil.rmtree(old, ignore_errors=True)
        with told(source):
            hub.snapshot_download(
                source.repository, revision=listing.commit, allow_patterns=names, local_dir=str(staging)
            )
        _check_pulled(source, staging, listing, names, wanted)
        shutil.rmtree(staging / ".cache", ignore_errors=True)
        for entry in list(staging.iterdir()):
            entry.rename(temporary / entry.name)
        staging.rmdir()
        add_copies(temporary)
    return Pulled(path=path, commit=listing.commit, files=tuple(names))


def _with_config(hub: Any, source: HubId) -> Path:
    """The directory in the cache with a model's config.json; a repository without one is told as what it is."""
    try:
        return Path(hub.hf_hub_download(source.repository, CONFIG, revision=source.revision)).parent
    except hub.errors.LocalEntryNotFoundError:
        raise
    except hub.errors.EntryNotFoundError:
        listing = Listing.of(hub.HfApi(), source.repository, source.revision)
        kind = foreign_names(listing.files, source)
        if kind is None:
            raise
        raise FormatError(
            source, expected=f"a repository with a {CONFIG}", got=kind.got, remedy=kind.remedy
        ) from None


def _check_cached(source: HubId, snapshot: Path, listing: Listing, names: Iterable[str]) -> None:
    """Hold what arrived in the cache against the Hub's listing; what is not as listed does not stay there."""
    bad = [name for name in names if not listing.files[name].matches(snapshot / name)]
    for name in bad:
        (snapshot / name).resolve().unlink(missing_ok=True)
        (snapshot / name).unlink(missing_ok=True)
    _refuse_bad(source, [f"{name} is not what the Hub lists" for name in bad])


def _choose(hub: Any, source: HubId, listing: Listing, wanted: frozenset[str]) -> list[str]:
    index = None
    if {CONFIG, INDEX} <= listing.files.keys():
        config = load_config(_cached(hub, source, listing, CONFIG))
        index = read_index(_cached(hub, source, listing, INDEX), most_names(config))
    return listing.choose(wanted, index, source)


def _cached(hub: Any, source: HubId, listing: Listing, name: str) -> Path:
    """A small file that is read before the others are fetched, held against the listing as they are."""
    path = Path(hub.hf_hub_download(source.repository, name, revision=listing.commit))
    _check_cached(source, path.parent, listing, [name])
    return path


def _check_pulled(source: HubId, directory: Path, listing: Listing, names: list[str], parts: frozenset[str]) -> None:
    """Hold what arrived against the manifest, and what that does not name against the Hub's listing."""
    on_record: set[str] = set()
    path = directory / PROGRESSIVE
    if path.is_file():
        if not listing.files[PROGRESSIVE].matches(path):
            path.unlink()
            _refuse_bad(source, [f"{PROGRESSIVE} is not what the Hub lists"])
        progressive = read_progressive(path)
        kept = trimmed(progressive, parts)
        if kept is not progressive:
            write_progressive(path, kept)
        on_record = set(kept.manifest.files if kept.manifest else ()) | {PROGRESSIVE}
    report = verify(directory, finite=False)
    wrong = {finding.file for finding in report.findings}
    # What does not fit the manifest was either changed on its way here, or is so on the Hub: the listing tells.
    doubtful = [name for name in names if name in wrong or name not in on_record]
    bad = [name for name in doubtful if not listing.files[name].matches(directory / name)]
    for name in bad:
        (directory / name).unlink(missing_ok=True)
    _refuse_bad(source, [f"{name} is not what the Hub lists" for name in sorted(bad)])
    if not report.ok:
        shutil.rmtree(directory)
        raise FormatError(
            source, expected="a repository whose files are whole and belong together",
            got=f"{report.wrong} things wrong with it, though it arrived as the Hub lists it",
            remedy="Choose another revision, or ask its owner to push the checkpoint again:",
            findings=[str(finding) for finding in report.findings],
        )  # fmt: skip


def _refuse_bad(source: HubId, findings: list[str]) -> None:
    if findings:
        raise FormatError(
            source, expected="every file as the Hub lists it", got=f"{len(findings)} that arrived changed",
            remedy="Run the command again, which fetches these again; if they change every time, the Hub or a proxy "
            "in between serves other files than it lists: use another HF_ENDPOINT.",
            findings=findings,
        )  # fmt: skip
