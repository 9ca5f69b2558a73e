"""The network 784-400-400-10, of whose outputs each task has two, and its training on one task.

B images a batch, P pixels, T steps
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tritter_jax.continual import Memory, penalty

HIDDEN, OUTPUTS, CLASSES = 400, 10, 2
ADAM = optax.adam(1e-3)


def init_network(pixels: int, seed: int, hidden: int = HIDDEN) -> dict:
    """Weights [in, out] and biases [out] of three layers, uniform in +- 1 / sqrt(in), as PyTorch draws them."""
    rng = np.random.default_rng(seed)

    def layer(inputs: int, outputs: int) -> dict:
        bound = inputs**-0.5
        shapes = {"kernel": (inputs, outputs), "bias": (outputs,)}
        return {name: jnp.asarray(rng.uniform(-bound, bound, shape), jnp.float32) for name, shape in shapes.items()}

    return {"first": layer(pixels, hidden), "second": layer(hidden, hidden), "output": layer(hidden, OUTPUTS)}


def task_logits(params: dict, images: Any, task: Any) -> jax.Array:
    """Logits [B, 2] of a task's two outputs for images [B, P] in bytes."""

    def affine(layer: dict, x: jax.Array) -> jax.Array:
        return x @ layer["kernel"] + layer["bias"][None]

    x = images.astype(jnp.float32) / 255
    for name in ("first", "second"):
        x = jax.nn.relu(affine(params[name], x))
    head = jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, CLASSES * task, CLASSES, leaf.ndim - 1), params["output"]
    )
    return affine(head, x)


@partial(jax.jit, static_argnames="strength")
def train(
    params: dict,
    state: Any,
    memory: Memory,
    images: jax.Array,
    labels: jax.Array,
    picks: jax.Array,
    task: jax.Array,
    *,
    strength: float,
) -> tuple[dict, Any]:
    """Adam on one task's cross-entropy plus the penalty of the tasks before.

    Args:
        params: the network.
        state: the optimizer's.
        memory: of the tasks before; its Fisher information is 0 where there were none.
        images: all training images [N, P], bytes.
        labels: 0 or 1, by the place of a digit in its task [N].
        picks: which images each step takes [T, B].
        task: its number.
        strength: lambda.

    Returns:
        The network and the optimizer's state after T steps.
    """

    def loss(params: dict, rows: jax.Array) -> jax.Array:
        logits = task_logits(params, images[rows], task)
        here = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return jnp.mean(here) + penalty(params, memory, strength)

    def step(carry: tuple[dict, Any], rows: jax.Array) -> tuple[tuple[dict, Any], None]:
        params, state = carry
        updates, state = ADAM.update(jax.grad(loss)(params, rows), state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    return jax.lax.scan(step, (params, state), picks)[0]


@jax.jit
def accuracy(params: dict, images: jax.Array, labels: jax.Array, task: jax.Array) -> jax.Array:
    """Share of images [N, P] whose label [N] the task's larger output names."""
    return jnp.mean(jnp.argmax(task_logits(params, images, task), axis=-1) == labels)
