"""What answers in the Hub's place is found out: by its commit, by where it sends on to, and by never ending."""

import time
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.utils import _http
from tprog.errors import FormatError, UsageError
from tprog.hub import fetch, pull
from tprog.hub_guard import ATTEMPTS, MOST_PAGES, PATIENCE, Guard


def answer(url="https://hub/api/models/a/b", method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(headers=headers, request=SimpleNamespace(url=url, method=method))


@pytest.mark.parametrize("commit", ["../" * 4 + "evil", "main", "A" * 40, "a" * 41, "/etc", ""])
def test_a_header_that_names_no_commit_is_refused(commit):
    with pytest.raises(FormatError, match="expected an answer as the Hub gives it"):
        Guard("a/b").response(answer("https://hub/a/b/resolve/main/config.json", X_Repo_Commit=commit))
    Guard("a/b").response(answer(X_Repo_Commit="0123456789" * 4))


def test_an_api_that_sends_on_to_another_host_is_refused():
    guard = Guard("a/b")
    guard.response(answer(Location="/api/models/a/c"))  # a repository that was renamed
    guard.response(answer("https://hub/a/b/resolve/main/x", Location="https://cdn/x"))  # a large file
    with pytest.raises(FormatError, match="sends on to 'evil'"):
        guard.response(answer(Location="https://evil/api/models/a/b"))


def test_pages_without_end_end():
    guard = Guard("a/b")
    for _ in range(MOST_PAGES):
        guard.response(answer("https://hub/api/models/a/b/tree/main"))
    with pytest.raises(FormatError, match=f"more than {MOST_PAGES} pages"):
        guard.response(answer("https://hub/api/models/a/b/tree/main"))


@pytest.mark.parametrize("length", ["99999999999", "9" * 5000, "many"])
def test_an_answer_that_is_too_long_is_not_read(length):
    with pytest.raises(FormatError, match="an answer of"):
        Guard("a/b").response(answer(Content_Length=length))


def test_what_is_never_answered_is_asked_for_no_more(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    guard, request = Guard("a/b"), SimpleNamespace(method="GET", url="https://hub/a/b/resolve/main/x")
    for _ in range(ATTEMPTS):
        guard.request(request)
        now[0] += PATIENCE / 2
    with pytest.raises(UsageError, match=f"none in {ATTEMPTS} attempts for /a/b/resolve/main/x"):
        guard.request(request)
    guard.response(answer(request.url))
    guard.request(request)  # answered since


@pytest.mark.parametrize("take", [fetch, pull])
def test_a_commit_that_leads_out_of_the_cache_writes_nothing_there(hub, checkpoint, tmp_path, monkeypatch, take):
    monkeypatch.chdir(tmp_path)
    from tprog.hub_push import push

    push(checkpoint, "org/poet")
    repository = hub.repositories["org/poet"]
    evil = "../../../../evil"
    repository.commits[evil] = repository.files()
    repository.branches["main"] = evil
    with pytest.raises(FormatError, match=r"the commit '\.\./") as caught:
        take("org/poet")
    assert "HF_ENDPOINT" in str(caught.value)
    assert not list(tmp_path.rglob("evil*"))


def test_the_callers_own_client_is_back_afterwards(hub):
    before = _http._GLOBAL_CLIENT_FACTORY
    with pytest.raises(UsageError):
        fetch("org/nothing")
    assert _http._GLOBAL_CLIENT_FACTORY is before
    assert not any(
        "Guard" in repr(hook) for hooks in huggingface_hub.utils.get_session().event_hooks.values() for hook in hooks
    )
