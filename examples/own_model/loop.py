"""Grow in the middle of a training loop of your own: python -m examples.own_model.loop

Parameters and the state of any optax chain grow together; the loss does not move at that moment.
"""

import jax
import jax.numpy as jnp
import optax

from examples.own_model.pytree import LARGE, ROWS, SMALL, forward, init
from tritter_jax.growth import grow, grow_optimizer, plan_axes, rewarm


def batches(seed: int = 0):
    """Walks with steps of 1 to 3, [16, 25]: there is something to learn."""
    key = jax.random.key(seed)
    while True:
        key, own = jax.random.split(key)
        yield jnp.cumsum(jax.random.randint(own, (16, 25), 1, 4), axis=1) % SMALL["vocab"]


def loss_of(params: dict, batch: jax.Array) -> jax.Array:
    logits = forward(params, batch[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


def train(params: dict, state, optimizer: optax.GradientTransformation, data, steps: int) -> tuple:
    @jax.jit
    def step(params, state, batch):
        loss, gradients = jax.value_and_grad(loss_of)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _, batch in zip(range(steps), data, strict=False):
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return params, state, losses


def main(steps: int = 60) -> list[float]:
    adam, data = optax.adam(3e-3), batches()
    params = init(SMALL)
    params, state, losses = train(params, adam.init(params), adam, data, steps)

    plan = plan_axes(ROWS, before=SMALL, after=LARGE)
    held_out = next(data)
    before = float(loss_of(params, held_out))
    params, state = grow(params, plan), grow_optimizer(state, plan, adam)
    after = float(loss_of(params, held_out))

    # New entries begin with moments of 0 under an old step count: their learning rate is warmed up again. What is
    # added to the chain starts from its own `init`.
    warmed = rewarm(plan, steps=20, before=state[0].count)
    chain = optax.chain(adam, warmed)
    params, state, more = train(params, (state, warmed.init(params)), chain, data, steps)
    print(
        f"loss at first {losses[0]:.3f}, before growth {before:.4f}, after it {after:.4f}, at the end {more[-1]:.3f}"
    )
    return [losses[0], before, after, more[-1]]


if __name__ == "__main__":
    main()
