"""Text to show: names collapsed over layers, without secrets, unable to control a terminal.

Whatever is printed, logged or written into a document passes `redact`; whatever goes to a terminal
or a page also passes `printable`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

MAX_SHOWN = 4_000
"""Characters of a line or of a cell of a table; ``--json`` has complete names."""

_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]+://?\S*")
"""Also with one slash, which is what `pathlib` leaves."""
_SEPARATOR = re.compile("://?")
_LINK = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*:(?:/|:))")
"""Between the URLs of a chain of fsspec: ``zip://inner::s3://bucket/file.zip``."""
_HOST_AND_PORT = re.compile(r"(?:[^:]*|\[[^\]]*\])(?::\d*)?")
_NAMES_BEFORE_AT = ("hf", "abfs", "abfss", "wasb", "wasbs")
"""Protocols with a repository or a container, and not a user, before the ``@``."""
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_CLOSING = re.compile(r"[\"'`)\]}>.,;:]*$")
"""What follows a URL in a sentence, or in the ``repr`` of a value."""

_TOKENS = re.compile(r"\b(?:hf_(?:jwt_[\w.-]{8,}|(?:[a-z]+_)?[A-Za-z0-9]{16,})|api_org_\w{16,})")
_HEADERS = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic|token)\s+)?[^\s'\",}]+"
    r"|(\bbearer\s+)[\w.~+/=-]{16,}",
    re.IGNORECASE,
)
_PARAMETERS = re.compile(
    r"\b((?:x-amz-|x-goog-)[a-z-]+|sig|signature|password|secret|access_token|api_key)"
    r"=[^\s&'\")]+",
    re.IGNORECASE,
)
_RELATIVE_QUERY = re.compile(r"(?<!\w)(/[^\s?#'\"]*)\?[^\s'\")]*=[^\s'\")]*")
"""As in ``Max retries exceeded with url: /name?signature=…``."""
_SUSPECT = re.compile(":/|hf_|api_org_|=|authorization|bearer", re.IGNORECASE)

_SECRET_VARIABLES = tuple(
    "TOKEN SECRET PASSWORD ACCESS_KEY ACCESS_KEY_ID ACCOUNT_KEY API_KEY CONNECTION_STRING".split()
)
"""Ends of the names of environment variables that hold secrets."""
_MIN_SECRET = 8
"""Characters; shorter values would also be found in harmless words."""
_WORD = re.compile("[a-z_.-]*")

_url_secrets: dict[str, str] = {}
"""Secret part of a URL that this process has opened → what is shown instead. Libraries quote such
parts in texts that do not look like URLs."""
_MAX_URL_SECRETS = 1_000


def redact_url(url: str) -> str:
    """Return a URL or a chain of them without user, password, query and fragment."""
    return "::".join(map(_redact_link, _LINK.split(url)))


def redact(text: str) -> str:
    """Return a text without the secrets of URLs, without tokens and signatures.

    The values of environment variables such as HF_TOKEN are removed as well.
    """
    for secret in _environment_secrets():
        text = text.replace(secret, "***")
    for secret, shown in tuple(_url_secrets.items()):
        text = text.replace(secret, shown)
    if not _SUSPECT.search(text):
        return text
    text = _URL.sub(lambda match: _redact_in_sentence(match[0]), text)
    text = _RELATIVE_QUERY.sub(r"\1", text)
    text = _HEADERS.sub(lambda match: f"{match[1] or match[2]}***", text)
    text = _PARAMETERS.sub(r"\1=***", text)
    return _TOKENS.sub("***", text)


def remember_secrets(url: str) -> None:
    """Leave the secrets of a URL out of all texts from now on, wherever they are quoted."""
    parts: dict[str, str] = {}
    for link in _LINK.split(url):
        protocol, _, rest = link.partition("://")
        authority = re.split("[/?#]", rest, maxsplit=1)[0]
        ambiguous = _redact_link(link).endswith("://***")
        user, at, _ = (rest if ambiguous else authority).rpartition("@")
        password = user.partition(":")[2]
        if at and (password or protocol.lower() not in _NAMES_BEFORE_AT):
            secrets = (user, password) if password else ()
            parts |= {f"{user}@": "", **{s: "***" for s in secrets if len(s) >= _MIN_SECRET}}
        query = re.search(r"[?#].*", rest, re.DOTALL)
        for value in re.split("[?#&]", query[0]) if query and not ambiguous else ():
            inner = value.partition("=")[2]
            for each in (value, inner):
                if len(each) >= _MIN_SECRET - 2 and not _WORD.fullmatch(each):
                    parts[each] = "***"
    for part, shown in parts.items():
        for written in (part, unquote(part), quote(part), quote(part, safe="")):
            _url_secrets.setdefault(written, shown)
    while len(_url_secrets) > _MAX_URL_SECRETS:
        del _url_secrets[next(iter(_url_secrets))]


