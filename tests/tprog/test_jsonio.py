"""What the JSON reader refuses, and that it says which value it was."""

import json

import pytest
from tprog.bounds import METADATA, Bound
from tprog.errors import FormatError
from tprog.jsonio import parse_json


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"a": 2e308}', "2e308"),
        ('{"a": {"b": [-1e999]}}', "-1e999"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ("[]", "a list"),
        ('{"a": ' * 5000, "nested too deep"),
        ('{"a": ' * 200 + "1" + "}" * 200, "nested too deep"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "nested too deep"),
        (r'{"a": "\ud800"}', "surrogate"),
        (r'{"\uDFFF": 1}', "surrogate"),
        (r'{"a": "\udc00\ud800"}', "surrogate"),
        (r'{"a": ["\\\ud83d"]}', "surrogate"),
        ('{"a": ' + "1" * 5000 + "}", "digits"),
    ],
)
def test_refused(text, named):
    with pytest.raises(FormatError, match=named):
        parse_json(text.encode(), "config.json")


def test_whole_surrogate_pairs_and_escaped_backslashes_are_read():
    text = rb'{"a": "\ud83d\ude00", "b": "\\ud800", "c": "\\\\ud800 \u0061"}'
    assert parse_json(text, "x") == {"a": "\N{GRINNING FACE}", "b": "\\ud800", "c": "\\\\ud800 a"}


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_numbers_beyond_64_bits_are_refused_in_metadata_alone(number):
    text = json.dumps({"a": [{"b": number}]}).encode()
    assert parse_json(text, "tokenizer_config.json") == {"a": [{"b": number}]}
    with pytest.raises(FormatError, match="does not fit 64 bits"):
        parse_json(text, "progressive.json", METADATA)
    for allowed in (2**63 - 1, -(2**63)):
        assert parse_json(json.dumps({"a": allowed}).encode(), "x", METADATA) == {"a": allowed}


def test_bounds_are_kept_before_anything_is_parsed():
    bounds = Bound(nbytes=1000, values=10)
    assert len(parse_json(json.dumps({str(key): 0 for key in range(10)}).encode(), "x", bounds)) == 10
    with pytest.raises(FormatError, match="more than 10 values"):
        parse_json(json.dumps({str(key): 0 for key in range(11)}).encode(), "x", bounds)


def test_the_largest_and_the_smallest_numbers_are_read():
    assert parse_json(b'{"a": 1.7976931348623157e308, "b": 1e-999}', "x") == {"a": 1.7976931348623157e308, "b": 0.0}
