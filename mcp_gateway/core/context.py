"""What one HTTP request is known by while it runs; made by the outer middlewares, read by both doors."""

from dataclasses import dataclass, field

from mcp_gateway.core.caller import Caller

CONTEXT = "gateway.context"
"""The key in an ASGI scope."""
ABORT = "gateway.abort"
"""Key in an ASGI scope: a callable that closes the client's connection at once, where the server offers one."""


@dataclass(slots=True)
class RequestContext:
    """`request_id` is ours, unique, and what is recorded and billed; `client_request_id` is the key of nothing.

    `address` is the client's, past trusted proxies. `caller` is set by the authentication middleware.
    """

    request_id: str
    client_request_id: str | None
    address: str
    caller: Caller | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Further headers of the answer, whichever way it ends."""
