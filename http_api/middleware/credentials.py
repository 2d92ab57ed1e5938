"""Where a request shows its key: in `Authorization: Bearer`, or in a header of the kind that other clients have for it.

Knows headers; whether a key is good is judged elsewhere.
"""

from collections.abc import Mapping

from starlette.types import Scope

_KEY_HEADERS = (b"x-api-key", b"api-key", b"x-goog-api-key")
"""Also of clients that are made for Anthropic, Azure and Google."""
_ALL = frozenset((b"authorization", *_KEY_HEADERS))
_MOST = 4
"""Keys of one request that are looked at: each may cost a look into the database."""


def credential_of(sent: Mapping[bytes, bytes]) -> str | None:
    """The first key that is sent, Authorization before the others; "" for headers that hold none, None for no header.

    An empty Bearer or another scheme, which proxies and clients set of their own accord, stands in no other key's way.
    """
    authorization = sent.get(b"authorization")
    if authorization is not None and (key := _bearer(authorization)):
        return key
    is_sent = authorization is not None
    for name in _KEY_HEADERS:
        if (value := sent.get(name)) is not None:
            if key := _text(value):
                return key
            is_sent = True
    return "" if is_sent else None


def may_be_several(scope: Scope, sent: Mapping[bytes, bytes]) -> bool:
    """Whether a request may show further keys: in another header, or in a further line of the same.

    Each request with a key pays for this: so it looks for what few send, and no further.
    """
    return (
        len(sent) != len(scope["headers"])
        or (b"x-api-key" in sent and b"authorization" in sent)
        or b"api-key" in sent
        or b"x-goog-api-key" in sent
    )


def credentials_of(scope: Scope) -> list[str]:
    """All keys that a request shows, in all lines of its head, each once."""
    found: dict[str, None] = {}
    for name, value in scope["headers"]:
        if name in _ALL and (key := _bearer(value) if name == b"authorization" else _text(value)):
            found[key] = None
            if len(found) == _MOST:
                break
    return list(found)


def _bearer(authorization: bytes) -> str:
    scheme, _, token = authorization.partition(b" ")
    return _text(token) if scheme.lower() == b"bearer" else ""


def _text(value: bytes) -> str:
    return value.strip().decode("latin-1")
