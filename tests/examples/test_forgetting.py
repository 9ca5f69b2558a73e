"""The lambda curve: what is compared at the same loss on the new text, and that finished runs are not run again."""

import json

import pytest

from examples.forgetting.__main__ import main, place
from examples.forgetting.report import alike, table
from tritter_jax.demo.learner import Point

FREE = [Point(0, 2.0, 2.5), Point(10, 2.4, 2.0)]
HELD = [Point(0, 2.0, 2.5), Point(10, 2.05, 2.1), Point(20, 2.1, 2.03), Point(30, 2.2, 1.9)]
STIFF = [Point(0, 2.0, 2.5), Point(30, 2.0, 2.4)]


def test_runs_are_compared_where_they_have_learned_as_much():
    assert alike(HELD, 2.0) == HELD[2]
    assert alike(STIFF, 2.0) is None
    lines = table({0: {0.0: FREE, 10.0: HELD, 1e6: STIFF}}).splitlines()[2:]
    assert [line.split(" | ")[-1] for line in lines] == ["100% |", "25% |", "|"]
    assert "never within 2 % | 2.400 at best" in lines[2]


def test_what_is_finished_is_read(tmp_path, capsys):
    for strength, points in ((0.0, FREE), (10.0, HELD)):
        place(tmp_path, 0, strength, 10).write_text(json.dumps({"points": points}))
    main(["--out", str(tmp_path), "--steps", "10", "--lambdas", "10"])
    assert "| 10 | 20 | 2.030 | 2.000 | 2.100 | 25% |" in capsys.readouterr().out
    assert (tmp_path / "forgetting.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "seed-0").exists()


@pytest.mark.parametrize("wrong", ["ten", "1,"])
def test_a_lambda_is_a_number(tmp_path, wrong):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--lambdas", wrong])
