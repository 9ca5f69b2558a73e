"""When to grow: where the comparison sees growing win, and that its runs are what it says they are."""

import pytest

from examples.when_to_grow.__main__ import LARGE, SMALL, Comparison, Moment, crossing, predictions
from tritter_jax.data import byte_tokenizer, open_corpus, tokenize
from tritter_jax.growth import make_plan


def moments(*ahead: float) -> list[Moment]:
    return [Moment(step=10**place, grown=2.0, going_on=2.0 + value) for place, value in enumerate(ahead, 1)]


def test_growing_wins_from_where_it_stays_ahead():
    assert crossing(moments(-0.1, -0.1)) is None
    assert crossing(moments(0.1, -0.1)) is None
    assert crossing(moments(0.1, 0.2)) == 10
    assert crossing(moments(-0.1, 0.1)) == pytest.approx(10**1.5)
    assert crossing(moments(-0.1, 0.2, -0.1, 0.3)) == pytest.approx(10**3.25)


def test_predictions_know_no_more_than_the_history_that_they_are_given():
    curve = [
        {"step": step, "loss": 2 + step**-0.3, "tokens_seen": 1024 * step, "learning_rate": 1.0}
        for step in range(1, 401)
    ]
    first, second, last = predictions(curve, 400)
    assert (first["known"], second["known"], last["known"]) == (100, 200, 400)
    assert first["low"] < first["best"] < first["high"]
    assert last["exponent"] == pytest.approx(0.3, abs=0.02)
    assert make_plan(SMALL, LARGE).guarantee.exact


@pytest.mark.slow
def test_a_short_comparison_grows_at_each_moment(tmp_path):
    tokens = tokenize(open_corpus("builtin:prose"), byte_tokenizer(), cache=tmp_path)
    curve, found = Comparison(tokens, 0, 0.5).run(120, 2)
    assert [moment.step for moment in found] == [4, 80]
    assert max(line["step"] for line in curve) == 120
    for moment in found:
        assert abs(moment.grown - moment.going_on) < 0.5
