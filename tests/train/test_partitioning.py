"""XLA partitions the step without copying a whole batch to every device, which it does with a warning only."""

import os
import subprocess
import sys

import pytest

COMPILE = """
import sys
import jax, jax.numpy as jnp, optax, tprog
import tritter_jax.model.decoder as decoder
from tritter_jax.model import init_params
from tritter_jax.sharding import MeshShape, make_mesh
from tritter_jax.train.state import new_state
from tritter_jax.train.step import compile_eval_step, compile_train_step

jax.config.update("jax_disable_most_optimizations", True)  # partitioning is none of them
fault, *meshes = sys.argv[1:]
if fault == "cut rows":
    decoder.look_up = lambda embed, tokens: jnp.take(embed, tokens, axis=0)
config = tprog.ModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48, vocab_size=320,
    tie_embeddings=fault == "tied",
)
optimizer = optax.adamw(1e-3)
abstract = jax.eval_shape(lambda: new_state(init_params(config), optimizer, 0))
windows = jax.ShapeDtypeStruct((16, 33), jnp.int32)
for sizes in meshes:
    mesh = make_mesh(MeshShape(**dict(zip(("data", "fsdp", "tensor"), map(int, sizes.split("x"))))))
    with jax.set_mesh(mesh):
        for options in ({}, {"accumulate": 2, "remat": "full", "dtype": "bfloat16"}):
            step = compile_train_step(abstract, mesh, config, optimizer, **options)
            step.lower(abstract, windows, jnp.int32(0)).compile()
            if fault == "cut rows":
                break
        weights = jax.ShapeDtypeStruct((16, 32), jnp.float32)
        compile_eval_step(mesh, config).lower(abstract.params, windows, weights).compile()
print("compiled")
"""


def compiled(*arguments: str) -> str:
    """What the compiler says on standard error."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "TF_CPP_MIN_LOG_LEVEL": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]
    return done.stderr


def test_a_mesh_of_three_axes_makes_xla_copy_no_whole_tensor():
    assert "rematerialization" not in compiled("none", "2x2x2")


@pytest.mark.slow
@pytest.mark.parametrize("tied", ["tied", "untied"])
def test_no_mesh_makes_xla_copy_whole_tensors(tied):
    assert "rematerialization" not in compiled(tied, "4x1x2", "1x4x2", "2x2x2")


def test_an_embedding_gathered_by_cut_columns_would_be_copied():
    assert "Involuntary full rematerialization" in compiled("cut rows", "2x2x2")
