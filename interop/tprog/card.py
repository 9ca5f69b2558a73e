"""A model card: what a checkpoint is, how it grew and how to load it, as the README.md that the Hub shows."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tprog.card_merge import choose, merge, render
from tprog.card_sections import sections
from tprog.commit import told_plainly
from tprog.errors import FormatError, UsageError
from tprog.hub_errors import library
from tprog.layout import CARD, PLOTS
from tprog.printable import printable
from tprog.reader import Checkpoint, open_checkpoint

_MOST_BYTES = 1 << 20


def model_card(
    checkpoint: Checkpoint,
    name: str,
    *,
    base_model: str | None = None,
    license: str | None = None,  # noqa: A002 - the Hub's name for it
    metrics: Sequence[Mapping[str, Any]] = (),
    plots: Iterable[str] = (),
) -> str:
    """The card of a checkpoint, as nobody has edited it yet.

    Args:
        checkpoint: the model.
        name: what its code calls it: `org/name`, or its directory.
        base_model: the model of the Hub it comes from; what progressive.json names where left out.
        license: an identifier such as apache-2.0, where it is known.
        metrics: lines of a run's metrics.jsonl, for the losses.
        plots: relative names of pictures.

    Raises:
        UsageError: the extra hub is not installed.
    """
    config, hub = checkpoint.config, library()
    base = base_model or checkpoint.progressive.base_model
    grown = bool(checkpoint.progressive.expansion_history)
    tags = [config.family, "tprog", "tritter-jax", *(["model-growth"] if grown else [])]
    data = hub.ModelCardData(
        base_model=printable(base) if base is not None else None,
        library_name="transformers",
        license=license,
        pipeline_tag="text-generation",
        tags=tags,
    )
    return render(data.to_yaml() + "\n", sections(checkpoint, name, metrics=metrics, plots=plots))


def merge_cards(
    fresh: str, here: str | None = None, there: str | None = None, *, prefer: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """A new card with what people wrote into the one beside the checkpoint, or into the Hub's.

    Args:
        fresh: from `model_card`.
        here: the card beside the checkpoint.
        there: the Hub's.
        prefer: `here` or `hub`: whose text is kept where both have their own.

    Returns:
        The card, and the names of the sections that were edited by hand and stayed.

    Raises:
        UsageError: both have text of their own, or the head is not valid.
    """
    old = choose(fresh, here, there, prefer)
    card, edited = (fresh, ()) if old is None else merge(fresh, old)
    check_card(card)
    return card, edited


def check_card(card: str) -> None:
    """Hold a card's head against huggingface_hub's own reading of it, as far as that needs no network.

    Raises:
        UsageError: it is no YAML, or a field of it is malformed.
    """
    hub = library()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hub.ModelCard(card)
    except Exception as error:
        raise UsageError(
            CARD, expected="a head of valid metadata", got=" ".join(str(error).split())[:300],
            remedy="Mend what stands between the two lines of --- at its top.",
        ) from None  # fmt: skip


def read_card(path: Path) -> str | None:
    """A card that exists; None where there is none.

    Raises:
        FormatError: it is no text, or too long.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > _MOST_BYTES:
        got = f"{path.stat().st_size} bytes"
        raise FormatError(path, expected=f"at most {_MOST_BYTES} bytes", got=got, remedy="Shorten it.")
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise FormatError(
            path, expected="UTF-8 text", got=f"other bytes at offset {error.start}", remedy="Save it as UTF-8."
        ) from None


def plots_of(checkpoint: Checkpoint) -> list[str]:
    """Relative names of the pictures that lie in a checkpoint's folder for them."""
    return sorted(f"{PLOTS}/{path.name}" for path in (checkpoint.path / PLOTS).glob("*.png"))


def write_card(source: str | Path | Checkpoint, **facts: Any) -> tuple[Path, tuple[str, ...]]:
    """Write README.md into a checkpoint's directory, or bring the one there up to date.

    Args:
        source: the checkpoint.
        **facts: `base_model`, `license` and `metrics`, as for `model_card`.

    Returns:
        The file, and the names of its sections that were edited by hand and stayed.

    Raises:
        FormatError: the source is no checkpoint, or the card there no text.
        UsageError: the place cannot be written, or the card's head is not valid.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    fresh = model_card(checkpoint, checkpoint.path.name, plots=plots_of(checkpoint), **facts)
    path = checkpoint.path / CARD
    card, edited = merge_cards(fresh, read_card(path))
    temporary = path.with_name(f".{CARD}.tmp")
    with told_plainly(path):
        temporary.write_text(card, encoding="utf-8")
        temporary.replace(path)
    return path, edited
