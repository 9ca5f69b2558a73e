"""Ways to learn a new text: what each holds on to, a row in `ways` each."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tritter_jax.continual import Memory
from tritter_jax.growth import Plan, new_parameters

_FOR_EVER = 1e30
"""A weight that the proximal step puts back to where it was."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the old text.

    Args:
        memory: Fisher information and anchor of the grown model.
        plan: the growth since the old text was learned.
    """

    memory: Memory
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to learn the new text.

    Args:
        name: its name in tables.
        hold: what it holds on to, lambda multiplied into the Fisher information.
        rehearsal: share of the rows that are of the old text.
    """

    name: str
    hold: Callable[[Known], Memory]
    rehearsal: float = 0.0


def ways(strength: float, l2: float) -> tuple[Way, ...]:
    """The ways that are compared; the first is the one without any care.

    Args:
        strength: lambda of elastic weight consolidation.
        l2: lambda of the penalty that takes all weights alike.

    Example:
        >>> [way.name for way in ways(100, 0.01)][:3]
        ['no EWC', 'EWC, lambda 100', 'old entries frozen']
    """
    return (
        Way(name="no EWC", hold=weighed(0)),
        Way(name=f"EWC, lambda {strength:g}", hold=weighed(strength)),
        Way(name="old entries frozen", hold=frozen),
        Way(name=f"L2, lambda {l2:g}", hold=alike(l2)),
        Way(name="rehearsal of 5 %", hold=weighed(0), rehearsal=0.05),
    )


def weighed(strength: float) -> Callable[[Known], Memory]:
    """Elastic weight consolidation; 0 for none."""
    return lambda known: _held(known, lambda fisher: strength * fisher)


def alike(strength: float) -> Callable[[Known], Memory]:
    """L2 towards the old weights: every weight as important as any other."""
    return lambda known: _held(known, lambda fisher: jnp.full_like(fisher, strength))


def frozen(known: Known) -> Memory:
    """The old entries stay where they are; the new ones alone learn."""
    held = jax.tree.map(lambda entries: _FOR_EVER * entries.old().astype(jnp.float32), new_parameters(known.plan))
    return known.memory._replace(fisher=held)


def _held(known: Known, change: Callable[[Array], Array]) -> Memory:
    return known.memory._replace(fisher=jax.tree.map(change, known.memory.fisher))
