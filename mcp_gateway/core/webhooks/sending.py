"""Sends deliveries over HTTP: to the operator wherever its settings say, to accounts on the public internet alone.

An account chooses an address, so that it learns nothing of our network by it: each address that its name has must be
public, that very one is connected to, no redirect is followed, and of the answer nothing is read beyond its head.
"""

import asyncio
import ssl
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.image_fetching.public_address import is_public
from mcp_gateway.core.image_fetching.public_hosts import Resolve, allowed_addresses, first_answer, timeouts_within
from mcp_gateway.core.policy.image_url import ImageUrl, read_image_url
from mcp_gateway.core.upstream.transport import Response, Transport, TransportLimits, UpstreamError
from mcp_gateway.core.webhooks.deliveries import Headers
from mcp_gateway.core.webhooks.outbox import OPERATOR, Delivery

_LIMITS = TransportLimits(max_head_bytes=16 * 1024, max_body_bytes=16 * 1024, max_idle_connections=0)
_HEADERS = ((b"content-type", b"application/json"), (b"user-agent", b"mcp-gateway"))


def read_webhook_url(url: str, ports: Collection[int]) -> ImageUrl:
    """What an account's address asks of whom. Raises ValueError in words of what to change."""
    try:
        read = read_image_url(url, ports)
    except ValueError:
        among = ", ".join(map(str, sorted(ports)))
        words = f"an account's webhook is https://host.example/path, without user name or password, at port {among}"
        raise ValueError(words) from None
    if read.is_literal and not is_public(read.host):  # a name is looked up when something is sent
        raise ValueError("an account's webhook goes to the public internet, which its address is not of")
    return read


class Sender:
    """Sends one delivery at a time, on a connection of its own."""

    def __init__(
        self,
        *,
        resolve: Resolve,
        ports: Collection[int],
        timeout_s: float,
        ssl_context: ssl.SSLContext | None = None,
        is_allowed: Callable[[str], bool] = is_public,
    ) -> None:
        """The system's authorities are trusted where no `ssl_context` says whom."""
        self._resolve = resolve
        self._ports = ports
        self._timeout_s = timeout_s
        self._ssl_context = ssl_context
        self._is_allowed = is_allowed

    async def __call__(self, delivery: Delivery, headers: Headers, body: bytes) -> int | None:
        """The status of the answer; None where there is none in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if delivery.receiver == OPERATOR:
                    return await self._to_operator(delivery, headers, body)
                return await self._to_account(delivery, headers, body)
        except (TimeoutError, UpstreamError, ValueError, GatewayError):
            return None

    async def _to_operator(self, delivery: Delivery, headers: Headers, body: bytes) -> int | None:
        url = urlsplit(delivery.url)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        transport = await self._transport(f"{url.scheme}://{url.netloc}", None)
        return _status_of(await transport.request("POST", target, (*_HEADERS, *headers), body, is_stream=True))

    async def _to_account(self, delivery: Delivery, headers: Headers, body: bytes) -> int | None:
        asked = read_webhook_url(delivery.url, self._ports)
        addresses = await allowed_addresses(asked, delivery.receiver, self._resolve, self._is_allowed)
        transports = [await self._transport(asked.origin, address) for address in addresses]
        return _status_of(await first_answer(transports, "POST", asked.target, (*_HEADERS, *headers), body))

    async def _transport(self, origin: str, address: str | None) -> Transport:
        """For one answer. The authorities are read in a thread, once: that takes 20 ms."""
        if self._ssl_context is None and origin.startswith("https:"):
            self._ssl_context = await asyncio.to_thread(ssl.create_default_context)
        timeouts = timeouts_within(self._timeout_s)
        return Transport(origin, timeouts=timeouts, limits=_LIMITS, ssl_context=self._ssl_context, address=address)


def _status_of(response: Response | None) -> int | None:
    """Of an answer whose body is not read; None where there is none."""
    if response is None:
        return None
    response.close()
    return response.status
