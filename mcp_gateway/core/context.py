"""What one HTTP request is known by while it runs; made by the outer middlewares, read by both doors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mcp_gateway.core.caller import Caller

CONTEXT = "gateway.context"
"""The key in an ASGI scope."""
CLIENT = "gateway.client"
"""Key in an ASGI scope: the Client."""
SENT = "gateway.sent"
"""Key in an ASGI scope: the request's headers by lower-case name; of one that was sent several times, the first."""


class Client(Protocol):
    """The far end of one request, as its server knows it.

    Where `is_cancelled_on_departure` is set, the task that answers is cancelled at once when the connection ends.
    """

    is_cancelled_on_departure: bool


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
    sent: Mapping[bytes, bytes] = field(default_factory=dict)
    """What the scope has under SENT."""
