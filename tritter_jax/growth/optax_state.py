"""What the fields of an optax state are, told without knowing which optimizer made it."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import jax
from tprog import GrowthError

from tritter_jax.growth.moments import NORMALISING, STATES, Kind


@dataclass(frozen=True)
class Unplaced:
    """A number of the state that is no moment; a leaf, as jax sees it. `field` and `kind` say what it would be."""

    value: Any
    field: str
    kind: Kind | None


def labelled(node: Any, where: str = "", kind: Kind | None = None) -> Any:
    """The state with each leaf knowing the field that it lies in, and what that holds."""
    if _is_state(node):
        name = type(node).__name__
        return type(node)(
            *(
                labelled(value, f"{name}.{field}", STATES.get(name, {}).get(field))
                for field, value in zip(node._fields, node, strict=True)
            )
        )
    return jax.tree.map(
        lambda leaf: labelled(leaf, where, kind) if _is_state(leaf) else Unplaced(leaf, where, kind),
        node,
        is_leaf=_is_state,
    )


def _is_state(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")


def refuse_fields(fields: Set[str]) -> None:
    """Refuse fields of a state of which it is not known what they hold.

    Raises:
        GrowthError: there are any.
    """
    if unknown := sorted(fields):
        raise GrowthError(
            f"optimizer state {unknown[0]}",
            expected="a state that tritter_jax.growth.moments.STATES lists",
            got="one of which it is not known how it moves",
            remedy="Add a row there, or start over (--optimizer reset).",
            findings=unknown[1:],
        )


def refuse_behind(node: Any, normalising: str = "") -> str:
    """Go through a chain in order, and refuse moments behind a transform that normalises; gives the last such."""
    name = type(node).__name__ if _is_state(node) else ""
    if name in STATES and normalising:
        raise GrowthError(
            f"optimizer state {name}",
            expected="averages of gradients",
            got=f"averages of what {normalising} makes of them, which no growth maps",
            remedy="Put it first in the chain, or start over (--optimizer reset).",
        )
    if isinstance(node, dict):  # branches beside each other
        return max([refuse_behind(branch, normalising) for branch in node.values()], default=normalising)
    inside = normalising
    for part in node if isinstance(node, tuple | list) else ():
        inside = refuse_behind(part, inside)
    return name if name in NORMALISING else inside
