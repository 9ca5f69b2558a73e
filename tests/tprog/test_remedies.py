"""What an error tells to do can succeed: only what was cut short or changed on its way is worth fetching again."""

import importlib
import json
from importlib.util import find_spec

import pytest
from tprog.errors import FormatError, UsageError
from tprog.hub_errors import told
from tprog.jsonio import parse_json
from tprog.tensorheader import parse_header

# The client of huggingface_hub, by its release.
httpx = importlib.import_module("httpx2" if find_spec("httpx2") else "httpx")
JSON = {
    b'{"a": NaN}': "Write another number there",
    b'{"a": 1e999}': "Write another number there",
    b'{"a": 1, "a": 2}': "Remove one of the two",
    b'{"a": "\xff"}': "Save the file as UTF-8",
    b"[1]": "put the model's own file there",
    b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}": "put the model's own file there",
}


def is_fetched(remedy: str) -> bool:
    return "fetch" in remedy.lower() or "Run the command again" in remedy


@pytest.mark.parametrize(("text", "said"), JSON.items(), ids=range(len(JSON)))
def test_json_that_would_arrive_the_same_is_not_worth_fetching_again(text, said):
    with pytest.raises(FormatError) as caught:
        parse_json(text, "config.json")
    assert said in caught.value.remedy
    assert not is_fetched(caught.value.remedy)


def test_the_control_json_that_is_cut_short_is_worth_fetching_again():
    with pytest.raises(FormatError) as caught:
        parse_json(b'{"a": 1, "b', "config.json")
    assert is_fetched(caught.value.remedy)


def header(size: int = 8, **changes) -> tuple[bytes, int]:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    data = json.dumps({"x": entry}).encode()
    return data, 8 + len(data) + size


@pytest.mark.parametrize(
    "made",
    [
        header(dtype="F4"), header(shape=[3]), header(shape=[-2]), header(data_offsets=[8, 0]), header(more=1),
        header(size=9), (b"[]", 10),
    ],
    ids=range(7),
)  # fmt: skip
def test_a_tensor_file_that_no_reader_takes_is_not_worth_fetching_again(made):
    with pytest.raises(FormatError) as caught:
        parse_header(*made, "a.safetensors")
    assert not is_fetched(caught.value.remedy)


def test_the_control_a_tensor_file_that_is_cut_short_is_worth_fetching_again():
    with pytest.raises(FormatError) as caught:
        parse_header(*header(size=7), "a.safetensors")
    assert is_fetched(caught.value.remedy)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.UnsupportedProtocol("no http:// or https://"), "Correct HF_ENDPOINT"),
        (httpx.InvalidURL("Invalid port"), "Correct HF_ENDPOINT"),
        (httpx.TooManyRedirects("Exceeded maximum allowed redirects."), "Correct HF_ENDPOINT"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), "SSL_CERT_FILE"),
    ],
    ids=["no scheme", "no address", "redirects", "certificate"],
)
def test_a_connection_that_fails_the_same_way_each_time_is_not_tried_again(error, said):
    with pytest.raises(UsageError) as caught, told("org/model"):
        raise error
    assert said in caught.value.remedy
    assert "again" not in caught.value.remedy


def test_the_control_a_connection_that_was_lost_is_worth_another_try():
    with pytest.raises(UsageError, match="Try again"), told("org/model"):
        raise httpx.ConnectError("Connection refused")
