"""What stands on the page, without a browser."""

import re
from html.parser import HTMLParser

import pytest
from tprog import UsageError, named_size
from tprog.forgetting import forgetting_matrix
from tprog.schema import Progressive

from tests.report.conftest import HOSTILE
from tritter_jax.growth import make_plan
from tritter_jax.report import Facts, render, write_report
from tritter_jax.report.axes import grown_axes, runs
from tritter_jax.report.facts import loss_curves
from tritter_jax.report.page import GENERATOR

SECTIONS = ["size", "expansion", "loss", "layers", "fisher", "forgetting", "next"]
ALONE = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Collects elements, and fails on one that is left open or closed twice."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(facts):
    return render(facts)


def test_every_section_is_there_and_nothing_is_fetched(page):
    found = Reader(page)
    assert [attributes["id"] for tag, attributes in found.elements if tag == "section"] == SECTIONS
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in found.elements:
        assert not {"src", "srcset", "action", "onload", "onclick"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("href") or "#size")[1:] in ids
    assert "http://" not in page and "https://" not in page and "@import" not in page
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in found.elements}


def test_what_others_wrote_is_text(page):
    assert HOSTILE not in page
    assert Reader(page).text.count(HOSTILE) >= 3


def test_pictures_say_in_words_what_they_show(page):
    found = Reader(page)
    labels = [attributes["aria-label"] for tag, attributes in found.elements if tag == "svg"]
    assert any(label == "26 layers became 32, 6 copied" for label in labels)
    assert any(label == "4,096 hidden units became 5,120, 1,024 fresh" for label in labels)
    assert any("grown (3B to 7B) at 1 B" in label for label in labels)
    assert all(labels)


def test_the_picture_of_a_growth_draws_every_entry_where_it_comes_from():
    plan = make_plan(named_size("3B"), named_size("7B"))
    axes = {axis.title: axis for axis in grown_axes(plan)}
    assert list(axes) == ["layers", "hidden units", "query heads", "key and value heads", "feed-forward units"]
    for title, axis in axes.items():
        assert sum(run.length for run in axis.runs) == axis.after, title
        kept = {place for run in axis.runs if not run.new for place in range(run.source, run.source + run.length)}
        assert kept == set(range(axis.before)), title
    heads = [source for run in axes["query heads"].runs for source in range(run.source, run.source + run.length)]
    assert heads[:8] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert [(run.start, run.length) for run in runs([3, 4, 4, -1, -1], [False] * 5)] == [(0, 2), (2, 1), (3, 2)]


def test_what_was_never_measured_is_said(page):
    config = named_size("test")
    empty = Facts(name="x", config=config, progressive=Progressive.of(config), growths=(), curves=None, analysis=None,
                  fisher=None)  # fmt: skip
    found = Reader(render(empty))
    assert [attributes["id"] for tag, attributes in found.elements if tag == "section"] == SECTIONS
    for part in ("not been grown", "no growth to show", "tritter analyze", "tritter fisher", "tritter recommend",
                 "No losses of earlier tasks"):  # fmt: skip
        assert part in found.text
        assert part not in Reader(page).text


def test_runs_follow_each_other_and_growths_stand_where_they_were():
    def lines(first: int, last: int) -> list[dict]:
        return [{"step": step, "tokens_seen": 10 * step, "loss": 1.0, "held_out_loss": float(first)}
                for step in range(first, last)]  # fmt: skip

    config = named_size("test")
    history = [{"from_size": "a", "to_size": "b", "method": "m", "tokens_after": 30},
               {"from_size": "b", "to_size": "c", "method": "m", "tokens_after": 50}]  # fmt: skip
    known = Progressive.of(config).with_fields(training_progress={"tokens_seen": 200}, expansion_history=history)
    curves = loss_curves([lines(1, 16), [], lines(12, 21)], known)
    assert [x for x, _ in curves.training] == [10.0 * step for step in range(1, 21)]
    assert dict(curves.held_out)[110.0] == 1.0 and dict(curves.held_out)[120.0] == 12.0
    assert curves.growths == ((120.0, "a to b"), (150.0, "b to c"))
    assert loss_curves([[{"step": 1, "loss": 2.0}]], known) is None


def channel(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def luminance(color: str) -> float:
    return sum(part * channel(int(color[at : at + 2], 16) / 255)
               for at, part in ((1, 0.2126), (3, 0.7152), (5, 0.0722)))  # fmt: skip


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_from_what_is_behind_it_light_and_dark(page):
    themes = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", theme))
        for name in ("ink", "soft", "first", "critical", "expendable", "new"):
            for behind in ("card", "paper"):
                assert contrast(colors[name], colors[behind]) >= 4.5, (name, behind)
        for name in ("old", "third", "second"):
            assert contrast(colors[name], colors["card"]) >= 2.9, name
    assert contrast("#777777", "#ffffff") < 4.5  # the control


def test_what_was_forgotten_is_darker(page):
    heats = re.findall(r"--heat:([0-9.]+)", page)
    assert heats == ["0.000", "0.000", "0.000", "0.625", "0.000", "0.000", "1.000", "0.500", "0.000"]
    assert "after prose" in page


@pytest.mark.parametrize(
    "stored", [None, [], {}, *({"tasks": ["a"], "losses": losses} for losses in ([], [[1, 2]], [["x"]], "a"))]
)
def test_no_matrix_is_made_of_what_is_none(stored):
    assert forgetting_matrix(stored) is None


def test_losses_of_many_times_are_compared_with_the_lowest_until_then_in_one_pass():
    reads = 0

    class Counted(list):
        def __getitem__(self, place):
            nonlocal reads
            reads += 1
            return super().__getitem__(place)

    losses = [Counted([2.0, None]), Counted([None, 5.0]), *(Counted([3.0, 4.0]) for _ in range(500))]
    rows = forgetting_matrix({"tasks": ["a", "b"], "losses": losses}).rows
    assert [[cell.lost for cell in cells] for _, cells in rows] == [[0.0, 0.0], [0.0, 0.0], *[[1.0, 0.0]] * 500]
    assert reads <= 2 * len(losses)


def test_only_reports_are_replaced(facts, tmp_path):
    path = tmp_path / "report.html"
    write_report(facts, path)
    first = path.read_text()
    assert f'content="{GENERATOR}' in first
    write_report(facts, path)
    path.write_text("mine")
    with pytest.raises(UsageError, match="an earlier report"):
        write_report(facts, path)
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
