"""Average loss, transfer and forgetting, written out for three tasks; and what cannot be told is left open."""

import numpy as np
import pytest
from tprog import UsageError
from tprog.schema import Progressive

from tests.continual.references import tiny_config
from tritter_jax.continual.metrics import TaskLosses

R = np.array([[2.1, 4.0, 3.9], [2.6, 1.8, 3.5], [2.4, 2.2, 1.7]])
UNTRAINED = (5.0, 5.1, 5.2)


def of(matrix, **options):
    tasks = tuple("ABC"[: len(matrix[0])])
    return TaskLosses(tasks=tasks, losses=tuple(map(tuple, matrix)), **options)


def test_the_formulas_of_the_papers_with_the_sign_of_losses():
    found = of(R.tolist(), untrained=UNTRAINED)
    assert found.average_loss == pytest.approx((2.4 + 2.2 + 1.7) / 3)
    assert found.backward_transfer == pytest.approx(((2.1 - 2.4) + (1.8 - 2.2)) / 2)
    assert found.forward_transfer == pytest.approx(((5.1 - 4.0) + (5.2 - 3.5)) / 2)
    assert found.forgetting == pytest.approx(((2.4 - 2.1) + (2.2 - 1.8)) / 2)
    assert [each.task for each in found.by_task] == ["A", "B", "C"]
    assert found.by_task[-1].forgetting is None


def test_forgetting_is_against_the_best_there_was_and_transfer_against_when_it_was_learned():
    matrix = R.copy()
    matrix[1, 0] = 1.9  # learning B helped A, before C
    found = of(matrix.tolist()).by_task[0]
    assert found.forgetting == pytest.approx(2.4 - 1.9)
    assert found.backward_transfer == pytest.approx(2.1 - 2.4)


def test_what_is_kept_better_than_ever_is_forgotten_by_less_than_nothing():
    found = of([[2.0, 4.0], [1.5, 1.0]])
    assert found.forgetting == -0.5
    assert found.backward_transfer == 0.5
    assert found.forward_transfer is None  # nothing is known of an untrained model


def test_with_other_times_than_tasks_all_tasks_are_old():
    found = of([[2.0, 3.0, 4.0], [2.5, 3.0, 3.5]])
    assert [each.forgetting for each in found.by_task] == [0.5, 0, -0.5]
    assert found.forgetting == 0
    assert of([[2.0, 3.0]]).forgetting is None


def test_a_loss_that_is_not_known_leaves_open_what_needs_it():
    found = of([[2.0, None], [None, 1.0]], untrained=(5.0, 5.0))
    assert (found.average_loss, found.forward_transfer) == (None, None)
    assert found.by_task[1].loss == 1.0
    assert of([[2.0, None], [2.5, 1.0]]).forgetting == 0.5


def test_progressive_json_holds_it():
    config = tiny_config()
    found = of([[2.0, None], [2.5, 1.0]]).to_json()
    stored = Progressive.of(config).with_fields(task_losses=found).to_json()["task_losses"]
    assert stored == found
    assert stored["forgetting"] == 0.5


@pytest.mark.parametrize(
    ("rows", "said"), [([[1.0, 2.0], [1.0]], "a row of 1"), ([[1.0, 2.0], [1.0, 2.0, 3.0]], "of 3")]
)
def test_rows_that_do_not_fit_are_refused(rows, said):
    with pytest.raises(UsageError, match=f"rows of 2, a loss for each task, got a .*{said.split()[-1]}"):
        TaskLosses(tasks=("A", "B"), losses=tuple(map(tuple, rows)))
    with pytest.raises(UsageError, match="got none"):
        TaskLosses(tasks=("A",), losses=())
