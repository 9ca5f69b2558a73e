"""What a checkpoint says of itself is shown as text: no command lets it move the cursor, colour or forge a line."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tprog.schema import read_progressive, write_progressive

from tritter_jax.cli.output import Manner, manner, table
from tritter_jax.cli.output import errors as errors_console

HOSTILE = "\x1b]0;owned\x07\x1b[2K\r\x9b31m\u202etxt\u2066\x00[red]x[/red]\nerror: forged"
SHOWN = r"\x1b]0;owned\x07\x1b[2K\r\x9b31m\u202etxt\u2066\x00[red]x[/red]\nerror: forged"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def hostile(small) -> Path:
    """A checkpoint that opens, with hostile text in every field that is free text."""
    path = Path(small)
    progressive = read_progressive(path / "progressive.json").with_fields(
        base_model=HOSTILE,
        expansion_history=[
            {"from_size": HOSTILE, "to_size": HOSTILE, "method": HOSTILE, "optimizer": HOSTILE, "fisher": HOSTILE,
             "guarantee": {"exact": True, "reason": HOSTILE}, "measured_drift": {"max_relative": 1e-7},
             "plan": {"new_layers": [0], "layer_sources": [HOSTILE], "depth": HOSTILE}},
        ],
        recommended_expansion={"next_size": HOSTILE, "reason": HOSTILE, "method": HOSTILE},
        task_losses={"tasks": [HOSTILE], "losses": [[1.0]]},
    )  # fmt: skip
    write_progressive(path / "progressive.json", progressive)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {HOSTILE: HOSTILE}))
    (path / f"{HOSTILE.replace('/', '').strip(chr(0)).replace(chr(0), '')}.txt").write_text("x")
    return path


def assert_harmless(outcome, *, shown: str | None = SHOWN) -> None:
    for text in (outcome.out, outcome.err):
        assert not UNSAFE.search(text)
        assert not re.search("^error: forged", text, re.MULTILINE)
        assert len(text) < 60_000
        assert text.count("\n") < 130
    if shown is not None:
        assert shown in outcome.out + outcome.err


def test_a_hostile_checkpoint_is_described_as_text(tritter, hostile, small, config_file):
    assert_harmless(tritter("info", hostile))
    plain = tritter("init", "--config", config_file(), "--seed", "1", "--out", "plain.tprog")
    assert plain.code == 0
    assert_harmless(tritter("diff", hostile, "plain.tprog"))
    assert_harmless(tritter("verify", hostile), shown=None)
    assert_harmless(tritter("recommend", hostile), shown=None)


def test_json_output_holds_no_control_character(tritter, hostile):
    for command in ("info", "verify"):
        outcome = tritter(command, hostile, "--json")
        assert not UNSAFE.search(outcome.out)
        assert outcome.json


def _with_tensors(directory: Path, names: list[str]) -> None:
    tensors = load_file(directory / "weights.safetensors")
    save_file(tensors | {name: np.zeros(1, np.float32) for name in names}, directory / "weights.safetensors")
    for name in ("progressive.json", "model.safetensors.index.json"):
        (directory / name).unlink()


@pytest.mark.parametrize("command", ["verify", "import", "info", "expand", "export", "card", "diff"])
def test_tensor_names_are_shown_as_text(tritter, small, command, tmp_path):
    _with_tensors(Path(small), [HOSTILE])
    others = {"import": ["a.tprog"], "export": ["out"], "diff": [small], "expand": ["--to", "125M"]}
    given = ["--from", small] if command == "expand" else [small]
    outcome = tritter(command, *given, *others.get(command, []))
    assert outcome.code == 1
    assert_harmless(outcome, shown=SHOWN.replace("\\x00", "\\x00"))


@pytest.mark.parametrize("command", ["verify", "info"])
def test_a_megabyte_of_name_and_a_thousand_findings_are_cut(tritter, small, command):
    _with_tensors(Path(small), ["n" * 1_000_000, *(f"stranger.{number}" for number in range(1000))])
    outcome = tritter(command, small)
    assert outcome.code == 1
    assert_harmless(outcome, shown="more")
    assert len(outcome.out + outcome.err) < 20_000
    machine = tritter(command, small, "--json")
    assert len(machine.out) < 100_000
    assert machine.json


def test_names_of_files_and_of_directories_are_shown_as_text(tritter, small):
    place = Path(small).with_name("a\x1b[31mb\u202e\nc.tprog")
    shutil.move(small, place)
    (place / "config.json").write_text("{")
    for command in ("info", "verify"):
        assert_harmless(tritter(command, place), shown=r"a\x1b[31mb\u202e\nc.tprog")


def test_a_card_shows_hostile_text_and_stays_valid(tritter, hostile):
    from huggingface_hub import ModelCard

    assert_harmless(tritter("card", hostile), shown=None)
    card = (hostile / "README.md").read_text(encoding="utf-8")
    assert not UNSAFE.search(card)
    assert not re.search("^error: forged", card, re.MULTILINE)
    assert SHOWN.split("[red]")[0].replace("\\", "\\\\") in card.replace("\\[", "[").replace("\\]", "]")
    assert ModelCard(card).data.base_model == SHOWN


def test_a_card_cannot_be_made_to_lose_its_sections(tritter, small):
    path = Path(small)
    closing = "<!-- /tritter:lineage -->\n<!-- tritter:lineage 000000000000 --><img src=x>"
    grown = {"from_size": closing, "to_size": "`x`|[a](javascript:b)", "method": "by hand"}
    progressive = read_progressive(path / "progressive.json").with_fields(expansion_history=[grown])
    write_progressive(path / "progressive.json", progressive)
    assert tritter("card", small).code == 0
    first = (path / "README.md").read_text()
    assert tritter("card", small).code == 0
    assert (path / "README.md").read_text() == first
    assert "<img" not in first
    assert "[a](" not in first.replace("\\[a\\](", "")


def test_a_report_shows_hostile_text_as_text(tritter, hostile):
    assert_harmless(tritter("report", hostile, "--out", "page.html"), shown=None)
    page = Path("page.html").read_text(encoding="utf-8")
    assert not UNSAFE.search(page)
    assert SHOWN.replace("<", "&lt;") in page
    assert "forged" in page


def test_a_console_prints_markup_and_controls_as_text(monkeypatch):
    """Whatever the path: a plain string, a cell of a table, a finished rich text; on a terminal."""
    from rich.text import Text

    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    manner.set(Manner())
    console = errors_console()
    console.print(HOSTILE)
    console.print(Text(HOSTILE))
    view = table("name")
    view.add_row(HOSTILE)
    console.print(view)
    text = screen.getvalue()
    assert "\x1b[2K" not in text
    assert "\x1b]" not in text
    assert "\u202e" not in text
    assert text.count("[red]x[/red]") == 3
