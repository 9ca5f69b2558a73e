"""Growing a checkpoint tensor by tensor, in pieces where it can: one grown tensor and its source are held at most."""

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tprog import ParamSpec
from tprog.finite import WIDER, checked
from tprog.hf_names import HFTensor, hf_tensors
from tprog.reader import Checkpoint
from tprog.source import LazyTensors, TensorSource
from tprog.tensorheader import TensorSpec
from tprog.weights import in_memory

from tritter_jax.growth.drift import precision
from tritter_jax.growth.leaf import LeafGrowth, grow_layer, leaf_growth
from tritter_jax.growth.plan import Plan
from tritter_jax.growth.rows import entry_by_entry, grown_blocks, has_unknown

GrowLayer = Callable[..., Any]
"""`grow_layer`, or another function of (x, growth=, layer=) from one old layer of a parameter to the grown one."""


def grown_tensors(checkpoint: Checkpoint, plan: Plan) -> LazyTensors:
    """The grown model as Hugging Face tensors, each computed when it is asked for.

    Bit for bit what `grow` gives on the whole tree, but for what is drawn: its spread is a sum whose order the
    compiler chooses (`tritter_jax.growth.fill.deviation_of`).

    Args:
        checkpoint: the source, open.
        plan: from `make_plan`, for the source's configuration.

    Raises:
        FormatError: a grown tensor, when it is asked for, is not finite: its dtype is too narrow, or the source was
            not finite.
    """
    return stream(checkpoint, plan, lambda spec: leaf_growth(plan, spec, "weight"), remedy=WIDER)


def stream(
    source: TensorSource,
    plan: Plan,
    growth: Callable[[ParamSpec], LeafGrowth],
    *,
    remedy: str,
    prefix: str = "",
    function: GrowLayer = grow_layer,
) -> LazyTensors:
    """Whatever is shaped like the parameters, grown; tensors that the source lacks are left out.

    Args:
        source: old tensors, named `prefix` and then as in the source's model.
        plan: from `make_plan`.
        growth: for a row of the source's table what to do with its tensors.
        remedy: what to do where a grown tensor's dtype cannot hold its numbers.
        prefix: what comes before every name, in the source and in the result.
        function: what grows one layer.

    Raises:
        FormatError: a grown tensor, when it is asked for, is not finite.
    """
    rows = ((tensor, old, prefix + name) for tensor, old, name in origins(plan))
    grown = {prefix + row[0].name: row for row in rows if row[2] in source.specs}
    growth = cache(growth)
    specs = {}
    for name, (tensor, old, origin) in grown.items():
        dtype = growth(old).dtype
        specs[name] = TensorSpec(source.specs[origin].dtype if dtype is None else jnp.dtype(dtype), tensor.shape)

    def pieces(name: str) -> Iterator[np.ndarray]:
        tensor, old, origin = grown[name]
        own, layer = growth(old), tensor.layer or 0
        # In this thread, whichever it is: what is set in another does not hold here.
        with precision(specs[name].dtype.name), precision(source.specs[origin].dtype.name):
            if entry_by_entry(own) and (function is grow_layer or not has_unknown(own)):
                yield from grown_blocks(source, origin, old, own, layer)
            else:
                grow = _compiled(function, own, old, tensor.spec)
                yield np.asarray(grow(jnp.asarray(in_memory(source, origin)), layer=jnp.int32(layer)))

    return checked(
        LazyTensors(specs, pieces=pieces), remedy=remedy, origin=lambda name: source.tensor(grown[name][2])
    )


@lru_cache(maxsize=512)
def _compiled(function: GrowLayer, growth: LeafGrowth, old: ParamSpec, new: ParamSpec) -> Any:
    """A whole tensor grown, in the shape it has in its file."""
    return jax.jit(lambda x, layer: new.to_hf(function(old.from_hf(x), growth=growth, layer=layer)))


def origins(plan: Plan) -> Iterator[tuple[HFTensor, ParamSpec, str]]:
    """Every tensor of the grown model, its row in the source's table, and the name of the old tensor it continues."""
    rows = {old.name: old for old, _ in plan.target_specs()}
    for tensor in hf_tensors(plan.target):
        old = rows[tensor.spec.name]
        layer = None if tensor.layer is None else plan.stack.source[tensor.layer]
        yield tensor, old, old.hf_name if layer is None else old.hf_name.format(layer=layer)
