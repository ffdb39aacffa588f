"""What went wrong on another machine, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from converter.errors import ConverterError, UnsupportedError
from converter.extras import install_hint
from converter.remote.url import Url

_LIBRARIES = frozenset(
    "adlfs aiobotocore aiohttp azure botocore gcsfs google huggingface_hub paramiko requests "
    "s3fs urllib3 httpx httpcore".split()
)
"""The libraries of protocols, whose errors are told and not taken for our own."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Protocol → the extra that brings its library."""

_LOGIN = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a server of your "
    "own also AWS_ENDPOINT_URL.",
    "gs": "Log in with `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS.",
    "hf": "Log in with `hf auth login`, or set HF_TOKEN.",
}
"""Extra or protocol → how to say who one is."""


@contextmanager
def telling(kind: type[ConverterError], url: Url, what: str) -> Iterator[None]:
    """Turn what a protocol's library raises within the block into one error of `kind`.

    Args:
        kind: the class of the error.
        url: where.
        what: what could not be done, such as ``"cannot be read"``.

    Raises:
        ConverterError: of `kind`. Errors of this package pass as they are.
    """
    try:
        yield
    except ConverterError:
        raise
    except Exception as error:
        found = _reason(error, url)
        if found is None:
            raise
        reason, remedy = found
        lacking = isinstance(error, ImportError) or "Protocol not known" in str(error)
        raise (UnsupportedError if lacking else kind)(
            f"{url}: {what}: {reason}", remedy=remedy
        ) from error


def _reason(error: Exception, url: Url) -> tuple[str, str | None] | None:
    """What `error` means and what to do, ``None`` if it has nothing to do with the protocol."""
    name, text = type(error).__name__, _short(error)
    login = _LOGIN.get(_EXTRAS.get(url.protocol, url.protocol))
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(url.protocol)
        hint = f"Install it: {install_hint(extra)}." if extra else None
        return f"the library for {url.protocol}:// is not installed ({text})", hint
    if isinstance(error, ValueError) and "Protocol not known" in text:
        return "there is no such protocol", "Known are s3://, gs://, hf:// and what fsspec knows."
    if isinstance(error, FileNotFoundError):
        if "bucket" in text.lower():
            bucket = url.bare.partition("://")[2].partition("/")[0]
            return f"there is no bucket {bucket}", "Make it first, or correct its name."
        return "there is nothing", "Look whether the URL is right."
    if isinstance(error, NotImplementedError):
        return f"{url.protocol}:// does not allow that", None
    if isinstance(error, PermissionError):
        return f"access is denied: {text}", login
    if "Credentials" in name or "ProfileNotFound" in name:
        return f"no credentials: {text}", login
    if isinstance(error, ConnectionError | TimeoutError) or "Connect" in name or "Timeout" in name:
        return f"no connection: {text}", "Look whether the server runs, and try again."
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES:
        return text, None
    return None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
