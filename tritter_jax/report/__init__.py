"""A checkpoint's past in one file of HTML that opens without a network."""

from tritter_jax.report.facts import Facts, collect
from tritter_jax.report.page import render, write_report

__all__ = ["Facts", "collect", "render", "write_report"]
