"""Training a grown model with its old and its new entries told apart: optax transforms at the end of a chain.

optax.chain(optax.adamw(rate), rewarm(plan, steps=250, before=opt_state[0].count))
optax.chain(optax.adamw(rate), train_only(plan, "new"))
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from tritter_jax.growth.new_parameters import NewEntries, new_parameters
from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.plan import Plan

Pick = Literal["old", "new"]


def scale_entries(plan: Plan | AxesPlan, pick: Pick, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Multiply the updates of the old or of the new entries with a schedule; the others pass as they are.

    Args:
        plan: the growth; its target is what is trained.
        pick: which entries.
        schedule: factor by the number of updates since the growth, from 0.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> from tritter_jax.model import init_params
        >>> small = tprog.ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=2,
        ...                           vocab_size=16)
        >>> large = tprog.ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=3,
        ...                           vocab_size=16)
        >>> halved = scale_entries(make_plan(small, large), "new", lambda count: 0.5)
        >>> ones = jax.tree.map(jnp.ones_like, init_params(large))
        >>> halved.update(ones, halved.init(ones))[0]["layers"]["mlp"]["down"][0, 0].tolist()
        [1.0, 1.0, 0.5]
    """
    entries = None if isinstance(plan, AxesPlan) else new_parameters(plan)

    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = jnp.asarray(schedule(state.count))

        def scaled(entries: NewEntries, update: Any) -> Any:
            if not isinstance(update, jax.Array):  # masked out
                return update
            picked = entries.new() if pick == "new" else entries.old()
            ones = jnp.ones((), update.dtype)
            return update * jnp.where(picked, factor.astype(update.dtype), ones)

        told = new_parameters(plan, updates) if entries is None else entries
        return jax.tree.map(scaled, told, updates), optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def train_only(plan: Plan | AxesPlan, pick: Pick) -> optax.GradientTransformation:
    """Train the new entries and freeze the old, or the other way round; weight decay freezes with them.

    With depth alone and "new" this is LLaMA Pro's training (Wu et al. 2024, section 3.2).
    """
    return scale_entries(plan, "old" if pick == "new" else "new", lambda count: 0.0)


def rewarm(
    plan: Plan | AxesPlan,
    *,
    steps: int = 250,
    before: int | Int[Array, ""] | None = None,
    betas: tuple[float, float] | None = (0.9, 0.999),
) -> optax.GradientTransformation:
    """Warm the learning rate of the new entries up again, linearly from 1/steps to 1.

    Where new entries begin with moments of 0 under an old step count, as `asymmetric` leaves them, Adam's correction
    for that (Kingma & Ba 2015, section 3) is already spent: with betas (0.9, 0.999) their first step would be up to
    3.2 times the learning rate, and their twelfth up to 6.7 times. So the correction is made good here as well.

    Args:
        plan: the growth.
        steps: length of the warm-up; 0 for the correction alone.
        before: Adam's step count at the growth; None for one so large that its correction is 1.
        betas: Adam's; None for an optimizer without such a correction, and for moments that were transported.
    """

    def factor(count: jax.typing.ArrayLike) -> Array:
        taken = jnp.asarray(count, jnp.float32) + 1.0
        warmed = jnp.minimum(taken / steps, 1.0) if steps else jnp.ones(())
        if betas is None:
            return warmed
        spent = 1.0 if before is None else _correction(taken + jnp.asarray(before, jnp.float32), betas)
        return warmed * _correction(taken, betas) / spent

    return scale_entries(plan, "new", factor)


def _correction(taken: Float[Array, ""], betas: tuple[float, float]) -> Float[Array, ""]:
    """What Adam multiplies its steps with to make up for moments that began at 0."""
    first, second = (-jnp.expm1(taken * jnp.log(jnp.float32(beta))) for beta in betas)
    return jnp.sqrt(second) / first
