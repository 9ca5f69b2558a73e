"""Answers of the Hub, looked at as they arrive: what huggingface_hub would take on trust, and what would never end.

The client puts files where the header X-Repo-Commit says, follows its API to any host, asks for pages as long as
there is another, and tries five times what nobody answers.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

from tprog.errors import FormatError, UsageError

MOST_PAGES = 200
"""Pages of listings that are read in one go; one holds up to a thousand files."""
MOST_JSON = 64 << 20
"""Bytes of one answer of the API."""
PATIENCE, ATTEMPTS = 20.0, 3
"""Seconds and attempts after which what is never answered is asked for no more."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REMEDY = "Check HF_ENDPOINT and the proxy: what answers there is not the Hub."


class Guard:
    """Looks at the requests and answers of one piece of work.

    Args:
        where: the repository concerned, for errors.
    """

    def __init__(self, where: object) -> None:
        self._where = where
        self._pages = 0
        self._asked: dict[tuple[str, str], tuple[int, float]] = {}

    def request(self, request: Any) -> None:
        """Refuse to ask again what nobody has answered for long.

        Raises:
            UsageError: it was asked often enough.
        """
        key = (request.method, str(request.url))
        attempts, since = self._asked.get(key, (0, time.monotonic()))
        if attempts >= ATTEMPTS and time.monotonic() - since > PATIENCE:
            raise UsageError(
                self._where, expected="an answer from the Hub",
                got=f"none in {attempts} attempts for {urlsplit(key[1]).path}",
                remedy="Check the network and HF_ENDPOINT; what has arrived is kept.",
            )  # fmt: skip
        self._asked[key] = (attempts + 1, since)

    def response(self, response: Any) -> None:
        """Refuse an answer that is none of the Hub's.

        Raises:
            FormatError: its commit is no commit, its API is elsewhere or without an end, or it is too long.
        """
        url, headers = str(response.request.url), response.headers
        self._asked.pop((response.request.method, url), None)
        commit = headers.get("X-Repo-Commit")
        if commit is not None and not _COMMIT.fullmatch(commit):
            raise self._refusal(f"the commit {commit!r}")
        if not urlsplit(url).path.startswith("/api/"):
            return
        location = headers.get("Location")
        if location is not None and (to := urlsplit(urljoin(url, location))).netloc != urlsplit(url).netloc:
            raise self._refusal(f"an API that sends on to {to.netloc!r}")
        length = headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length[:20]) > MOST_JSON:
            raise self._refusal(f"an answer of {length} bytes")
        self._pages += "/tree/" in url
        if self._pages > MOST_PAGES:
            raise self._refusal(f"more than {MOST_PAGES} pages of files")

    def _refusal(self, got: str) -> FormatError:
        return FormatError(self._where, expected="an answer as the Hub gives it", got=got, remedy=_REMEDY)


@contextmanager
def guarded(where: object) -> Iterator[None]:
    """A context in which huggingface_hub's clients are guarded; what the caller set them to is back afterwards."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    before = _http._GLOBAL_CLIENT_FACTORY  # there is a function that sets it, and none that gives it
    guard = Guard(where)

    def client() -> Any:
        made = before()
        made.event_hooks = {
            "request": [*made.event_hooks.get("request", ()), guard.request],
            "response": [*made.event_hooks.get("response", ()), guard.response],
        }
        return made

    huggingface_hub.set_client_factory(client)
    try:
        yield
    finally:
        huggingface_hub.set_client_factory(before)
