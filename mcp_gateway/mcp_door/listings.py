"""What a message counts as: a listing, unless it belongs to something that is bounded by itself. Knows no tool."""

from collections.abc import Awaitable, Callable
from types import TracebackType

from mcp.types import INVALID_REQUEST

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.mcp_door.jsonrpc import REFUSED, Message, Refusal, RequestId
from mcp_gateway.wire.whole_answers import retry_after

_MAX_ID_CHARS = 256


class Listings:
    """Counts each message once. `count` raises GatewayError where its caller has sent too many."""

    def __init__(self, count: Callable[[Caller], Awaitable[None] | None]) -> None:
        self._count = count

    async def count(self, caller: Caller, request_id: RequestId | None = None) -> None:
        """Count what was not one message, or asked for a stream. Raises Refusal (429)."""
        with refusing(request_id):
            if (pending := self._count(caller)) is not None:
                await pending

    async def admit(self, message: Message, caller: Caller, *, in_session: bool) -> None:
        """Count a message, except what belongs to a call or a question of its session, a ping there, and a call of a
        tool, which counts as what the tool does. Raises Refusal (429; 400 for ids that nobody needs).
        """
        is_short = _has_short_ids(message)
        if _is_listing(message, in_session=in_session):
            await self.count(caller, message.id if is_short else None)
        if not is_short:
            text = f"`id` and `progressToken` may have at most {_MAX_ID_CHARS} characters."
            raise Refusal(400, INVALID_REQUEST, text)

    async def count_failure(self, message: Message, caller: Caller) -> None:
        """Count a call of a tool that has ended in a protocol error: no tool has. Raises Refusal (429)."""
        if message.method == "tools/call":
            await self.count(caller, message.id)

    async def counted(self, refusal: Refusal, message: Message, caller: Caller, *, in_session: bool) -> Refusal:
        """What is told of a message that is refused, which counts even if it was admitted without."""
        try:
            if not _is_listing(message, in_session=in_session):
                await self.count(caller, message.id if _has_short_ids(message) else None)
        except Refusal as too_many:
            return too_many
        return refusal


class refusing:
    """Tell of a limit in JSON-RPC's terms: a GatewayError becomes a Refusal with the same facts."""

    __slots__ = ("_request_id",)

    def __init__(self, request_id: RequestId | None) -> None:
        self._request_id = request_id

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, GatewayError):
            return
        raise refusal_of(error, self._request_id) from None


def refusal_of(error: GatewayError, request_id: RequestId | None) -> Refusal:
    data, wait = {"code": error.code, "retry_after_s": error.retry_after_s}, retry_after(error.retry_after_s)
    return Refusal(error.status, REFUSED, error.message, request_id=request_id, data=data, headers=wait)


def _is_listing(message: Message, *, in_session: bool) -> bool:
    if message.is_request:
        return message.method != "tools/call" and not (in_session and message.method == "ping")
    return message.method != "notifications/cancelled" and not (in_session and message.method is None)


def _has_short_ids(message: Message) -> bool:
    """Ids are kept as long as their call, and repeated with everything that is told about it."""
    meta = (message.params or {}).get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    return _is_short(message.id) and _is_short(token)


def _is_short(told: object) -> bool:
    return not isinstance(told, str) or len(told) <= _MAX_ID_CHARS
