"""tritter report writes one file on a checkpoint that was grown."""

import json
import shutil
from pathlib import Path

from tests.cli.conftest import LARGER


def test_a_grown_checkpoint_and_the_runs_before_it_are_on_one_page(tritter, small, config_file):
    larger = config_file("large.json", **LARGER)
    outcome = tritter("expand", "--from", small, "--to", larger, "--layers", 1, "--no-verify", "--json")
    assert outcome.code == 0, outcome.err
    grown = outcome.json["path"]
    Path("before").mkdir()
    lines = [{"step": step, "loss": 2 + 1 / step, "tokens_seen": 10 * step} for step in range(1, 20)]
    Path("before/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = tritter("report", grown, "--before", "before", "-o", "page.html", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json == {"path": "page.html", "bytes": Path("page.html").stat().st_size, "growths": 1}
    page = Path("page.html").read_text()
    for part in (
        "2 layers became 3, 1 copied",
        "5 query heads became 8",
        "The training loss goes from 3.000",
    ):
        assert part in page
    assert tritter("report", small, "-o", "page.html").code == 0  # replaces its own
    assert "no growth to show" in Path("page.html").read_text()


def test_what_cannot_be_reported_is_told_in_a_paragraph(tritter, small):
    Path("mine.html").write_text("mine")
    assert "an earlier report" in tritter("report", small, "-o", "mine.html").error
    assert "a file that can be written" in tritter("report", small, "-o", "no/such.html").error
    assert "a file that can be written" in tritter("report", small, "-o", ".").error
    Path("empty").mkdir()
    assert "a run directory with a metrics.jsonl" in tritter("report", small, "--before", "empty").error
    assert "Check the path" in tritter("report", "nowhere").error
    assert not Path("report.html").exists()
    shutil.rmtree(small)
    assert "error" in tritter("report", small).error
