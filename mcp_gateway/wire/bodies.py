"""A request's body: how large it may be, and how it is read, with room for it taken first.

Knows sizes and whose they are; knows nothing of what a body says, nor how a door words a refusal.
"""

from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.types import Message, Receive

from mcp_gateway.core.bytes_in_flight import SMALL_BYTES, STEP_BYTES, Reservation
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Published
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import CallerLeft, RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.wire.encodings import decoded


class BodyLimits:
    """How large a caller's body may be: a guest's is small, unless there is a model for guests that takes images."""

    def __init__(self, settings: Settings, published: Published) -> None:
        self._settings = settings
        self._published = published

    def of(self, caller: Caller) -> int:
        """In bytes."""
        most_bytes = self._settings.max_body_bytes
        if not caller.is_guest or self._guests_send_images():
            return most_bytes
        return min(self._settings.guests.max_body_bytes, most_bytes)

    def _guests_send_images(self) -> bool:
        return self._settings.enable_vision and any(
            model.is_open_to_guests and "image" in model.input_modalities for model in self._published.current.values()
        )


def is_json(sent: Mapping[bytes, bytes]) -> bool:
    """Whether the headers say JSON; a browser sends other types across sites without asking first."""
    return sent.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/json"


def read_body(context: RequestContext, receive: Receive, max_bytes: int) -> Coroutine[Any, Any, bytes]:
    """The whole body, decoded, which stays counted for its caller until the context is released.

    Raises GatewayError (`body_too_large`, `overloaded`; of one that comes compressed also `unsupported_encoding` and
    `invalid_value`) or CallerLeft.
    """
    if b"content-encoding" in context.sent:
        return _read_encoded(context, receive, max_bytes)
    return _read_plain(context, receive, max_bytes)


async def _read_encoded(context: RequestContext, receive: Receive, max_bytes: int) -> bytes:
    body = await _read_plain(context, receive, max_bytes)
    return await decoded(body, context.sent[b"content-encoding"], context.reservation, max_bytes)


async def _read_plain(context: RequestContext, receive: Receive, max_bytes: int) -> bytes:
    announced = context.sent.get(b"content-length", b"")
    announced_bytes = int(announced) if announced.isdigit() else 0
    if announced_bytes > max_bytes:
        raise _too_large(max_bytes)
    if announced_bytes > SMALL_BYTES:
        await context.reservation.grow(announced_bytes)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        size_bytes = len(body)
        if size_bytes <= SMALL_BYTES and size_bytes <= max_bytes and context.take_small(size_bytes):
            return body
    return await _gathered(context, receive, message, announced_bytes, max_bytes)


async def _gathered(
    context: RequestContext, receive: Receive, message: Message, announced_bytes: int, max_bytes: int
) -> bytes:
    """The rest of a body that does not come in one small piece."""
    pieces, size_bytes = [], 0
    while message["type"] == "http.request":
        pieces.append(message.get("body", b""))
        size_bytes += len(pieces[-1])
        if size_bytes > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body"):
            await _have_room(context.reservation, size_bytes)
            context.reservation.shrink(context.reservation.size_bytes - size_bytes)
            return b"".join(pieces)
        await _have_room(context.reservation, announced_bytes or min(_next_step(size_bytes), max_bytes))
        message = await receive()
    raise CallerLeft


async def _have_room(reservation: Reservation, size_bytes: int) -> None:
    if reservation.size_bytes < size_bytes:
        await reservation.grow(size_bytes - reservation.size_bytes)


def _next_step(size_bytes: int) -> int:
    """The room for a body of no announced length that has come so far, and for more of it."""
    return SMALL_BYTES if size_bytes < SMALL_BYTES else (size_bytes // STEP_BYTES + 1) * STEP_BYTES


def _too_large(max_bytes: int) -> GatewayError:
    return GatewayError("body_too_large", f"The request body may have at most {max_bytes} bytes.")
