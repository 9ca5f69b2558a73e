"""Answers of a hub that are not what they should be: refused by name, in bounded time."""

import itertools
from types import SimpleNamespace

import pytest
from tprog.errors import FormatError
from tprog.hub_files import MOST_FILES, Listing

COMMIT = "a" * 40


def entry(**fields):
    return SimpleNamespace(**{"path": "a.txt", "size": 1, "lfs": None, "blob_id": "b" * 40} | fields)


class Api:
    """A client that gives what a hub answered."""

    def __init__(self, sha=COMMIT, entries=(), fault=None):
        self.sha, self.entries, self.fault = sha, entries, fault

    def model_info(self, repository, revision):
        return SimpleNamespace(sha=self.sha, private=False)

    def list_repo_tree(self, repository, **_):
        if self.fault is not None:
            raise self.fault
        yield from self.entries


@pytest.mark.parametrize("sha", [None, 7, "", "main", "../" * 20, "a" * 39 + "\x1b", ["a"], "A" * 10**6])
def test_a_commit_that_is_none_is_refused(sha):
    with pytest.raises(FormatError, match=r"expected a listing of files.*HF_ENDPOINT") as caught:
        Listing.of(Api(sha), "org/model", None)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "fields",
    [
        {"path": 3},
        {"path": "a" * 10**5},
        {"size": "1"},
        {"size": -1},
        {"size": 1 << 80},
        {"size": None},
        {"blob_id": None},
        {"lfs": SimpleNamespace(sha256=5)},
    ],
)
def test_an_entry_that_is_no_file_is_refused(fields):
    with pytest.raises(FormatError, match="expected a listing of files"):
        Listing.of(Api(entries=[entry(**fields)]), "org/model", None)


def test_a_listing_without_end_ends():
    numbers = itertools.count()
    endless = (entry(path=f"{number}.txt") for number in numbers)
    with pytest.raises(FormatError, match=f"more than {MOST_FILES:,} entries"):
        Listing.of(Api(entries=endless), "org/model", None)
    assert next(numbers) == MOST_FILES + 1


@pytest.mark.parametrize("fault", [RecursionError(), KeyError("type"), TypeError(), AttributeError()])
def test_an_answer_that_the_client_cannot_read_is_refused(fault):
    with pytest.raises(FormatError, match=f"another form .{type(fault).__name__}"):
        Listing.of(Api(fault=fault), "org/model", None)
