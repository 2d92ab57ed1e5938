"""A message on its way in, whatever the transport: read, counted, made small, and taken or answered."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.runner import ServerRunner
from mcp.types import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, ErrorData

from mcp_gateway.core.bytes_in_flight import SMALL_BYTES
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES, JsonBounds, parse_exactly
from mcp_gateway.mcp_door.calls import CallContext, answer, caller_of
from mcp_gateway.mcp_door.http import HttpRequest, read_message_body
from mcp_gateway.mcp_door.jsonrpc import Batch, Message, Refusal, error_payload, parse_message, reason_of
from mcp_gateway.mcp_door.listings import Listings, refusal_of
from mcp_gateway.mcp_door.method import Unfinished, method_of
from mcp_gateway.mcp_door.normal_form import as_texts, in_normal_form
from mcp_gateway.mcp_door.opening import kept
from mcp_gateway.mcp_door.runners import Runners
from mcp_gateway.mcp_door.sessions import Session
from mcp_gateway.mcp_door.shared_sessions import SharedSessions

_MAX_NAMES = 1000
_TOO_MANY_NAMES = f"An object in `params` may have at most {_MAX_NAMES} members."
_WITH_ARGUMENTS = frozenset({"tools/call", "prompts/get"})
CheckScope = Callable[[str, Mapping[str, Any], Caller], None]
"""Raises GatewayError for a request, by its method and parameters, that its caller's token has no scope for."""
NoteUnplaced = Callable[[Message, RequestContext, GatewayError], None]
"""Is told of a call for which there was no place, and what its caller is told."""


