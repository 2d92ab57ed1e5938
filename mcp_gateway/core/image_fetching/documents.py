"""Fetches documents that a caller names by their address, as images are: from public servers alone, and no further.

Unlike an image a document is what stands at its very address: no redirect is followed.
"""

import asyncio
import ssl
from collections.abc import Callable, Collection
from http import HTTPStatus

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.image_fetching.public_address import is_public
from mcp_gateway.core.image_fetching.public_hosts import Resolve, allowed_addresses, first_answer, timeouts_within
from mcp_gateway.core.policy.image_url import ImageUrl, read_image_url
from mcp_gateway.core.upstream.transport import Response, Transport, TransportLimits, UpstreamError

MAX_DOCUMENT_BYTES = 64 * 1024
_TIMEOUT_S = 5.0
_LIMITS = TransportLimits(max_head_bytes=16 * 1024, max_body_bytes=MAX_DOCUMENT_BYTES, max_idle_connections=0)
_HEADERS = ((b"accept", b"application/json"), (b"accept-encoding", b"identity"), (b"user-agent", b"mcp-gateway"))
_HTTPS_PORT = 443


class DocumentFetcher:
    """The system's authorities are trusted where no `ssl_context` says whom."""

    def __init__(
        self,
        *,
        resolve: Resolve,
        ports: Collection[int] = (_HTTPS_PORT,),
        ssl_context: ssl.SSLContext | None = None,
        is_allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self.resolve = resolve
        self.ports = ports
        self.ssl_context = ssl_context
        self.is_allowed = is_allowed

    async def __call__(self, url: str, asked_by: str) -> bytes | None:
        """None for whatever is not there as it should be: more words would make a scanner of our network."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._fetched(read_image_url(url, self.ports), asked_by)
        except (TimeoutError, UpstreamError, ValueError, GatewayError):
            return None

    async def _fetched(self, asked: ImageUrl, asked_by: str) -> bytes | None:
        addresses = await allowed_addresses(asked, asked_by, self.resolve, self.is_allowed)
        transports = [await self._transport(asked.origin, address) for address in addresses]
        response = await first_answer(transports, "GET", asked.target, _HEADERS)
        if response is None:
            return None
        try:
            return bytes(await response.read()) if _is_plain_json(response) else None
        finally:
            response.close()

    async def _transport(self, origin: str, address: str) -> Transport:
        """For one answer. The authorities are read in a thread, once: that takes 20 ms."""
        if self.ssl_context is None:
            self.ssl_context = await asyncio.to_thread(ssl.create_default_context)
        timeouts = timeouts_within(_TIMEOUT_S)
        return Transport(origin, timeouts=timeouts, limits=_LIMITS, ssl_context=self.ssl_context, address=address)


def _is_plain_json(response: Response) -> bool:
    kind = (response.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    is_json = kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
    is_plain = (response.header(b"content-encoding") or b"identity").lower() == b"identity"
    return response.status == HTTPStatus.OK and is_json and is_plain
