"""What went wrong with the Hub, in words that say what to do.

The client raises what its HTTP library raises, and that is another one in each of its major
versions: requests in 0.36, httpx in 1.x, httpx2 in 2.x.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from converter.errors import ConverterError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"({_PART}/{_PART})(?:@([^\s@]{{1,200}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_FILES = frozenset(".bin .ckpt .h5 .hdf5 .index .json .msgpack .pt .pth .safetensors".split())
"""What the name of a weight file ends in, and hardly ever that of a repository."""


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository of models on the Hub, at a revision."""

    repo_id: str
    """``org/name``."""
    revision: str | None = None
    """A branch, tag, commit or ``refs/pr/N``; the main branch unless given."""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which can never mean anything else."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


def parse_repo_id(reference: str | Path) -> HubRepo | None:
    """The id that `reference` is, ``None`` if it can only be a path. A path that exists wins.

    Args:
        reference: ``org/name``, ``org/name@revision``, the same behind ``hf://``, or a path.

    """
    text = str(reference)
    sure = text.startswith("hf://")
    found = _ID.fullmatch(text.removeprefix("hf://").rstrip("/") if sure else text)
    if found is None:
        return None
    if not sure and (Path(text).exists() or Path(text).suffix.lower() in _FILES):
        return None
    if ".." in found[1] or "--" in found[1]:  # the Hub has no such names
        return None
    return HubRepo(found[1], found[2])


Answer = TypeVar("Answer")

PAUSES = (1.0, 4.0)
"""Seconds before a request that got no answer is sent again, and again."""
_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
"""How hf_xet, whose errors have no answer, tells the status of one."""
_NOISE = re.compile(r" (?:for url\b|For more information\b|\(Request ID)")
"""Where an error of a client stops saying what happened."""
LONG = 10.0
"""Seconds after which whoever failed has tried often enough."""
_TRANSPORT = frozenset({"requests", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3"})
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"


@contextmanager
def translate_hub_errors(
    kind: type[ConverterError], what: str, repo_id: str, *, writing: bool = False
) -> Iterator[None]:
    """Turn what the client raises within the block into one error of `kind`.

    Args:
        kind: the class of the error.
        what: what could not be done, such as ``"org/name: cannot be fetched"``.
        repo_id: the repository.
        writing: whether it was to be written to, which needs other rights.

    Raises:
        ConverterError: of `kind`. Errors of this package pass as they are.

    """
    try:
        yield
    except ConverterError:
        raise
    except Exception as error:
        found = _reason(error, repo_id, writing)
        if found is None:
            raise
        reason, remedy = found
        raise kind(f"{what}: {reason}", remedy=remedy) from error


def retry(ask: Callable[[], Answer]) -> Answer:
    """Ask, and ask again after a while where no answer came.

    The client asks again itself in some cases and not in others, which differ by its version; one
    that has tried for long is not made to begin anew.
    """
    for pause in PAUSES:
        began = time.monotonic()
        try:
            return ask()
        except Exception as error:
            if not is_transient(error) or time.monotonic() - began > LONG:
                raise
        time.sleep(pause)
    return ask()


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later: no answer, or one of 5xx or 429."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status == 429
    return _is_transport(error)


def _reason(error: Exception, repo_id: str, writing: bool) -> tuple[str, str | None] | None:
    """What `error` means and what to do, ``None`` if it has nothing to do with the Hub."""
    from huggingface_hub import constants, errors

    url = f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, errors.GatedRepoError):
        return "access to the repository is restricted", (
            f"Accept its licence at {url}, then log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private", (
            f"Look at {url}. If it is private: {_LOG_IN} to that of someone who may see it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision", f"Its branches and tags: {url}/tree/main"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the Hub may not be asked in offline mode", "Unset HF_HUB_OFFLINE."
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "nobody is logged in", f"{_LOG_IN}, or give --token."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "it is not in the cache", "Fetch it once with a connection to the Hub."
    if isinstance(error, errors.HFValidationError):
        return f"not an id of the Hub: {error}", "Write it as org/name."
    status = _status(error)
    if status == 401:
        return "the Hub does not know the token", f"{_LOG_IN} to a token that is valid."
    if status == 403:
        needed = "write to" if writing else "read"
        return f"the token may not {needed} {repo_id}", (
            f"Use a token whose scope lets it {needed} this repository: "
            "https://huggingface.co/settings/tokens"
            + (", or propose the change with --create-pr." if writing else "")
        )
    if status == 429:
        return "the Hub answers no more requests for now", "Wait some minutes, then try again."
    if status is not None:
        return f"the Hub answers with status {status}: {_short(error)}", (
            "Try again later; what has arrived is not sent again." if status >= 500 else None
        )
    again = (
        "Try again; what has arrived is kept."
        if writing
        else "Try again, or set HF_HUB_OFFLINE=1 to use what is in the cache."
    )
    if _is_transport(error):
        return f"no connection to {constants.ENDPOINT}: {_short(error)}", again
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or _short(error), None
    if isinstance(error, OSError | RuntimeError):  # what hf_xet raises, too
        return f"the transfer failed: {_short(error)}", again
    return (_short(error), None) if isinstance(error, ValueError) else None


def _status(error: BaseException) -> int | None:
    """The status of the answer that `error` is about, or comes from."""
    for each in _chain(error):
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _is_transport(error: BaseException) -> bool:
    """Whether it is about a connection, or comes from one."""
    return any(
        isinstance(each, ConnectionError | TimeoutError)
        or type(each).__module__.partition(".")[0] in _TRANSPORT
        for each in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _short(error: BaseException) -> str:
    """One line that says most: what the innermost error says, without addresses of requests."""
    text = _NOISE.split(" ".join(str(list(_chain(error))[-1]).split()))[0]
    return text[:300] or type(error).__name__
