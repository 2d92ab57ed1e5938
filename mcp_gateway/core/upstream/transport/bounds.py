"""How long the transport waits, and how much it reads and keeps: one set for all connections to an origin."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Waiting times in seconds; all but `connect_s` count only while someone waits for the backend.

    A stream has `first_token_s` from the request to the first byte of the body, `idle_s` between bytes after that and
    `total_s` in all; any other answer has `unary_s` in all.
    """

    connect_s: float = 5.0
    first_token_s: float = 20.0
    idle_s: float = 60.0
    unary_s: float = 600.0
    total_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Sizes in bytes and the bounds of the keep-alive pool.

    `max_idle_s` has to stay below the backend's own keep-alive timeout. What is buffered for a reader that does not
    read is `high_water_bytes` and at most one more read from the socket.
    """

    max_head_bytes: int = 64 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    max_idle_s: float = 4.0
    max_idle_connections: int = 1024
    high_water_bytes: int = 64 * 1024
