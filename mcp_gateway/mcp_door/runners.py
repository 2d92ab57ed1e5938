"""The SDK's server for one message, by the era that the message speaks. Knows neither HTTP's answers nor streams."""

from collections.abc import Iterable
from typing import Any

from mcp.server import NotificationOptions, Server
from mcp.server.connection import Connection
from mcp.server.runner import ServerRunner
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    validate_mcp_param_headers,
)
from mcp.types import DEFAULT_NEGOTIATED_VERSION, HEADER_MISMATCH, PROTOCOL_VERSION_META_KEY
from mcp.types.version import KNOWN_PROTOCOL_VERSIONS

from mcp_gateway.mcp_door.jsonrpc import Message, Refusal
from mcp_gateway.mcp_door.sessions import Session


class Runners:
    """Made from one server, once its handlers are on it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        told = NotificationOptions(resources_changed=True, tools_changed=True)
        self._init_options = server.create_initialization_options(told)
        self._stateless = {
            version: self._runner(Connection.from_envelope(version, None, None)) for version in KNOWN_PROTOCOL_VERSIONS
        }

    def of_session(self, session: Session) -> ServerRunner[Any]:
        return self._runner(session.connection, session)

    def stateless(self, version: str) -> ServerRunner[Any]:
        """For messages of the older revisions that come without a session, and may name no version: one for all of
        them, as it knows nothing of who has sent them.
        """
        return self._stateless[version or DEFAULT_NEGOTIATED_VERSION]

    def modern(self, lines: Iterable[tuple[bytes, bytes]] | None, message: Message) -> ServerRunner[Any]:
        """For a message that carries its own version and capabilities, which any header lines repeat.

        Raises Refusal where they do not fit.
        """
        headers = None if lines is None else _decoded(lines)
        if headers is not None and (twice := find_duplicated_routing_header(headers)) is not None:
            raise Refusal(400, HEADER_MISMATCH, f"{twice} header appears more than once", request_id=message.id)
        body = {"method": message.method, "params": message.params}
        route = classify_inbound_request(body, headers=None if headers is None else dict(headers))
        if isinstance(route, InboundLadderRejection):
            raise rejected(route, message)
        if headers is not None and (rejection := self._mirror_rejection(headers, message)) is not None:
            raise rejected(rejection, message)
        envelope = route.protocol_version, route.client_info, route.client_capabilities
        return self._runner(Connection.from_envelope(*envelope))

    def _runner(self, connection: Connection, session: Session | None = None) -> ServerRunner[Any]:
        """A handler finds the session as `ctx.lifespan_context`."""
        return ServerRunner(self._server, connection, session, init_options=self._init_options)

    def _mirror_rejection(self, headers: list[tuple[str, str]], message: Message) -> InboundLadderRejection | None:
        """What is wrong with the headers that mirror a tool's arguments, for tools whose schema asks for any."""
        params = message.params or {}
        name, arguments = params.get("name"), params.get("arguments") or {}
        lookup = self._server.get_tool_input_schema
        if message.method != "tools/call" or lookup is None or not isinstance(name, str):
            return None
        schema = lookup(name)
        if schema is None or not isinstance(arguments, dict):
            return None
        return validate_mcp_param_headers(schema, arguments, dict(headers))


def has_envelope(message: Message) -> bool:
    """Whether a message carries its own version, as those of 2026-07-28 do."""
    meta = (message.params or {}).get("_meta")
    return isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta


def rejected(rejection: InboundLadderRejection, message: Message) -> Refusal:
    """What the era's rules do not let in, under the status that they give it."""
    status = ERROR_CODE_HTTP_STATUS.get(rejection.code, 400)
    return Refusal(status, rejection.code, rejection.message, request_id=message.id, data=rejection.data)


def _decoded(lines: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1").strip()) for name, value in lines]
