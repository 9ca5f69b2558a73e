"""Texts from outside are shown as one short line each, without a character that a terminal or a page would obey."""

import logging
import unicodedata

import pytest
from tprog.errors import FormatError, UsageError
from tprog.printable import cut, escape_controls, markdown, printable

ESC, BEL, NUL, CSI = "\x1b", "\x07", "\x00", "\x9b"
BIDI = [chr(code) for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))]
UNSAFE = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *BIDI, *"\u2028\u2029\ufeff\ud800\udfff"]


@pytest.mark.parametrize("character", UNSAFE, ids=lambda character: f"U+{ord(character):04X}")
def test_unsafe_characters_are_shown_as_escapes(character):
    shown = printable(f"a{character}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")
    assert character in "\t\n" or escape_controls(f"a{character}b") == shown


@pytest.mark.parametrize("text", ["weights.safetensors", "größe", "層", "می‌خواهم", "👩‍💻", "▁the", "a\\nb"])
def test_text_in_any_script_stays(text):
    assert printable(text) == escape_controls(text) == text


def test_no_bidirectional_control_is_left_out():
    controls = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    found = [chr(code) for code in range(0x11_0000) if unicodedata.bidirectional(chr(code)) in controls]
    assert len(found) == 9
    assert printable("".join(found)).isascii()


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, ESC * 1_000_000, "\ud800" * 1000], ids=["plain", "esc", "surrogate"]
)
def test_long_texts_are_shortened_in_the_middle(text):
    shown = printable(f"first {text} last")
    assert len(shown) <= 300
    assert shown.startswith("first ")
    assert shown.endswith(" last")
    assert printable(shown) == shown


def test_lists_are_cut_and_the_rest_is_counted():
    assert cut(list("abc"), 3) == ["a", "b", "c"]
    assert cut(list("abc"), 1, 10) == ["a", "and 12 more"]


def test_errors_escape_and_shorten_what_they_are_given():
    hostile = f"{ESC}]0;owned{BEL}\n{CSI}31m\u202egnp.exe" + "n" * 1_000_000
    error = FormatError(hostile, expected=hostile, got=hostile, remedy=hostile, findings=[hostile] * 1000)
    for text in (error.where, error.expected, error.got, error.remedy, *error.findings):
        assert text.isprintable()
        assert len(text) <= 2000
    lines = str(error).split("\n")
    assert len(lines) == 102
    assert lines[-1] == "  and 900 more"
    assert all(line.isprintable() for line in lines)
    document = error.to_json()
    assert (len(document["findings"]), document["more"]) == (100, 900)
    assert len(str(document)) < 50_000


def test_errors_name_a_foreign_choice_without_its_controls():
    assert "\\x1b" in str(UsageError.unknown("--depth", f"a{ESC}", ["identity"]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[click](javascript:x)", "\\[click\\](javascript:x)"),
        ("<script>", "&lt;script&gt;"),
        ("<!-- /tritter:lineage -->", "&lt;!-- /tritter:lineage --&gt;"),
        ("a\n# b", "a\\\\n# b"),
        ("`x`", "\\`x\\`"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_markdown_of_a_text_is_the_text(text, shown):
    assert markdown(text) == shown


def test_log_records_of_verbose_commands_are_escaped():
    from tritter_jax.cli.speaking import _Formatter

    record = logging.LogRecord("lib", logging.INFO, "", 0, "reading %s", (f"a{ESC}[2Jb",), None)
    assert _Formatter("%(message)s").format(record) == "reading a\\x1b[2Jb"
