"""What the server asks of a client (an elicitation, say) and the answers that come in messages of their own."""

import asyncio
from collections.abc import Mapping
from typing import Any

from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, INTERNAL_ERROR, REQUEST_TIMEOUT

from mcp_gateway.mcp_door.calls import Tell
from mcp_gateway.mcp_door.jsonrpc import Message, RequestId, notification_payload, request_payload

_PATIENCE_S = 600.0
"""How long a client, which may have to ask a person, is waited for where the asker names no time."""
_MAX_WAITING = 16
"""Questions that wait for one client; more than a person could look through."""


class Questions:
    """The requests to one client that wait for an answer; `replica` is who asks, where others may hear the answer."""

    def __init__(self, replica: str | None = None) -> None:
        self._replica = replica
        self._waiting: dict[RequestId, asyncio.Future[dict[str, Any]]] = {}
        self._asked = 0

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(
        self, tell: Tell, method: str, params: Mapping[str, Any] | None, timeout_s: float | None
    ) -> dict[str, Any]:
        """Send a request by `tell` and return its result. Raises MCPError for an error, silence or a client gone, and
        where too many wait already.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise MCPError(INTERNAL_ERROR, "Too many questions wait for this client's answer.")
        self._asked += 1
        request_id: RequestId = self._asked if self._replica is None else f"{self._replica}-{self._asked}"
        self._waiting[request_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s or _PATIENCE_S):
                await tell(request_payload(request_id, method, params))
                return await self._waiting[request_id]  # no name here: what fails holds this frame
        except TimeoutError:
            await tell(notification_payload("notifications/cancelled", {"requestId": request_id}))
            raise MCPError(REQUEST_TIMEOUT, "The client did not answer in time.") from None
        finally:
            del self._waiting[request_id]

    def take(self, message: Message) -> bool:
        """Hand a response to whoever asked; one that nobody waits for is dropped. Whether anybody did."""
        answer = None if message.id is None else self._waiting.get(coerce_request_id(message.id))
        if answer is None or answer.done():
            return False
        if message.result is not None:
            answer.set_result(message.result)
        else:
            answer.set_exception(_failure(message.error or {}))
        return True

    def close(self) -> None:
        """Nobody will answer any more."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(MCPError(CONNECTION_CLOSED, "The client has left."))


def _failure(error: Mapping[str, Any]) -> MCPError:
    code, message = error.get("code"), error.get("message")
    return MCPError(code if isinstance(code, int) else INTERNAL_ERROR, str(message or "The client failed."))
