"""Growing a checkpoint tensor by tensor: no more than one grown tensor and its source are held at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from tprog.params import HFTensor, hf_tensors
from tprog.reader import Checkpoint
from tprog.source import LazyTensors
from tprog.tensorheader import TensorSpec

from tritter_jax.growth.apply import grow_layer, leaf_growth
from tritter_jax.growth.plan import Plan


def grown_tensors(checkpoint: Checkpoint, plan: Plan) -> LazyTensors:
    """The grown model as Hugging Face tensors, each computed when it is asked for.

    Bit for bit what `grow` gives on the whole tree, but for the last bit of what is drawn: its spread is a sum whose
    order the compiler chooses.

    Args:
        checkpoint: the source, open.
        plan: from `make_plan`, for the source's configuration.
    """
    rows = {old.name: (old, new) for old, new in plan.target_specs()}
    grown = {tensor.name: tensor for tensor in hf_tensors(plan.target)}
    compiled = {
        name: jax.jit(partial(grow_layer, growth=leaf_growth(plan, old, "weight"))) for name, (old, _) in rows.items()
    }

    def origin(tensor: HFTensor) -> str:
        old, _ = rows[tensor.spec.name]
        return old.hf_name if tensor.layer is None else old.hf_name.format(layer=plan.stack.source[tensor.layer])

    def make(name: str) -> np.ndarray:
        tensor = grown[name]
        old, new = rows[tensor.spec.name]
        x = old.from_hf(checkpoint.tensor(origin(tensor)))
        y = compiled[tensor.spec.name](jnp.asarray(x), layer=jnp.int32(tensor.layer or 0))
        return new.to_hf(np.asarray(y))

    return LazyTensors(
        {
            name: TensorSpec(
                jnp.dtype(plan.target.dtype) if plan.convert else checkpoint.specs[origin(tensor)].dtype, tensor.shape
            )
            for name, tensor in grown.items()
        },
        make,
    )
