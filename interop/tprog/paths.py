"""Relative names out of files that nobody vouches for, turned into paths that stay inside their directory."""

import os
from pathlib import Path, PurePosixPath

from tprog.errors import FormatError


def user_path(text: str | Path) -> Path:
    """A path as a user writes it, with a leading ~ for a home directory."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - pathlib's raises for an unknown user


def real_path(path: str | Path) -> Path:
    """A path with its ~ and links followed; unlike `Path.resolve`, it stays as it is where a link leads to itself.

    Example:
        >>> real_path("/models/../models/a")
        PosixPath('/models/a')
    """
    return Path(os.path.realpath(user_path(path)))


def safe_file(directory: Path, name: object) -> Path:
    """The path of a file that an index or a manifest names.

    A link may lead to a file of the same directory or, in a Hugging Face cache, from a snapshot to its model's blobs.

    Raises:
        FormatError: the name is absolute, holds `..`, or is a link that leads out of the directory.

    Example:
        >>> safe_file(Path("/models/a"), "../b/secret")
        Traceback (most recent call last):
        tprog.errors.FormatError: /models/a: expected file names inside the directory, got '../b/secret'. ...
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    legal = (
        isinstance(name, str)
        and bool(parts)
        and ".." not in parts
        and not parts[0].startswith("/")
        and not set(name) & {"\\", ":", "\0"}
    )
    if not legal:
        raise FormatError(
            directory,
            expected="file names inside the directory",
            got=repr(name)[:200],
            remedy="Do not use this directory: something in it reaches outside.",
        )
    path = directory.joinpath(*parts)
    target = real_path(path)
    if not any(target.is_relative_to(root) for root in _roots(directory)):
        raise FormatError(
            path,
            expected="a file inside the directory",
            got=f"a link to {target}",
            remedy="Copy the file into the directory if you trust it.",
        )
    return path


def hub_repository(directory: Path) -> str | None:
    """The repository of the Hub that a directory of a Hugging Face cache is a snapshot of; None for any other.

    Example:
        >>> hub_repository(Path("/cache/models--org--name/snapshots/0f1e"))
        'org/name'
    """
    model = _cached_model(directory)
    return None if model is None else "/".join(model.name.split("--")[1:])


def model_name(directory: Path) -> str:
    """What a model's directory is called: `org/name` for one of the Hub.

    Example:
        >>> model_name(Path("/cache/models--org--name/snapshots/0f1e")), model_name(Path("runs/poet.tprog"))
        ('org/name', 'poet.tprog')
    """
    return hub_repository(directory) or directory.name


def _cached_model(directory: Path) -> Path | None:
    model = directory.parent.parent
    return model if directory.parent.name == "snapshots" and model.name.startswith("models--") else None


def _roots(directory: Path) -> list[Path]:
    directory = real_path(directory)
    model = _cached_model(directory)
    return [directory] if model is None else [directory, model / "blobs"]
