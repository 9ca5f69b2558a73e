"""What the JSON reader refuses, and that it says which value it was."""

import pytest
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
    ],
)
def test_refused(text, named):
    with pytest.raises(FormatError, match=named):
        parse_json(text.encode(), "config.json")


def test_the_largest_and_the_smallest_numbers_are_read():
    assert parse_json(b'{"a": 1.7976931348623157e308, "b": 1e-999}', "x") == {"a": 1.7976931348623157e308, "b": 0.0}
