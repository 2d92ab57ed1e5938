"""Fetches the images of a request that are named by their address, from whoever has them on the public internet.

A caller chooses the address, so nothing else of what is asked is the caller's, and it learns only what it could by
asking itself. Each name is looked up once a hop; each address it has must be public, and that very one is connected to.
Our own transport does it, which needs an address to connect to and nothing more: unlike a general client it reads no
proxy from the environment, keeps no cookie, follows no redirect, decodes nothing and bounds what it reads.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Literal, NamedTuple
from urllib.parse import urljoin

from mcp_gateway.core.bytes_in_flight import Reservation
from mcp_gateway.core.config import ImageFetchSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.image_fetching.at_once import AtOnce
from mcp_gateway.core.image_fetching.content import TYPES, data_uri, data_uri_chars, image_type_of, is_image_type
from mcp_gateway.core.image_fetching.public_address import is_public
from mcp_gateway.core.image_fetching.public_hosts import Resolve, allowed_addresses, first_answer, timeouts_within
from mcp_gateway.core.policy.image_url import ImageUrl, read_image_url
from mcp_gateway.core.sent_images import RemoteImage
from mcp_gateway.core.upstream.transport import (
    BodyTooLarge,
    NoResources,
    Response,
    Transport,
    TransportLimits,
    UpstreamError,
)

Kind = Literal["fetched", "unreachable", "status", "not_an_image", "too_large", "busy"]

_MAX_REDIRECTS = 3
_MAX_HEAD_BYTES = 16 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = ((b"accept", TYPES), (b"accept-encoding", b"identity"), (b"user-agent", b"mcp-gateway"))


class Fetched(NamedTuple):
    """An image as a data: URI; of any kind but `fetched`, in words what to change."""

    kind: Kind
    told: str


_UNREACHABLE = Fetched(
    "unreachable",
    "the image could not be fetched; see that anybody can have it over https, or send it as a data: URI",
)
"""Whatever kept it from being asked for or read: more words, or other ones, would make a scanner of our network."""
_BUSY = Fetched("busy", "too many images are being fetched at the moment; try again soon")


class Unfetched(Exception):
    """Says in words what to change."""

    def __init__(self, kind: Kind, words: str) -> None:
        super().__init__(kind)
        self.outcome = Fetched(kind, words)


class ImageRoom:
    """What the images of one request may still take, as data: URIs; it is counted where the request's body is."""

    def __init__(self, left_bytes: int, reservation: Reservation | None) -> None:
        self.left_bytes = left_bytes
        self._reservation = reservation

    async def take(self, size_bytes: int) -> None:
        """Raises Unfetched, or GatewayError `overloaded`."""
        if size_bytes > self.left_bytes:
            raise Unfetched("too_large", "with this image the request is too large; send fewer or smaller ones")
        self.left_bytes -= size_bytes
        if self._reservation is not None:
            await self._reservation.grow(size_bytes)


class ImageFetcher:
    """Bounds what is fetched at once, for each account and from each host; tells `count` how each fetch ended."""

    def __init__(
        self,
        settings: ImageFetchSettings,
        *,
        resolve: Resolve,
        count: Callable[[str], None],
        ssl_context: ssl.SSLContext,
        is_allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self.settings = settings
        self.resolve = resolve
        self.ssl_context = ssl_context
        self.is_allowed = is_allowed
        self.accounts = AtOnce(settings.max_at_once_per_account)
        self.hosts = AtOnce(settings.max_at_once_per_host)
        self._count = count

    async def fetch(self, images: Sequence[RemoteImage], account_id: str, room: ImageRoom) -> list[str]:
        """All of them as data: URIs, or none: the first failure ends the rest.

        Raises GatewayError `invalid_image_url`, or `overloaded`.
        """
        outcomes = await self._outcomes(images, account_id, room)
        for image, outcome in zip(images, outcomes, strict=True):
            if outcome is not None and outcome.kind != "fetched":
                del outcomes  # an error keeps its frames, and they what was fetched
                raise _refusal(image, outcome)
        return [outcome.told for outcome in outcomes if outcome is not None]

    async def _outcomes(self, images: Sequence[RemoteImage], account_id: str, room: ImageRoom) -> list[Fetched | None]:
        """Of each image, None for one that was given up since another had failed."""
        deadline_s = asyncio.get_running_loop().time() + self.settings.timeout_s
        tasks = [
            asyncio.create_task(self._outcome(_Fetch(self, image.url, account_id, room), deadline_s))
            for image in images
        ]
        pending = set(tasks)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result().kind != "fetched" for task in done):
                    break
        finally:
            for task in pending:
                task.cancel()
            await asyncio.wait(tasks)
        return [None if task.cancelled() else task.result() for task in tasks]

    async def _outcome(self, fetch: "_Fetch", deadline_s: float) -> Fetched:
        kind: str = "cancelled"
        try:
            outcome = await fetch.outcome(deadline_s)
            kind = outcome.kind
        finally:
            self._count(kind)
        return outcome


