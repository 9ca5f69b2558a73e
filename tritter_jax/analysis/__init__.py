"""What a checkpoint's layers are worth, how its loss falls, and what growth that speaks for."""

from tritter_jax.analysis.fisher_mass import fisher_mass, mass_by_layer
from tritter_jax.analysis.importance import METHOD, LayerMeasures, measure_layers, notable_layers
from tritter_jax.analysis.plot import plot_layers
from tritter_jax.analysis.skipping import losses_without

__all__ = [
    "METHOD",
    "LayerMeasures",
    "fisher_mass",
    "losses_without",
    "mass_by_layer",
    "measure_layers",
    "notable_layers",
    "plot_layers",
]
