"""Requests to the Hub: retries, byte ranges, and errors that say what to do.

The client raises the errors of its HTTP library, which differs between its major versions:
requests in 0.36, httpx in 1.x, httpx2 in 2.x.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from converter.errors import CheckpointError, ConverterError
from converter.storage.bounded_transfer import MAX_ANSWER_BYTES, TransferLimit, check_answer
from converter.storage.references import HubRepo
from converter.text import redact

Response = TypeVar("Response")

RETRY_DELAYS = (1.0, 4.0)
"""Seconds before the first and the second retry of a request."""
MAX_SECONDS_TO_RETRY = 10.0
"""A request that failed after this time is not retried: the client has retried it itself."""
TIMEOUT = 30
"""Seconds without a response before a request is given up."""
_MAX_ERROR_BYTES = 64 << 10
"""Read of the body of an error response."""
_ODD_ANSWER = "the Hub answers with something unexpected"

_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
"""Errors of hf_xet have no response; this is how they state its status."""
_REQUEST_DETAILS = re.compile(r" (?:for url\b|For more information\b|\(Request ID)")
"""Start of the part of a client's error message that only describes the request."""
_HTTP_LIBRARIES = frozenset({"requests", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3"})
_HASHED_AT_ONCE = 1 << 20
"""Bytes between two looks at whether a download is to end."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"


@contextmanager
def translate_hub_errors(
    kind: type[ConverterError], action: str, repo_id: str, *, writing: bool = False
) -> Iterator[None]:
    """Turn errors of the client within the block into one error of `kind`.

    The message is `action`, such as ``"org/name: cannot be downloaded"``, and the reason. The
    remedy depends on whether `writing` access was needed. Errors of this package pass unchanged.
    """
    try:
        yield
    except ConverterError:
        raise
    except Exception as error:
        explanation = _explain(error, repo_id, writing)
        if explanation is None:
            raise
        reason, remedy = explanation
        # The traceback of the client has thousands of characters, and says no more.
        raise kind(f"{action}: {reason}", remedy=remedy) from None


def retry(request: Callable[[], Response]) -> Response:
    """Return the result of `request`, repeated after a delay if it fails for a transient reason.

    The client repeats some requests itself, and which ones differs by its version.
    """
    for delay in RETRY_DELAYS:
        start = time.monotonic()
        try:
            with _limited_client():
                return request()
        except Exception as error:
            if not is_transient(error) or time.monotonic() - start > MAX_SECONDS_TO_RETRY:
                raise
        time.sleep(delay)
    with _limited_client():
        return request()


_limits = threading.local()
"""``active`` in a thread whose requests of the client are limited, ``stop`` to end its download."""


def download_file(
    repo_id: str, name: str, revision: str | None, stop: threading.Event | None = None
) -> Path:
    """Return the path in the cache of a file, after downloading it if it is missing.

    Once `stop` is set, a download ends at the next bytes that arrive, unless it uses Xet: raise
    InterruptedError. Raise CheckpointError if what has arrived is damaged, and the client's errors.
    """
    import huggingface_hub

    is_cached = isinstance(
        huggingface_hub.try_to_load_from_cache(repo_id, name, revision=revision), str
    )

    options: dict[str, Any] = {}
    utils: Any = huggingface_hub.utils
    if "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        # since version 1, whose HTTP library has no hook for parts of a body
        class StoppableBar(utils.tqdm):  # type: ignore[misc]
            def update(self, *args: Any) -> Any:
                _raise_if_set(stop)
                return super().update(*args)

        options["tqdm_class"] = StoppableBar
    _limits.stop = stop
    try:
        path = retry(
            lambda: huggingface_hub.hf_hub_download(repo_id, name, revision=revision, **options)
        )
    finally:
        _limits.stop = None
    if not is_cached:
        _check_content(Path(path), f"{repo_id}: {name}", stop)
    return Path(path)


def _check_content(path: Path, described: str, stop: threading.Event | None) -> None:
    """Compare the SHA-256 of a file in the cache with the one that the Hub states.

    The client does not. It names the blob of a large file by it, and that may be a link to a blob
    that repositories share. Where the cache has no links there is no such name, and other names are
    those of small files in Git, or of mirrors. Raise CheckpointError after removing a damaged file;
    InterruptedError once `stop` is set.
    """
    from huggingface_hub import constants

    stated = path.readlink().name if path.is_symlink() else ""
    if not _SHA256.fullmatch(stated):
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASHED_AT_ONCE):
            _raise_if_set(stop)
            digest.update(chunk)
    if (found := digest.hexdigest()) == stated:
        return
    content, cache = path.resolve(), Path(constants.HF_HUB_CACHE).resolve()
    if content.is_relative_to(cache):  # a link that the user made may lead anywhere
        content.unlink()
    for link in (path.parent / path.readlink(), path):
        link.unlink(missing_ok=True)
    raise CheckpointError(
        f"{described} arrived damaged: its SHA-256 is {found[:12]}… where the Hub states "
        f"{stated[:12]}…",
        remedy="Run the command again; the damaged file was removed from the Hub cache.",
    )


def _raise_if_set(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise InterruptedError("cancelled")


@contextmanager
def _limited_client() -> Iterator[None]:
    """Limit size and speed of what a client before version 1 receives in this thread."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    hooks = getattr(get_session(), "hooks", {"response": [_limit_response]})
    if _limit_response not in hooks["response"]:
        hooks["response"].append(_limit_response)
    _limits.active = True
    try:
        yield
    finally:
        _limits.active = False


def _limit_response(response: Any, *args: Any, **kwargs: Any) -> None:
    """Make the body of a response of requests fail where it is endless or slow."""
    raw = response.raw
    if not getattr(_limits, "active", False) or not hasattr(raw, "read1"):
        return
    headers = response.headers
    is_bounded = "Content-Length" in headers and "Content-Encoding" not in headers
    limit = TransferLimit(sys.maxsize if is_bounded else MAX_ANSWER_BYTES)
    stop = getattr(_limits, "stop", None)

    def stream(*args: Any, **kwargs: Any) -> Iterator[bytes]:
        for chunk in iter(lambda: raw.read1(1 << 16, decode_content=True), b""):
            limit.add(len(chunk))
            _raise_if_set(stop)
            yield chunk

    raw.stream = stream


def is_transient(error: BaseException) -> bool:
    """Return whether a request may succeed later: no response, status 5xx, or 429."""
    status = _status(error)
    if type(error).__name__ == "JSONDecodeError":  # of requests, which calls it a connection error
        return False
    return _is_connection_error(error) if status is None else status >= 500 or status == 429


def _explain(error: Exception, repo_id: str, writing: bool) -> tuple[str, str | None] | None:
    """Return the reason and the remedy of `error`, ``None`` if it is unrelated to the Hub."""
    from huggingface_hub import constants, errors

    url = f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, errors.GatedRepoError):
        return "access to the repository is restricted", (
            f"Accept its license at {url}, then log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "repository not found, or private", (
            f"Check {url}. If it is private: {_LOG_IN} of an account that has access."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "revision not found", f"Its branches and tags: {url}/tree/main"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE=1 is set, which forbids it", "Unset HF_HUB_OFFLINE."
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "not logged in", f"{_LOG_IN}, or give --token."
    if isinstance(error, errors.LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return "not in the Hub cache, and HF_HUB_OFFLINE=1 is set", (
                "Unset HF_HUB_OFFLINE, or download it once with a connection to the Hub."
            )
        return "not in the Hub cache", "Download it once with a connection to the Hub."
    if isinstance(error, errors.HFValidationError):
        return f"not a valid Hub id: {error}", "Write it as org/name."
    status = _status(error)
    if status is not None:
        return _explain_status(status, error, repo_id, writing)
    if _is_odd_answer(error):
        return f"{_ODD_ANSWER} ({type(error).__name__})", (
            f"Check that {constants.ENDPOINT} (HF_ENDPOINT) is the Hub or a mirror of it."
        )
    retry_step = (
        "Try again; uploaded files are not sent again."
        if writing
        else "Try again, or set HF_HUB_OFFLINE=1 to use the Hub cache."
    )
    if _is_connection_error(error):
        return f"no connection to {constants.ENDPOINT}: {_summary(error)}", retry_step
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or _summary(error), None
    if isinstance(error, OSError | RuntimeError):  # errors of hf_xet among them
        return f"the transfer failed: {_summary(error)}", retry_step
    return (_summary(error), None) if isinstance(error, ValueError) else None


def _explain_status(
    status: int, error: Exception, repo_id: str, writing: bool
) -> tuple[str, str | None]:
    from huggingface_hub import constants

    if status == 401:
        return "the Hub does not recognize the token", f"{_LOG_IN} with a valid token."
    if status == 403:
        access = "write to" if writing else "read"
        return f"the token may not {access} {repo_id}", (
            f"Use a token whose scope lets it {access} this repository: "
            f"{constants.ENDPOINT}/settings/tokens"
            + (", or propose the change with --create-pr." if writing else "")
        )
    if status == 429:
        return "too many requests to the Hub", "Wait some minutes, then try again."
    if any("xet-" in str(each) for each in _chain(error)):
        return f"{constants.ENDPOINT} answers with status {status} to a request of Xet", (
            "If it is a mirror without Xet, set HF_HUB_DISABLE_XET=1."
        )
    return f"the Hub answers with status {status}: {_summary(error)}", (
        "Try again later; uploaded files are not sent again." if status >= 500 else None
    )


def _is_odd_answer(error: Exception) -> bool:
    """Return whether the client failed to understand an answer, rather than to get one."""
    if type(error).__name__ == "JSONDecodeError":
        return True
    kinds = (TypeError, LookupError, AttributeError, RecursionError, AssertionError)
    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, kinds) and any(
        frame.f_globals.get("__name__", "").startswith("huggingface_hub") for frame, _ in frames
    )


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind `error` or one of its causes."""
    for each in _chain(error):
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    match = _XET_STATUS.search(str(error))
    return int(match[1]) if match else None


def _is_connection_error(error: BaseException) -> bool:
    return any(
        isinstance(each, ConnectionError | TimeoutError)
        or type(each).__module__.partition(".")[0] in _HTTP_LIBRARIES
        for each in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    yield error
    if error.__cause__ is not None:
        yield from _chain(error.__cause__)


def _summary(error: BaseException) -> str:
    """Return the message of the innermost cause in one line, without request details."""
    innermost = list(_chain(error))[-1]
    text = _REQUEST_DETAILS.split(" ".join(redact(str(innermost)).split()))[0]
    return text[:300] or type(error).__name__


def list_repo(repository: HubRepo, *, sizes: bool) -> tuple[str, dict[str, int | None]]:
    """Return the commit of a repository, and its files → bytes, ``None`` if not listed.

    Not `HfApi.model_info`, which reads an answer of any size and checks none. Raise
    `CheckpointError` if the answer is not such a list, and the errors of the client.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    revision = repository.revision
    url = f"{constants.ENDPOINT}/api/models/{repository.repo_id}"
    url += f"/revision/{quote(revision, safe='')}" if revision else ""
    with _response(url + "?blobs=True" * sizes, build_hf_headers(library_name="converter")) as body:
        hf_raise_for_status(body)
        data = _read_up_to(body, MAX_ANSWER_BYTES + 1)
    if len(data) > MAX_ANSWER_BYTES:
        raise CheckpointError(f"{repository}: the Hub lists more than {MAX_ANSWER_BYTES:,} bytes")
    try:
        info = json.loads(data)
        files = {each["rfilename"]: each.get("size") for each in info["siblings"]}
        commit = info["sha"]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        files, commit = {None: None}, None
    if not isinstance(commit, str) or not all(map(_is_file, files.items())):
        raise CheckpointError(
            f"{repository}: {_ODD_ANSWER}, not with a list of files",
            remedy=f"Check that {constants.ENDPOINT} (HF_ENDPOINT) is the Hub or a mirror of it.",
        )
    return commit, files


def _is_file(entry: tuple[Any, Any]) -> bool:
    name, size = entry
    good_size = size is None or (isinstance(size, int) and size >= 0)
    return isinstance(name, str) and not {"", ".", ".."} & {*name.split("/")} and good_size


class HubRangeSource:
    """Byte ranges of a file; see `converter.formats.range_reader.RangeSource`.

    The URL is that of a commit, so that the content cannot change; the size is as the Hub lists it.
    """

    def __init__(self, repo_id: str, name: str, url: str, size: int) -> None:
        self.size = size
        self._repo_id, self._name, self._url = repo_id, name, url
        self._storage_url: str | None = None
        self._partial_name: str | None = None
        self._lock = threading.Lock()

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return exactly `nbytes` bytes from `offset`, or raise `CheckpointError`."""
        action = f"{self._repo_id}: {self._name} cannot be read from the Hub"
        with translate_hub_errors(CheckpointError, action, self._repo_id):
            return retry(lambda: self._request(offset, nbytes))

    def _request(self, offset: int, nbytes: int) -> bytes:
        """Send one request, and a second one if the signed storage URL has expired."""
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        for attempt in (1, 2):
            storage_url = self._resolve()
            byte_range = f"bytes={offset}-{offset + nbytes - 1}"
            headers = {"Accept-Encoding": "identity", "Range": byte_range}
            if _origin(storage_url) == _origin(self._url):  # the token is for the Hub alone
                headers = {**build_hf_headers(library_name="converter"), **headers}
            with _response(storage_url, headers) as response:
                refused = response.status_code in (400, 401, 403, 404, 410)
                if refused and storage_url != self._url and attempt == 1:
                    with self._lock:
                        self._storage_url = None
                    continue
                hf_raise_for_status(response)
                self._check_range(response, offset, nbytes)
                return _read_body(response, nbytes)
        raise AssertionError("the second attempt returns or raises")

    def _resolve(self) -> str:
        """Return the URL that the Hub redirects to."""
        from huggingface_hub import get_hf_file_metadata
        from huggingface_hub.file_download import is_xet_available  # type: ignore[attr-defined]

        with self._lock:
            if self._storage_url is None:
                metadata = get_hf_file_metadata(self._url)
                if metadata.size is not None and metadata.size != self.size:
                    raise CheckpointError(
                        f"{self._repo_id}: {self._name} has {metadata.size} bytes where the Hub "
                        f"lists {self.size}"
                    )
                self._storage_url = str(metadata.location)
                if not (metadata.xet_file_data is not None and is_xet_available()):
                    self._partial_name = metadata.etag
            return self._storage_url

    def partial_name(self) -> str | None:
        """Return the start of the name of the file that the client writes while it downloads.

        ``None`` if it does not write it from the start to the end: with Xet, or by hf_transfer.
        """
        from huggingface_hub import constants

        self._resolve()
        by_parts = getattr(constants, "HF_HUB_ENABLE_HF_TRANSFER", False)
        return None if by_parts else self._partial_name

    def _check_range(self, response: Any, offset: int, nbytes: int) -> None:
        """Refuse a response with the complete file, which may have any size."""
        check_answer(response.status_code, response.headers, None)
        status = response.status_code
        content_range = response.headers.get("Content-Range", "").partition("/")[0].strip()
        complete = status == 200 and offset == 0 and nbytes == self.size
        expected = (206, f"bytes {offset}-{offset + nbytes - 1}")
        if not complete and (status, content_range) != expected:
            raise CheckpointError(
                f"{self._repo_id}: {self._name}: the server does not support range requests",
                remedy=f"Download the file: hf download {self._repo_id} {self._name}",
            )


@contextmanager
def _response(url: str, headers: dict[str, str]) -> Iterator[Any]:
    """Yield a streamed response; the HTTP library depends on the client's version."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    session: Any = get_session()
    if callable(getattr(session, "stream", None)):  # httpx, since version 1 of the client
        with session.stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            _read_error_body(response)
            yield response
    else:
        with session.get(url, headers=headers, timeout=TIMEOUT, stream=True) as response:
            _read_error_body(response)
            yield response


def _read_error_body(response: Any) -> None:
    """Read the start of the body of an error, which the client would read completely."""
    if response.status_code < 400:
        return
    data = _read_up_to(response, _MAX_ERROR_BYTES)
    response._content = data[:_MAX_ERROR_BYTES]  # where both HTTP libraries keep it
    response._content_consumed = True


def _read_up_to(response: Any, nbytes: int) -> bytes:
    """Return the body of a streamed response, at least its first `nbytes` bytes."""
    if hasattr(response, "iter_bytes"):  # httpx
        chunks = response.iter_bytes()
    else:  # `iter_content` would wait for as many bytes as it was asked for
        chunks = iter(lambda: response.raw.read1(1 << 16, decode_content=True), b"")
    data, limit = bytearray(), TransferLimit(sys.maxsize)
    for chunk in chunks:
        data += chunk
        limit.add(len(chunk))
        if len(data) >= nbytes:
            break
    return bytes(data)


def _read_body(response: Any, nbytes: int) -> bytes:
    """Return the first `nbytes` of a body; raise `ConnectionError` if it is shorter."""
    data = _read_up_to(response, nbytes)
    if len(data) < nbytes:
        raise ConnectionError(f"the response ended after {len(data)} of {nbytes} bytes")
    return data[:nbytes]


def _origin(url: str) -> tuple[str, str]:
    """Return scheme and host, to which a token belongs."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