class _Fetch:
    """One image, over as many hops as its address takes."""

    def __init__(self, fetcher: ImageFetcher, url: str, account_id: str, room: ImageRoom) -> None:
        self._fetcher = fetcher
        self._url = url
        self._account_id = account_id
        self._room = room
        self._kept_bytes = 0
        self._is_asking = False

    async def outcome(self, deadline_s: float) -> Fetched:
        """How it ends, by the deadline at the latest. Failures are values: kept in a task, errors would keep frames."""
        try:
            async with asyncio.timeout_at(deadline_s), self._fetcher.accounts.place(self._account_id):
                return await self._followed()
        except Unfetched as unfetched:
            return unfetched.outcome
        except TimeoutError:
            return _UNREACHABLE if self._is_asking else _BUSY
        except (GatewayError, NoResources):
            return _BUSY
        except UpstreamError:
            return _UNREACHABLE

    async def _followed(self) -> Fetched:
        """The image, past redirects. Each is judged as the first address was, and told of by the same words."""
        for _ in range(1 + _MAX_REDIRECTS):
            try:
                asked = read_image_url(self._url, self._fetcher.settings.ports)
            except ValueError:
                break
            async with self._fetcher.hosts.place(asked.host):
                self._is_asking = True
                outcome = await self._hop(asked)
            self._is_asking = False
            if outcome is not None:
                return outcome
        return _UNREACHABLE

    async def _hop(self, asked: ImageUrl) -> Fetched | None:
        """The image; None where the answer names another address, which is the next then."""
        response = await self._answer(asked)
        try:
            location = response.header(b"location")
            if response.status not in _REDIRECTS or location is None:
                return await self._image_in(response)
            self._url = _joined(self._url, location)
            return None
        finally:
            response.close()

    async def _answer(self, asked: ImageUrl) -> Response:
        """From the first address that takes a connection."""
        fetcher = self._fetcher
        addresses = await allowed_addresses(asked, self._account_id, fetcher.resolve, fetcher.is_allowed)
        transports = (self._transport(asked, address) for address in addresses)
        response = await first_answer(transports, "GET", asked.target, _HEADERS)
        if response is None:
            raise Unfetched(*_UNREACHABLE)
        return response

    def _transport(self, asked: ImageUrl, address: str) -> Transport:
        """For one answer: no connection is kept."""
        settings = self._fetcher.settings
        timeouts = timeouts_within(settings.timeout_s)
        limits = TransportLimits(
            max_head_bytes=_MAX_HEAD_BYTES, max_body_bytes=settings.max_image_bytes, max_idle_connections=0
        )
        ssl_context = self._fetcher.ssl_context
        return Transport(asked.origin, timeouts=timeouts, limits=limits, ssl_context=ssl_context, address=address)

    async def _image_in(self, response: Response) -> Fetched:
        """Raises Unfetched for anything but an image, as both its type and its first bytes must say."""
        if response.status != HTTPStatus.OK:
            raise Unfetched("status", f"the server of the image answers with HTTP status {response.status}")
        is_plain = (response.header(b"content-encoding") or b"identity").lower() == b"identity"
        if not is_plain or not is_image_type(response.header(b"content-type")):
            raise _no_image()
        try:
            content = await response.read(self._keep)
        except BodyTooLarge:
            raise _too_large(self._fetcher.settings.max_image_bytes) from None
        await self._keep(len(content))
        kind = image_type_of(content)
        if kind is None:
            raise _no_image()
        return Fetched("fetched", await data_uri(kind, content))

    async def _keep(self, size_bytes: int) -> None:
        """Have room for so many bytes of the image in all."""
        more_bytes = data_uri_chars(size_bytes) - self._kept_bytes
        if more_bytes > 0:
            self._kept_bytes += more_bytes
            await self._room.take(more_bytes)


def _no_image() -> Unfetched:
    words = "what comes from its address is, by type and content, no PNG, JPEG, GIF or WebP image as it is"
    return Unfetched("not_an_image", words)


def _too_large(most_bytes: int) -> Unfetched:
    return Unfetched("too_large", f"the image has more than {most_bytes} bytes; name a smaller one")


def _joined(url: str, location: bytes) -> str:
    """Where a redirect leads; what is no address leads nowhere."""
    try:
        return urljoin(url, location.decode("utf-8", "replace"))
    except ValueError:
        return ""


def _refusal(image: RemoteImage, outcome: Fetched) -> GatewayError:
    message = f"`{image.where}`: {outcome.told}."
    return GatewayError("overloaded" if outcome.kind == "busy" else "invalid_image_url", message, param=image.where)
