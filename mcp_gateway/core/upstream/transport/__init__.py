"""HTTP/1.1 to one origin: a keep-alive pool, time and size limits, back-pressure both ways, TLS.

`transport.py` keeps the connections; `connection.py` is one of them, `answer_parser.py` and `bounded_wait.py` are its
parts; `response.py` is for who asked. Nothing here knows models, health or fail-over, nor what the bytes mean.
"""

from mcp_gateway.core.upstream.transport.bounded_wait import Patience
from mcp_gateway.core.upstream.transport.bounds import Timeouts, TransportLimits
from mcp_gateway.core.upstream.transport.connection import BodyInPieces
from mcp_gateway.core.upstream.transport.errors import (
    BadResponse,
    BodyTooLarge,
    ConnectFailed,
    ConnectionDied,
    NoResources,
    ResponseTooLarge,
    TimedOut,
    UpstreamError,
    Wait,
)
from mcp_gateway.core.upstream.transport.response import Keep, Response
from mcp_gateway.core.upstream.transport.transport import Transport

__all__ = [
    "BadResponse",
    "BodyInPieces",
    "BodyTooLarge",
    "ConnectFailed",
    "ConnectionDied",
    "Keep",
    "NoResources",
    "Patience",
    "Response",
    "ResponseTooLarge",
    "TimedOut",
    "Timeouts",
    "Transport",
    "TransportLimits",
    "UpstreamError",
    "Wait",
]
