"""Strategies from elsewhere: installed packages add rows to the registries through an entry point.

[project.entry-points."tritter_jax.strategies"]
mine = "my_package:add"        # add() puts rows into tritter_jax.growth's DEPTH, POSITIONS, WIDTH or SPLITS
"""

from functools import cache
from importlib.metadata import entry_points

from tprog import UsageError

GROUP = "tritter_jax.strategies"


@cache
def load_strategies() -> tuple[str, ...]:
    """Call every installed entry point of the group, once; gives their names.

    Raises:
        UsageError: one of them fails; the message names it.
    """
    names = []
    for point in entry_points(group=GROUP):
        try:
            point.load()()
        except Exception as error:
            raise UsageError(
                f"entry point {point.name} ({point.value})",
                expected="a function that adds strategies",
                got=f"{type(error).__name__}: {error}",
                remedy="Mend or uninstall the package that provides it.",
            ) from error
        names.append(point.name)
    return tuple(names)
