"""What every strategy keeps and where it was published, gathered from the registries' rows; the README's table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tritter_jax.growth import noise, vocabulary
from tritter_jax.growth.depth import DEPTH
from tritter_jax.growth.preserves import Preserves
from tritter_jax.growth.split import SPLITS
from tritter_jax.growth.width import WIDTH


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of the table.

    Args:
        title: the strategy as the table names it.
        grows: what it enlarges: `layers`, `width` or `vocabulary`.
        choices: the keywords of `make_plan` that choose it.
        preserves: what it keeps.
        published: where it was described.
    """

    title: str
    grows: str
    choices: Mapping[str, Any]
    preserves: Preserves
    published: str


def claims() -> Iterator[Claim]:
    """Every strategy of every registry with what its row claims.

    Example:
        >>> next(claims()).title
        'depth identity'
    """
    for depth in DEPTH.values():
        yield Claim(
            title=f"depth {depth.name}",
            grows="layers",
            choices={"depth": depth.name},
            preserves=depth.preserves,
            published=depth.published,
        )
    for width in WIDTH.values():
        if width.preserves is not None:
            yield Claim(
                title=f"width {width.name}",
                grows="width",
                choices={"width": width.name},
                preserves=width.preserves,
                published=width.published,
            )
            continue
        for split in SPLITS.values():
            yield Claim(
                title=f"width {width.name}, split {split.name}",
                grows="width",
                choices={"width": width.name, "split": split.name},
                preserves=split.preserves,
                published=split.published,
            )
    yield Claim(
        title="vocabulary",
        grows="vocabulary",
        choices={},
        preserves=vocabulary.PRESERVES,
        published=vocabulary.PUBLISHED,
    )
    for place, preserves in noise.PRESERVES.items():
        yield Claim(
            title=f"noise on copies, {place}",
            grows="width",
            choices={"noise": 20.0, "noise_everywhere": place == "everywhere", "seed": 0},
            preserves=preserves,
            published=noise.PUBLISHED[place],
        )


def markdown() -> str:
    """The table of all claims.

    Example:
        >>> markdown().splitlines()[2]
        '| depth identity | yes | yes | yes | yes | Wu et al. 2024, LLaMA Pro, section 3.2 |'
    """
    head = ("strategy", "function", "gradient", "moments", "ternary codes", "published")
    rows = [head, ("---",) * len(head)]
    rows += [(claim.title, *claim.preserves.cells(), claim.published) for claim in claims()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