class Intake:
    """Shared by the transports."""

    def __init__(
        self,
        runners: Runners,
        listings: Listings,
        json_bounds: JsonBounds,
        *,
        max_body_bytes: Callable[[Caller], int],
        note_refusal: Callable[[str, str], None],
        check_scope: CheckScope,
        note_unplaced: NoteUnplaced,
        shared: SharedSessions | None = None,
    ) -> None:
        self._shared = shared
        self._check_scope = check_scope
        self._note_unplaced = note_unplaced
        self._runners = runners
        self._listings = listings
        self._json_bounds = json_bounds
        self._max_body_bytes = max_body_bytes
        self._note_refusal = note_refusal

    async def read(self, http: HttpRequest) -> Message | Batch:
        """The message, or the batch of some, that a request brings. Raises Refusal for what is none, after it was
        counted.
        """
        try:
            raw = await read_message_body(http.context, http.receive, self._max_body_bytes(http.caller))
            read = await self._parsed(raw, http.caller)
            return [_known(message) for message in read] if isinstance(read, list) else _known(read)
        except Refusal:
            await self._listings.count(http.caller)
            raise

    async def read_to_pass_on(self, http: HttpRequest, most_bytes: int, too_large: Callable[[], Refusal]) -> bytes:
        """The body of what another replica answers, which counts it. Raises Refusal, after it was counted."""
        try:
            raw = await read_message_body(http.context, http.receive, self._max_body_bytes(http.caller))
            if len(raw) > most_bytes:
                raise too_large()
        except Refusal:
            await self._listings.count(http.caller)
            raise
        return raw

    async def admit(self, message: Message, caller: Caller, *, in_session: bool) -> None:
        """Count a message that comes by itself. Raises Refusal, and GatewayError `insufficient_scope` for one that
        another token of its caller's would be answered: that is told by HTTP, where clients look for it.
        """
        await self._listings.admit(message, caller, in_session=in_session)
        if caller.scopes_to_ask_for and message.is_request and message.method is not None:
            try:
                self._check_scope(message.method, message.params or {}, caller)
            except GatewayError:
                await self._listings.count_failure(message, caller)
                raise

    async def _parsed(self, raw: bytes, caller: Caller) -> Message | Batch:
        if len(raw) > SMALL_BYTES:
            await _check_large(raw)
        try:
            await self._json_bounds.check(raw, caller)
            read = parse_message(raw)
        except GatewayError as error:
            raise Refusal(error.status, PARSE_ERROR, error.message, reason=error.code) from None
        if len(raw) > LONG_BYTES:
            await asyncio.sleep(0)  # for others, before it is looked at again
        return read

    async def note(self, session: Session, message: Message, context: RequestContext) -> None:
        """Take a notification, or the answer to something that was asked; one to nothing counts. Raises Refusal."""
        if message.method is None:
            if not session.questions.take(message):
                await self._listings.count(caller_of(context))
                if self._shared is not None:
                    self._shared.pass_answer(session, message)
        elif message.method == "notifications/cancelled":
            if not session.cancel(message.params) and self._shared is not None:
                await self._listings.count(caller_of(context))  # since all replicas are told of it
                self._shared.cancel(session, message.params)
        else:
            runner = self._runners.of_session(session)
            await runner.on_notify(CallContext(message, context), message.method, message.params)

    async def answer(
        self, runner: ServerRunner[Any], message: Message, call: CallContext, caller: Caller
    ) -> tuple[bytes, int | None]:
        """The payload that answers a request, and the JSON-RPC error code where it is an error. Raises Refusal."""
        if (fault := await self._open_arguments(message, caller)) is None:
            payload, error = await answer(runner, message, call)
        else:
            error = ErrorData(code=INVALID_PARAMS, message=fault)
            payload = error_payload(message.id, error)
        if error is None:
            return payload, None
        await self._listings.count_failure(message, caller)
        self._note_refusal(reason_of(error), call.address)
        return payload, error.code

    def without_place(self, full: GatewayError, message: Message, context: RequestContext) -> Refusal:
        """What is told of a call for which there is no place, after it was noted."""
        self._note_unplaced(message, context, full)
        return refusal_of(full, message.id)

    def told(self, refusal: Refusal, context: RequestContext) -> bytes:
        """The payload of a refusal that leaves within an answer, after it was noted as those are that are one."""
        self._note_refusal(refusal.reason, context.address)
        return refusal.payload

    async def _open_arguments(self, message: Message, caller: Caller) -> str | None:
        """Put an object in place of `arguments` that come as JSON text, or as PHP writes an empty one.

        Returns what is wrong with any other.
        """
        params = message.params or {}
        arguments = params.get("arguments")
        if arguments is None or isinstance(arguments, dict) or message.method not in _WITH_ARGUMENTS:
            return None
        try:
            arguments = await self._opened(arguments, caller) if isinstance(arguments, str) else arguments
        except GatewayError as error:
            return error.message
        if arguments is not None and arguments != [] and not isinstance(arguments, dict):
            return "`arguments` must be an object."
        if len(arguments or ()) > _MAX_NAMES:
            return _TOO_MANY_NAMES
        params["arguments"] = as_texts(arguments) if message.method == "prompts/get" else arguments or {}
        return None

    async def _opened(self, text: str, caller: Caller) -> Any:
        """The value of a JSON text, or the text. Raises GatewayError for one beyond the bounds of a body."""
        try:
            raw = text.strip().encode() or b"{}"
            await self._json_bounds.check(raw, caller)
            return parse_exactly(raw)
        except ValueError:
            return text


def _known(message: Message) -> Message:
    """A message within bounds and in the form that is known. Raises Refusal."""
    _check_names(message)
    return in_normal_form(kept(message))


async def _check_large(raw: bytes) -> None:
    """Raises Refusal for what is large and no call of a tool, before it is parsed."""
    try:
        method = await method_of(raw)
    except Unfinished:
        raise Refusal(400, PARSE_ERROR, "The body is not JSON.") from None
    if method != "tools/call":
        text = f"Only tools/call may have more than {SMALL_BYTES} bytes."
        raise Refusal(413, INVALID_REQUEST, text, reason="body_too_large")


def _check_names(message: Message) -> None:
    """Refuse more names than anything here has: the SDK's models go through all of them, and complain of each."""
    for value in (message.params or {}).values():
        if isinstance(value, dict) and len(value) > _MAX_NAMES:
            raise Refusal(400, INVALID_PARAMS, _TOO_MANY_NAMES, request_id=message.id)
