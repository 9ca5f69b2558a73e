"""Where in a chain of transforms the penalty is felt, a row in `FORMS` each; the mathematics is in `ewc`."""

from collections.abc import Callable
from dataclasses import dataclass

import optax

from tritter_jax.continual.ewc import add_penalty, proximal


@dataclass(frozen=True, kw_only=True)
class Chain:
    """An optimizer, and what the penalty needs to know of it.

    Args:
        clip: the clipping of gradients, `optax.identity()` for none.
        optimizer: what follows the clipping, and ends in updates to be added to the parameters.
        rate: its learning rate, or the schedule of it.
        beta2: Adam's.
        eps: Adam's.
    """

    clip: optax.GradientTransformation
    optimizer: optax.GradientTransformation
    rate: optax.ScalarOrSchedule
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way for a step to feel the penalty.

    Args:
        name: its name in configurations.
        summary: one line on what it does.
        join: the chain and lambda -> the whole; its `update` takes `memory`.
    """

    name: str
    summary: str
    join: Callable[[Chain, float], optax.GradientTransformationExtraArgs]


def _proximal(chain: Chain, strength: float) -> optax.GradientTransformationExtraArgs:
    inner = optax.chain(chain.clip, chain.optimizer)
    return proximal(inner, strength, chain.rate, beta2=chain.beta2, eps=chain.eps)


def _gradient(chain: Chain, strength: float) -> optax.GradientTransformationExtraArgs:
    return optax.chain(chain.clip, add_penalty(strength), chain.optimizer)


def _loss(chain: Chain, strength: float) -> optax.GradientTransformationExtraArgs:
    """The gradient of a sum is the sum of gradients; so it is added once, however many parts a batch has."""
    return optax.chain(add_penalty(strength), chain.clip, chain.optimizer)


FORMS: dict[str, Form] = {
    row.name: row
    for row in (
        Form(name="proximal", summary="a step of its own, stable at any lambda", join=_proximal),
        Form(name="gradient", summary="added to the gradient behind the clipping", join=_gradient),
        Form(name="loss", summary="a term of the loss, clipped along with the task", join=_loss),
    )
}
"""Every form by name; the first is the default."""
