"""One message handed to the SDK's server, and what comes of it. Knows neither HTTP nor sessions."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data, progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp.types import INTERNAL_ERROR, ErrorData
from pydantic import ValidationError

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import outline
from mcp_gateway.mcp_door.faults import bounded, faults_of
from mcp_gateway.mcp_door.jsonrpc import Message, RequestId, error_payload, notification_payload, result_payload

logger = logging.getLogger(__name__)

Tell = Callable[[bytes], Awaitable[None]]
"""Sends a message to the client before the answer."""
AskClient = Callable[[str, Mapping[str, Any] | None, float | None], Awaitable[dict[str, Any]]]
"""Sends a request (method, params, timeout in seconds) to the client and returns its result."""
_PASSING = frozenset({"notifications/progress", "notifications/message"})
"""What is of no use later: it is dropped while the client does not read."""
_ASKING, _NOT_ASKING = [TransportContext(kind="streamable-http", can_send_request=can) for can in (True, False)]


class CallContext:
    """What the SDK asks of a transport for one message (its `DispatchContext`).

    The handler finds the RequestContext of the HTTP request that brought this message as `ctx.request`, so it acts as
    that request's caller, whoever opened the session.
    """

    def __init__(
        self,
        message: Message,
        context: RequestContext,
        tell: Tell | None = None,
        ask: AskClient | None = None,
        is_unread: Callable[[], bool] = lambda: False,
    ) -> None:
        self.transport = _ASKING if ask is not None else _NOT_ASKING
        self.request_id: RequestId | None = message.id
        self.message_metadata = ServerMessageMetadata(request_context=context)
        self._params = message.params
        self._tell = tell
        self._ask = ask
        self._is_unread = is_unread

    @property
    def address(self) -> str:
        """Where its message came from."""
        context: RequestContext = self.message_metadata.request_context
        return context.address

    @property
    def can_send_request(self) -> bool:
        return self._ask is not None

    @property
    def cancel_requested(self) -> anyio.Event:
        return anyio.Event()  # never set: cancelling stops the handler itself

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if self._ask is None:
            raise NoBackChannelError(method)
        return await self._ask(method, params, (opts or {}).get("timeout"))

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if self._tell is not None and not (method in _PASSING and self._is_unread()):
            await self._tell(notification_payload(method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if (token := progress_token_from_params(self._params)) is not None:
            facts = {"progressToken": token, "progress": progress, "total": total, "message": message}
            told = {name: value for name, value in facts.items() if value is not None}
            await self.notify("notifications/progress", told)


def caller_of(context: RequestContext) -> Caller:
    """Whom a message is served as; whoever hosts the door has found out."""
    assert context.caller is not None
    return context.caller


async def answer(runner: ServerRunner[Any], message: Message, call: CallContext) -> tuple[bytes, ErrorData | None]:
    """The payload that answers a request, and the error where it is one."""
    assert message.method is not None
    try:
        return result_payload(message.id, await runner.on_request(call, message.method, message.params)), None
    except Exception as error:  # noqa: BLE001 - whatever happens, a request is answered
        told = _told_of(error)
        return error_payload(message.id, told), told


def _told_of(error: Exception) -> ErrorData:
    if isinstance(error, ValidationError):
        return faults_of(error)
    told = handler_exception_to_error_data(error)
    return _internal_error(error) if told is None else bounded(told)


def _internal_error(error: Exception) -> ErrorData:
    logger.error("an MCP request failed with %s", outline(error))
    return ErrorData(code=INTERNAL_ERROR, message="Something went wrong on our side.")