def redact_values(value: Any) -> Any:
    """Return a JSON document with every key and value redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact_values(key): redact_values(each) for key, each in value.items()}
    return [*map(redact_values, value)] if isinstance(value, list | tuple) else value


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """Return a line without secrets, control characters and line breaks, at most `limit` long.

    What is not printable, directions of writing and unpaired surrogates included, is escaped as in
    Python.
    """
    text = redact(text)
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit:,} more characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _redact_link(url: str) -> str:
    match = _SEPARATOR.search(url)
    if match is None or url[: match.start()].lower() == "file":
        return url
    protocol, separator, rest = url[: match.start()], match[0], url[match.end() :]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    user, at, host = authority.rpartition("@")
    rest_of_path = rest[len(authority) :]
    if at and (":" in user or protocol.lower() not in _NAMES_BEFORE_AT):
        # A password with an unescaped slash: which "@" ends it cannot be known.
        if ":" in user and "@" in rest_of_path:
            return f"{protocol}{separator}***"
        rest = host + rest_of_path
    elif not _HOST_AND_PORT.fullmatch(authority) and "@" in rest:
        return f"{protocol}{separator}***"
    return f"{protocol}{separator}{_QUERY.sub('', rest)}"


def _redact_in_sentence(url: str) -> str:
    """Redact a URL; keep the punctuation after it."""
    closing = _CLOSING.search(url)
    end = closing.start() if closing else len(url)
    return redact_url(url[:end]) + url[end:]


def _environment_secrets() -> list[str]:
    values = (os.environ.get(name, "") for name in _secret_names(len(os.environ)))
    return [value for value in values if len(value) >= _MIN_SECRET]


@lru_cache(maxsize=1)
def _secret_names(variables: int) -> list[str]:
    """Return the names of environment variables that hold secrets, given how many there are.

    Looking through all of them for every text would take most of the time of a long report.
    """
    del variables
    return [name for name in os.environ if is_secret_variable(name)]


def is_secret_variable(name: str) -> bool:
    """Return whether an environment variable of this name holds a secret."""
    return name.upper().endswith(_SECRET_VARIABLES)


_WORDS = re.compile(r"\s*(?:`[^`]*`\S*|\S+)")
"""Words with the spaces before them; what is quoted as code is one word."""
_WORD_PARTS = re.compile(r"(?<=[./_,:;=|&?)\]}…-])(?=[\w({\[])")
"""Where a long name, path or URL may be broken: after its separators."""


def cell_width(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def wrap(text: str, width: int, *, keep_words: bool = False) -> list[str]:
    """Break a line at spaces into lines of at most `width` columns, the further ones indented.

    A word that is too long is broken after a separator such as a dot, or left in one piece if
    `keep_words`, so that it can be copied; one without separators is always left.
    """
    if cell_width(text) <= width:
        return [text]
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    lines: list[str] = []
    last = ""
    for word in _WORDS.findall(text):
        own = indent + word.lstrip() if last else word
        if cell_width(last + word) <= width:
            last += word
        elif keep_words or cell_width(own) <= width:
            lines, last = [*lines, *([last] if last else [])], own
        else:
            for part in _WORD_PARTS.split(word):
                if last.strip() and cell_width(last + part) > width:
                    lines, last = [*lines, last], indent + part.lstrip()
                else:
                    last += part
    return [*lines, last]


_NUMBER = re.compile(r"(?<=[._/])[0-9]{1,9}(?=[._/]|$)")

_MAX_RUNS = 40
_MAX_INLINE = 10


def collapse_ranges(names: Iterable[str]) -> list[str]:
    """Collapse names that differ in their first number into one, in order of first appearance."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name in names:
        prefix, number, suffix = split_layer_index(name)
        group = groups[prefix, suffix]
        if number is not None:
            group.append(number)
    return [
        prefix + _format_numbers(sorted(set(numbers))) + suffix if numbers else prefix
        for (prefix, suffix), numbers in groups.items()
    ]


def split_layer_index(name: str) -> tuple[str, int | None, str]:
    """Split a name into the part before its first number, that number, and the part after it."""
    match = _NUMBER.search(name)
    if match is None:
        return name, None, ""
    return name[: match.start()], int(match[0]), name[match.end() :]


def _format_numbers(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}…{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    if len(parts) > _MAX_RUNS:
        parts[_MAX_RUNS - 1 : -1] = ["…"]
    return "{" + ",".join(parts) + "}"


def summarize_names(names: Iterable[str]) -> str:
    """Return the collapsed names in one line, and how many there are over ten."""
    return inline(collapse_ranges(names))


def inline(names: Sequence[str]) -> str:
    """Return names in one line, and how many there are over ten."""
    more = len(names) - _MAX_INLINE
    return ", ".join(names[:_MAX_INLINE]) + (f" and {more:,} more" if more > 0 else "")


def natural_key(name: str) -> list[Any]:
    """Return the key that sorts names as people do: ``bert``, ``bert-x``, ``gpt2``, ``gpt10``."""
    parts = re.split("([0-9]+)", name.lower().replace("_", "-"))
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]
