"""A growth as runs of neighbours that come from neighbours: what its picture and its table are made of."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tritter_jax.growth import Plan

_TITLES = {
    "hidden": "hidden units",
    "heads": "query heads",
    "kv_heads": "key and value heads",
    "mlp": "feed-forward units",
    "vocab": "tokens of the vocabulary",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Entries of a grown axis that come, in order, from neighbours.

    Args:
        start: the first of them.
        length: their number.
        source: the old entry that the first one continues or copies; None where they are fresh.
        new: whether they are copies or fresh, rather than the old entries themselves.
    """

    start: int
    length: int
    source: int | None
    new: bool

    @property
    def places(self) -> str:
        """Their indices, first and last."""
        return _span(self.start, self.length)

    @property
    def origin(self) -> str:
        """Where they come from, in words."""
        if self.source is None:
            return "fresh"
        return f"{'copy of' if self.new else 'was'} {_span(self.source, self.length)}"


@dataclass(frozen=True, kw_only=True)
class AxisGrowth:
    """How one axis grew.

    Args:
        title: what its entries are.
        before: their number before.
        after: and after.
        runs: where they come from.
    """

    title: str
    before: int
    after: int
    runs: tuple[Run, ...]

    @property
    def summary(self) -> str:
        """The growth in a sentence, for those who do not see the picture."""
        copies = sum(run.length for run in self.runs if run.new and run.source is not None)
        fresh = sum(run.length for run in self.runs if run.source is None)
        parts = [f"{count:,} {what}" for count, what in ((copies, "copied"), (fresh, "fresh")) if count]
        return f"{self.before:,} {self.title} became {self.after:,}, {' and '.join(parts)}"


def grown_axes(plan: Plan) -> Iterator[AxisGrowth]:
    """Every axis that a growth changes, layers first.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> axes = list(grown_axes(make_plan(tprog.named_size("3B"), tprog.named_size("7B"))))
        >>> [axis.title for axis in axes][:2], axes[1].runs[0].places, axes[1].runs[1].origin
        (['layers', 'hidden units'], '0-2559', 'copy of 0-1535')
    """
    if plan.new_layers:
        yield AxisGrowth(
            title="layers",
            before=plan.source.num_layers,
            after=plan.target.num_layers,
            runs=tuple(runs(plan.stack.source, plan.stack.new)),
        )
    maps = {axis.name: along for axis, along in plan.maps}
    for name, title in _TITLES.items():
        if name in maps:
            before, after = (config.axis_sizes[name] for config in (plan.source, plan.target))
            found = tuple(runs(maps[name].source, maps[name].new.tolist()))
            if before != after:
                yield AxisGrowth(title=title, before=before, after=after, runs=found)


def runs(source: Sequence[int], new: Iterable[bool]) -> Iterator[Run]:
    """Runs of neighbours that come from neighbours; -1 stands for fresh.

    Example:
        >>> [(run.places, run.origin) for run in runs([0, 1, 2, 0, 1, -1], [False] * 3 + [True] * 3)]
        [('0-2', 'was 0-2'), ('3-4', 'copy of 0-1'), ('5', 'fresh')]
    """
    start, entries = 0, list(zip(source, new, strict=True))
    for place in range(1, len(entries) + 1):
        if place < len(entries):
            (old, was_new), (here, is_new) = entries[place - 1], entries[place]
            follows = here == old == -1 or (old >= 0 and here == old + 1)
            if follows and was_new == is_new:
                continue
        first, fresh = entries[start]
        yield Run(start=start, length=place - start, source=None if first < 0 else first, new=fresh)
        start = place


def _span(start: int, length: int) -> str:
    return str(start) if length == 1 else f"{start}-{start + length - 1}"
