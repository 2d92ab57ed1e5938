"""What one HTTP request is known by while it runs; made by the outer middlewares, read by both doors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mcp_gateway.core.bytes_in_flight import BytesInFlight, Owner, Reservation
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import GatewayError

CONTEXT = "gateway.context"
"""The key in an ASGI scope."""
CLIENT = "gateway.client"
"""Key in an ASGI scope: the Client."""
SENT = "gateway.sent"
"""Key in an ASGI scope: the request's headers by lower-case name; of one that was sent several times, the first."""


class CallerLeft(Exception):
    """The caller's connection ended before its request was whole."""


class Client(Protocol):
    """The far end of one request, as its server knows it; `is_whole` once all of the request has come, `is_gone` once
    its connection has ended.

    Where `is_cancelled_on_departure` is set, the task that answers is cancelled at once when the connection ends.
    """

    context: "RequestContext | None"
    is_cancelled_on_departure: bool
    is_gone: bool
    is_whole: bool
    refusal: GatewayError | None
    """Why the rest of the request cannot be read: it is no HTTP."""


@dataclass(slots=True)
class RequestContext:
    """`request_id` is ours, unique, and what is recorded and billed; `client_request_id` is the key of nothing.

    `address` is the client's, past trusted proxies. `caller` is set by the authentication middleware.
    """

    request_id: str
    client_request_id: str | None
    address: str
    room: BytesInFlight
    caller: Caller | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Further headers of the answer, whichever way it ends."""
    sent: Mapping[bytes, bytes] = field(default_factory=dict)
    """What the scope has under SENT."""
    region_refusal: Callable[[], GatewayError] | None = None
    """Makes the refusal of what the client's country may not ask for; None where it may."""
    _small_bytes: int = 0
    _reservation: Reservation | None = None

    @property
    def reservation(self) -> Reservation:
        """What this request keeps in memory, counted for its caller; who sends without being asked is a guest."""
        if self._reservation is None:
            subject, is_guest = (self.caller.subject, self.caller.is_guest) if self.caller else (self.address, True)
            self._reservation = self.room.reservation(Owner(subject, self.address, is_guest))
        return self._reservation

    def take_small(self, size_bytes: int) -> bool:
        """Count a small body that has come whole without the price of a reservation; False where there is no room."""
        if not self.room.small.take_unowned(size_bytes):
            return False
        self._small_bytes += size_bytes
        return True

    @property
    def kept_bytes(self) -> int:
        """What this request keeps in memory now."""
        return self._small_bytes + (self._reservation.size_bytes if self._reservation is not None else 0)

    def release(self) -> None:
        """Keep nothing any more; a second time does nothing."""
        if self._small_bytes:
            self.room.small.give_unowned(self._small_bytes)
            self._small_bytes = 0
        if self._reservation is not None:
            self._reservation.release()
