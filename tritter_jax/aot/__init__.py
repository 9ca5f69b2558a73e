"""Compiling for a TPU that is not here: does a configuration fit, what does it do, how long must it take at least."""

from tritter_jax.aot.check import check
from tritter_jax.aot.plan import Candidate, best, candidates
from tritter_jax.aot.report import Check, Remedy
from tritter_jax.aot.topology import CHIPS, Chip, Topology

__all__ = ["CHIPS", "Candidate", "Check", "Chip", "Remedy", "Topology", "best", "candidates", "check"]
