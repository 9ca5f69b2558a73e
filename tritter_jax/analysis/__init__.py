"""What a checkpoint's layers are worth, how its loss falls, and what growth that speaks for."""

from tritter_jax.analysis.fisher_mass import fisher_mass, mass_by_layer
from tritter_jax.analysis.growth_point import GrowthPoint, growth_point
from tritter_jax.analysis.history import History, loss_history
from tritter_jax.analysis.importance import METHOD, LayerMeasures, measure_layers, notable_layers
from tritter_jax.analysis.machine import Memory, this_machine, training_bytes
from tritter_jax.analysis.plot import plot_layers
from tritter_jax.analysis.power_law import PowerLaw, fit_power_law
from tritter_jax.analysis.recommend import Advice, advise
from tritter_jax.analysis.skipping import losses_without
from tritter_jax.analysis.target import next_target, recommended_target

__all__ = [
    "METHOD",
    "Advice",
    "GrowthPoint",
    "History",
    "LayerMeasures",
    "Memory",
    "PowerLaw",
    "advise",
    "fisher_mass",
    "fit_power_law",
    "growth_point",
    "loss_history",
    "losses_without",
    "mass_by_layer",
    "measure_layers",
    "next_target",
    "notable_layers",
    "plot_layers",
    "recommended_target",
    "this_machine",
    "training_bytes",
]
