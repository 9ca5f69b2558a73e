"""Learning without forgetting: the Fisher information, and the penalty that it weighs."""

from tritter_jax.continual.accumulate import FisherSum, mean_fisher, new_sum
from tritter_jax.continual.estimate import Progress, estimate_fisher
from tritter_jax.continual.ewc import add_penalty, penalty, proximal
from tritter_jax.continual.fisher import ESTIMATORS, UNIT, Estimator
from tritter_jax.continual.forms import FORMS, Chain, Form
from tritter_jax.continual.likelihood import Labelled, language_logits, windows_batch
from tritter_jax.continual.memory import TASKS, Memory, TaskRule, join, remember
from tritter_jax.continual.metrics import TaskLosses
from tritter_jax.continual.stored import stored_memory

__all__ = [
    "ESTIMATORS",
    "FORMS",
    "TASKS",
    "UNIT",
    "Chain",
    "Estimator",
    "FisherSum",
    "Form",
    "Labelled",
    "Memory",
    "Progress",
    "TaskLosses",
    "TaskRule",
    "add_penalty",
    "estimate_fisher",
    "join",
    "language_logits",
    "mean_fisher",
    "new_sum",
    "penalty",
    "proximal",
    "remember",
    "stored_memory",
    "windows_batch",
]
