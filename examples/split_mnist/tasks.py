"""Five tasks of two digits in turn: train on each, measure its Fisher information, remember it."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from split_mnist.data import Digits
from split_mnist.fisher import measure
from split_mnist.network import ADAM, CLASSES, HIDDEN, OUTPUTS, accuracy, init_network, train
from tritter_jax.continual import Memory, join, remember

TASKS = OUTPUTS // CLASSES


class SplitMnist:
    """What the rows of one seed share: which digits make a task, the first weights, and the first task's training.

    Args:
        digits: the data.
        seed: of which digits go together and in which order, the first weights, the batches, and drawn labels.
        iterations: training steps a task.
        batch: images a step.
        rule: how several tasks are remembered, a key of `tritter_jax.continual.TASKS`.
        hidden: units of either hidden layer.
    """

    def __init__(
        self,
        digits: Digits,
        seed: int,
        *,
        iterations: int = 2000,
        batch: int = 128,
        rule: str = "online",
        hidden: int = HIDDEN,
    ):
        self.seed, self.iterations, self.batch, self.rule, self.hidden = seed, iterations, batch, rule, hidden
        order = np.random.default_rng([seed, TASKS]).permutation(OUTPUTS).astype(np.int32)
        self.train_x, self.train_y = jnp.asarray(digits.train_x), order[digits.train_y]
        self.test_x, self.test_y = digits.test_x, order[digits.test_y]
        self._memories: dict[str, Memory] = {}

    def run(self, row: str, strength: float) -> list[float]:
        """Test accuracy on each task, after the last.

        Args:
            row: a key of `split_mnist.fisher.ROWS`.
            strength: lambda.
        """
        memory, (params, state) = None, self._first
        for task in range(1, TASKS):
            if row != "none":
                memory = join(memory, self._remembered(row, task - 1, params), rule=self.rule)
            params, state = self._train(params, state, memory, task, strength)
        return self.accuracies(params)

    def accuracies(self, params: dict) -> list[float]:
        """Test accuracy on each task."""
        rows = [np.flatnonzero(self.test_y // CLASSES == task) for task in range(TASKS)]
        return [
            float(accuracy(params, self.test_x[each], self.test_y[each] % CLASSES, jnp.int32(task)))
            for task, each in enumerate(rows)
        ]

    @cached_property
    def _first(self) -> tuple[dict, Any]:
        """After the first task, in which no row has a say."""
        params = init_network(self.train_x.shape[1], self.seed, self.hidden)
        return self._train(params, ADAM.init(params), None, 0, 0.0)

    def _remembered(self, row: str, task: int, params: dict) -> Memory:
        if task == 0 and row in self._memories:
            return self._memories[row]
        rows = self._rows(task)
        images, labels = np.asarray(self.train_x)[rows], self.train_y[rows] % CLASSES
        memory = remember(measure(row, task, params, images, labels, self.seed), params)
        if task == 0:
            self._memories[row] = memory
        return memory

    def _train(self, params: dict, state: Any, memory: Memory | None, task: int, strength: float) -> tuple[dict, Any]:
        if memory is None:
            memory = remember(jax.tree.map(jnp.zeros_like, params), params)
        rows, count, rng = self._rows(task), self.iterations * self.batch, np.random.default_rng([self.seed, task])
        passes = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
        picks = jnp.asarray(np.concatenate(passes)[:count].reshape(self.iterations, self.batch), jnp.int32)
        labels = jnp.asarray(self.train_y % CLASSES)
        return train(params, state, memory, self.train_x, labels, picks, jnp.int32(task), strength=strength)

    def _rows(self, task: int) -> np.ndarray:
        return np.flatnonzero(self.train_y // CLASSES == task)
