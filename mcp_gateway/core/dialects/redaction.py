"""Where a server runs, taken out of its own words before a caller reads them: paths, addresses, tracebacks.

Goes through a text once, word by word. Knows no dialect and no server: what looks like a place is one.
"""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

_FILE, _SERVER = "a file", "a server"
"""What stands for a path and for an address."""
_TRACEBACK = "Traceback (most recent call last)"
_LOGGED = re.compile(r"\[\d\d:\d\d:\d\d\] [^\s:]{1,300}:\d{1,9}: ")
"""The time and the line of a source that libraries in C++ put before what they say."""
_DOTS_OF_IPV4, _COLONS_OF_IPV6 = 3, 7
_WORD = re.compile(r"""[^\s"'`<>()\[\]{},;=|]+""")
_SOURCE = re.compile(r"\.(?:py|pyc|pyx|so|c|cc|cpp|cu|cuh|h|hpp|rs|go)(?::\d{1,9}){0,2}$")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ROOTS = ("/", "~/", "./", "../", "\\\\")
_API = ("/v1", "/api/")
_PUBLIC_SCHEMES = ("http", "https")
_PRIVATE_NAMES = ("localhost", ".localhost", ".local", ".internal", ".lan", ".svc", ".corp", ".intra", ".home.arpa")


def without_places(text: str) -> str:
    """The text with neutral words for what tells where its author runs."""
    head, traceback, frames = text.partition(_TRACEBACK)
    if traceback:
        said = [line for line in frames.splitlines() if line and not line[0].isspace() and line != ":"]
        text = head + "".join(said[-1:])
    return _WORD.sub(lambda found: _word(found[0]), _LOGGED.sub("", text))


def _word(word: str) -> str:
    bare = word.rstrip(".:!?")
    told = _told(bare)
    return word if told is None else told + word[len(bare) :]


def _told(word: str) -> str | None:
    """What to say instead of a word; None where it may stand."""
    if "://" in word:
        return _of_url(word)
    if _DRIVE.match(word) or (word.startswith(_ROOTS) and _is_path(word)) or _SOURCE.search(word):
        return _FILE
    name, colon, rest = word.partition(":")
    if rest.startswith(_ROOTS) and _is_path(rest):
        return f"{name}:{_FILE}"
    return _SERVER if _is_address(word) or (colon and _is_private(name)) or _is_private(word) else None


def _of_url(word: str) -> str | None:
    try:
        url = urlsplit(word)
        is_open = url.scheme in _PUBLIC_SCHEMES and url.port is None and not _is_private(url.hostname or "")
    except ValueError:
        return _SERVER
    if url.scheme == "file":
        return _FILE
    return None if is_open and "." in url.netloc else _SERVER


def _is_path(word: str) -> bool:
    """Whether what begins like a path is more than a single name, and none of an API's own."""
    names = [name for name in word.replace("\\", "/").split("/") if name]
    return not word.startswith(_API) and len(names) > 1


def _is_private(host: str) -> bool:
    return _is_address(host) or host.lower().endswith(_PRIVATE_NAMES)


def _is_address(word: str) -> bool:
    if word.count(".") != _DOTS_OF_IPV4 and "::" not in word and word.count(":") != _COLONS_OF_IPV6:
        return False  # most words are told in this way, which is far cheaper
    try:
        ip_address(word)
    except ValueError:
        return False
    return True
