"""What is compiled for a TPU: the functions that training, growth and Fisher information run, on abstract arrays."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from tprog import ModelConfig, UsageError, load_config, named_size

from tritter_jax.continual import ESTIMATORS, language_logits, windows_batch
from tritter_jax.continual.accumulate import abstract_numbers, compile_step, new_sum
from tritter_jax.growth import make_plan
from tritter_jax.model import abstract_params
from tritter_jax.sharding import BATCH_AXES, batch_sharding, param_shardings, replicated
from tritter_jax.train.setup import Layout, lay_out
from tritter_jax.train.state import grow_state
from tritter_jax.train.step import compile_train_step

Lowered = jax.stages.Lowered


def lower(layout: Layout) -> Lowered:
    """The program that the configuration asks for, lowered for its mesh.

    Raises:
        UsageError: the mesh does not divide the model, or there is nothing to grow from.
        GrowthError: the growth cannot be planned.
    """
    return _PROGRAMS[layout.settings.machine.program](layout)


def _train(layout: Layout) -> Lowered:
    settings = layout.settings
    state = layout.abstract_state()
    step: Any = compile_train_step(
        state,
        layout.mesh,
        layout.config,
        layout.optimizer,
        rules=layout.rules,
        accumulate=settings.training.accumulate,
        dtype=layout.dtype,
        remat=settings.training.remat,
    )
    windows = jax.ShapeDtypeStruct(
        (settings.data.batch_size, settings.data.sequence_length + 1), jnp.int32, sharding=batch_sharding(layout.mesh)
    )
    with jax.set_mesh(layout.mesh):
        return step.lower(state, windows, jax.ShapeDtypeStruct((), jnp.int32))


def _grow(layout: Layout) -> Lowered:
    settings = layout.settings
    source = lay_out(settings, _source(layout), list(layout.mesh.devices.flat))
    plan = make_plan(source.config, layout.config)
    state, grown = source.abstract_state(), layout.abstract_state()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, grown)
    grow = jax.jit(
        lambda state: grow_state(state, plan, source.optimizer, shardings),
        out_shardings=shardings,
        donate_argnums=0,
    )
    with jax.set_mesh(layout.mesh):
        return grow.lower(state)


def _source(layout: Layout) -> ModelConfig:
    name = layout.settings.machine.grow_from
    if not name:
        raise UsageError(
            "machine.grow_from", expected="what the model grows from", got="nothing",
            remedy='For example: grow_from = "3B"',
        )  # fmt: skip
    config = load_config(Path(name)) if name.endswith(".json") else named_size(name)
    return replace(config, vocab_size=layout.config.vocab_size)


def _fisher(layout: Layout) -> Lowered:
    """A step of the sampled estimator, for weights as they are stored: in the dtype of the computation."""
    settings, mesh = layout.settings, layout.mesh
    shapes = abstract_params(replace(layout.config, dtype=settings.training.compute_dtype))
    params = _laid(shapes, param_shardings(layout.config, mesh, layout.rules))
    whole = replicated(mesh)
    lies = jax.tree.map(lambda leaf: leaf.sharding, params)
    squares = jax.eval_shape(lambda tree: new_sum(tree).squares, shapes)
    windows = jnp.zeros((settings.data.batch_size, settings.data.sequence_length + 1), jnp.int32)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES, None))
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows), windows_batch(windows)
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    numbers = [_laid(each, whole) for each in abstract_numbers()]
    estimator = next(iter(ESTIMATORS.values()))
    program: Any = compile_step(language_logits(layout.config, layout.dtype), params, estimator, 1, mesh).program
    with jax.set_mesh(mesh):
        return program.lower(_laid(squares, lies), *numbers, params, batch, _laid(key, whole))


def _laid(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


_PROGRAMS: dict[str, Callable[[Layout], Lowered]] = {"train": _train, "grow": _grow, "fisher": _fisher}
