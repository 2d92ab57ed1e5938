"""Asks a host that an account chose: each address that its name has must be allowed, and that very one is connected to.

So that nobody learns anything of our network by a name. Knows neither what is asked nor what becomes of the answer.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from mcp_gateway.core.policy.image_url import ImageUrl
from mcp_gateway.core.upstream.transport import ConnectFailed, Response, TimedOut, Timeouts, Transport

Resolve = Callable[[str, str], Awaitable[Sequence[str]]]
"""The addresses of a name, asked for an account. Raises GatewayError `overloaded`."""
Headers = Sequence[tuple[bytes, bytes]]

_MAX_ADDRESSES = 4
"""Of one name, tried one after the other."""


async def allowed_addresses(
    asked: ImageUrl, account_id: str, resolve: Resolve, is_allowed: Callable[[str], bool]
) -> Sequence[str]:
    """The first few that a name has; one that is not allowed among all of them spoils the name."""
    found = [asked.host] if asked.is_literal else await resolve(asked.host, account_id)
    return found[:_MAX_ADDRESSES] if all(map(is_allowed, found)) else []


def timeouts_within(total_s: float) -> Timeouts:
    """Such that each of a name's addresses gets its turn in this time."""
    return Timeouts(connect_s=total_s / _MAX_ADDRESSES, first_token_s=total_s, idle_s=total_s, total_s=total_s)


async def first_answer(
    transports: Iterable[Transport], method: str, target: str, headers: Headers, body: bytes = b""
) -> Response | None:
    """From the first that takes a connection; None where none does. Raises UpstreamError."""
    for transport in transports:
        try:
            return await transport.request(method, target, headers, body, is_stream=True)
        except (ConnectFailed, TimedOut):
            continue
    return None
