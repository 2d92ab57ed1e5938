"""Which paths of a provider may be asked by its own names, and what becomes of each; pure.

A path is read in one way alone: whatever a server could read in another is none. Knows no connections and no callers.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from mcp_gateway.core.record import SurfaceName

ProxiedAs = Literal[SurfaceName, "message_tokens", "models"]
"""What a path of a provider is answered by that the gateway has too."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_SEGMENT = re.compile(r"[A-Za-z0-9._~:@!$'()+,=-]+")
_DOTS = (".", "..")
_CREDENTIALS = frozenset({
    "accesstoken", "apikey", "authorization", "authtoken", "bearertoken", "key", "oauthtoken", "token", "xapikey",
    "xgoogapikey",
})  # fmt: skip
"""Parameters that bring a key, by their letters alone."""
_NOT_LETTERS = re.compile(r"[^a-z]")
_KEYS = ("gw_live_", "gw_test_")
"""How a key of the gateway's own begins, which no provider may see."""


class ProviderPath(NamedTuple):
    """What is asked of a provider: its name, and a path below its root that can be read in one way alone."""

    provider: str
    path: str


def read_provider_path(raw_path: bytes) -> ProviderPath | None:
    """The provider and path that a request's raw path names behind its first part; None for one with two meanings.

    Each part is decoded once, and is sent on as it is then: so it may have no slash, no dots that lead upwards, no
    escape, and nothing that would have to be written as one.
    """
    parts = [unquote(part) for part in raw_path.decode("latin-1").split("/")[1:]]
    if len(parts) < len(("proxy", "provider", "path")) or not all(map(_is_plain, parts)):
        return None
    _, provider, *rest = parts
    return ProviderPath(provider, "/" + "/".join(rest))


def _is_plain(part: str) -> bool:
    return _SEGMENT.fullmatch(part) is not None and part not in _DOTS and not has_key(part)


def has_key(text: str) -> bool:
    """Whether a key of the gateway's own may stand in it."""
    return any(key in text for key in _KEYS)


def query_without_keys(query: bytes) -> dict[str, list[str]]:
    """The parameters that may be sent on, in their order: none that brings a key, or speaks to what lies between.

    Raises ValueError for more of them than anybody sends.
    """
    kept: dict[str, list[str]] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100):
        is_key = _NOT_LETTERS.sub("", name.lower()) in _CREDENTIALS or has_key(name + value)
        if not is_key and not name.startswith("$"):
            kept.setdefault(name, []).append(value)
    return kept


def written_query(parameters: Mapping[str, list[str]]) -> str:
    """With its question mark; empty for none."""
    return "?" + urlencode(parameters, doseq=True) if parameters else ""


def checked_path(text: str) -> str:
    """A method and a path of an allow-list. Raises ValueError for what is none."""
    method, _, path = text.partition(" ")
    parts = path.split("/")
    is_path = parts[0] == "" and len(parts) > 1 and all(part.count("*") <= 1 for part in parts)
    if method not in METHODS or not is_path or not all(_is_plain(part.replace("*", "x")) for part in parts[1:]):
        raise ValueError('must be a method and a path, such as "POST /v1/moderations"; * is one part of it, or of one')
    return text


class AllowedPath(NamedTuple):
    """Of an allow-list: what may be asked, and what a request of it costs; without a price it may not."""

    method: str
    pattern: str
    price_pico: int | None


class ProxyPaths:
    """The paths of one provider: those of surfaces, and those at a flat price."""

    def __init__(self, surfaces: Mapping[str, ProxiedAs], paths: Iterable[str], prices_pico: Mapping[str, int]) -> None:
        self._surfaces = surfaces
        split = [(text, text.partition(" ")) for text in paths]
        self._allowed = [AllowedPath(method, pattern, prices_pico.get(text)) for text, (method, _, pattern) in split]

    def surface_of(self, method: str, path: str) -> ProxiedAs | None:
        """What the gateway has itself that answers there."""
        found = self._surfaces.get(path)
        return found if method == ("GET" if found == "models" else "POST") else None

    def allowed(self, method: str, path: str) -> AllowedPath | None:
        """The first that is meant; None where there is none."""
        return next((one for one in self._allowed if method == one.method and _fits(path, one.pattern)), None)


def _fits(path: str, pattern: str) -> bool:
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(_part_fits, parts, wanted))


def _part_fits(part: str, wanted: str) -> bool:
    before, star, behind = wanted.partition("*")
    if not star:
        return part == wanted
    return len(part) > len(before) + len(behind) and part.startswith(before) and part.endswith(behind)
