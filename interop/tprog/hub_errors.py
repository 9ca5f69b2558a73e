"""What can go wrong between here and the Hugging Face Hub, told as every other mistake is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tprog.errors import TritterError, UsageError
from tprog.hub_guard import guarded

_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN, as a user who may"
_AGAIN = "Try again; what has arrived is kept, and the same command goes on from there."
_TRANSPORT = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "hf_xet")
_UNAVAILABLE = 500
_ADDRESS = {
    "UnsupportedProtocol",
    "InvalidURL",
    "MissingSchema",
    "InvalidSchema",
    "InvalidProxyURL",
}
_BY_STATUS = {
    401: ("a token that the Hub knows", "one it refuses", "Log in anew with `hf auth login`, or mend HF_TOKEN."),
    403: ("leave to do this", "a token without it", f"{_LOGIN} write there."),
    409: ("a repository that nobody else is changing", "a conflict", "Run the command again."),
    412: ("the repository as it was a moment ago", "a commit that came in between", "Run the command again."),
    429: ("an answer", "too many requests (429), after several tries", _AGAIN),
}


def library() -> Any:
    """The module huggingface_hub.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(
            "the Hugging Face Hub", expected="the extra hub", got="no huggingface_hub installed",
            remedy="Install it with `pip install 'tritter-jax[hub]'`.",
        ) from None  # fmt: skip
    return huggingface_hub


@contextmanager
def told(where: object) -> Iterator[None]:
    """A context in which what the Hub refuses, or the network loses, is an error that says so.

    Args:
        where: the repository concerned.

    Raises:
        FormatError: an answer is none of the Hub's.
        UsageError: in place of the errors of huggingface_hub and of the HTTP client below it.
    """
    try:
        with guarded(where):
            yield
    except Exception as error:
        root = _root(error)
        if isinstance(root, TritterError):
            raise root from None
        known = _explain(root)
        if known is None:
            raise
        expected, got, remedy = known
        raise UsageError(where, expected=expected, got=got, remedy=remedy) from None


def is_offline(error: Exception) -> bool:
    """Whether an error means that the Hub could not be reached at all."""
    cause = _root(error)
    return isinstance(cause, ConnectionError) or _module(cause) in _TRANSPORT


def _root(error: BaseException) -> BaseException:
    """What a wrapper was raised for: an upload that failed in a thread, a file that is in no cache either."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        if not isinstance(error, RuntimeError | LocalEntryNotFoundError):
            break
        error = error.__cause__
    return error


def _module(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _explain(error: BaseException) -> tuple[str, str, str] | None:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "a repository that you may read", "a gated one", "Ask for access on its page, then log in."
    if isinstance(error, errors.RepositoryNotFoundError):
        got = "a missing repository, or a private one that you may not read"
        return "a repository on the Hub", got, f"Check its name. {_LOGIN} read it."
    if isinstance(error, errors.RevisionNotFoundError):
        return "a branch, tag or commit of that name", "none", "Check what follows the @."
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        got = "nothing in the cache, and no network (or HF_HUB_OFFLINE is set)"
        return "a model from the Hub", got, "Check the network, or give a directory."
    if isinstance(error, errors.EntryNotFoundError):
        return "a repository that holds a model", "one without config.json", "Check its name and revision."
    if isinstance(error, errors.HFValidationError):
        return "org/name or org/name@revision", str(error).splitlines()[0], "Mend it."
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error)
    if _module(error) in _TRANSPORT and (permanent := _permanent(error)) is not None:
        return "an answer from the Hub", f"no connection ({error})", permanent
    if _module(error) in _TRANSPORT or isinstance(error, ConnectionError):
        return "an answer from the Hub", f"no connection ({error})", f"Check the network. {_AGAIN}"
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return "a whole file", str(error).splitlines()[0], _AGAIN
    if isinstance(error, ValueError) and "Invalid metadata" in str(error):
        return "a card whose metadata is valid", " ".join(str(error).split()), "Mend the head of README.md."
    return None


def _permanent(error: BaseException) -> str | None:
    """What to do about an error of the HTTP client that comes again each time: the name of its class tells."""
    name, text = type(error).__name__, str(error)
    if name in _ADDRESS or "unknown url type" in text:
        return "Correct HF_ENDPOINT, or the proxy in HTTPS_PROXY: no address is read from it."
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "Set SSL_CERT_FILE to the certificates of your network, or correct HF_ENDPOINT."
    return "Correct HF_ENDPOINT: it redirects without end." if name == "TooManyRedirects" else None


def _by_status(error: Any) -> tuple[str, str, str]:
    status = error.response.status_code
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= _UNAVAILABLE:
        return "an answer", f"an error of the Hub itself ({status}), after several tries", _AGAIN
    return "a request that the Hub accepts", f"{status}: {' '.join(str(error).split())[:300]}", "Check the options."
