"""Growth, continual learning and training of decoder language models in JAX."""

__version__ = "0.1.0"
