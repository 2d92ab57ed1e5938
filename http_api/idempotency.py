"""The Idempotency-Key header, and what the second sending of a request is answered.

After https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/, with any visible text as a key.
"""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import orjson
from starlette.types import Scope

from http_api.operations import Answered, Asked
from mcp_gateway.core.context import CONTEXT, RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Kept, Repeats

HEADER = "Idempotency-Key"
KEY_HEADER = HEADER.lower().encode()
_MAX_CHARACTERS = 255


def idempotency_key_of(asked: Asked[Any, Any]) -> str | None:
    """The header's text; None without one. Raises GatewayError `invalid_value` unless it is 1 to 255 visible ASCII.

    That of a key which sees only itself has its id before a space, so that it meets no requests of others.
    """
    if KEY_HEADER not in asked.context.sent:
        return None
    key, within = _key_in(asked.scope["headers"]), asked.caller.within
    return key if within is None else f"{within} {key}"


def answering_once(repeats: Repeats, scope: Scope) -> AbstractAsyncContextManager[None]:
    """While this is entered, another request with the same Idempotency-Key is refused; nothing without such a key."""
    context: RequestContext = scope[CONTEXT]
    if KEY_HEADER not in context.sent:
        return nullcontext()
    assert context.caller is not None
    return repeats.answering(context.caller, _key_in(scope["headers"]), context.request_id)


def _key_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The same of headers that have one."""
    given = [value.decode("latin-1") for name, value in headers if name == KEY_HEADER]
    key = given[0]
    is_visible = all("!" <= character <= "~" for character in key)
    if len(given) > 1 or not is_visible or not 1 <= len(key) <= _MAX_CHARACTERS:
        message = f"Send one {HEADER} of 1 to {_MAX_CHARACTERS} visible ASCII characters, or none."
        raise GatewayError("invalid_value", message, param=HEADER)
    return key


def replayed(kept: Kept) -> Answered[Any]:
    """The first answer again, as it was kept, marked as such."""
    return Answered(orjson.dumps(kept.body), kept.status, ((b"idempotent-replayed", b"true"),))
