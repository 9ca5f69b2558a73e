"""The demonstration behind `tritter demo`."""

from tritter_jax.demo.compare import Row, net2net
from tritter_jax.demo.run import Outcome, run_demo

__all__ = ["Outcome", "Row", "net2net", "run_demo"]
