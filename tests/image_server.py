"""A server of images with a certificate of a test's own, and a fetcher that trusts it and finds it under any name."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mcp_gateway.core.config import ImageFetchSettings
from mcp_gateway.core.image_fetching.fetcher import ImageFetcher
from tests.core.upstream.misbehaving import Behaviour, MisbehavingServer, Peer, answer, make_certificate, reply

LOOPBACK = "127.0.0.1"
HOSTS = ("pictures.example", "*.pictures.example")
"""What the certificate is for."""
PNG = b"\x89PNG\r\n\x1a\n and more"
Tls = tuple[ssl.SSLContext, ssl.SSLContext]


def certificate_in(folder: Path) -> Tls:
    """The contexts of the server and of a client that trusts it."""
    return make_certificate(folder, *HOSTS)


def image(content: bytes = PNG, kind: bytes = b"image/png", status: int = 200, headers: bytes = b"") -> Behaviour:
    """Answers a request so, and closes the connection."""
    return reply(answer(content, status, b"content-type: %b\r\n%b" % (kind, headers)), then=_end)


def redirect(location: str, status: int = 302) -> Behaviour:
    return reply(answer(b"elsewhere", status, f"location: {location}\r\n".encode()), then=_end)


def held(until: asyncio.Event, behaviour: Behaviour) -> Behaviour:
    """The same after the event."""

    async def waiting(peer: Peer) -> None:
        await until.wait()
        await behaviour(peer)

    return waiting


async def _end(_: Peer) -> None:
    """Nothing more."""


class Names:
    """A resolver: the addresses of each name, loopback where nothing else is said; keeps what it was asked."""

    def __init__(self, **addresses: Sequence[str]) -> None:
        self.addresses = {name.replace("_", "."): list(found) for name, found in addresses.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, account_id: str) -> Sequence[str]:
        self.asked.append(host)
        return self.addresses.get(host, [LOOPBACK])


def fetcher_of(
    server: MisbehavingServer,
    client: ssl.SSLContext,
    names: Names | None = None,
    *,
    is_allowed: Callable[[str], bool] = lambda address: address == LOOPBACK,
    outcomes: Counter[str] | None = None,
    **settings: float,
) -> ImageFetcher:
    """Takes loopback for public, unless told otherwise."""
    ports = [443, port_of(server)]
    tally: Counter[str] = Counter() if outcomes is None else outcomes
    return ImageFetcher(
        ImageFetchSettings.model_validate({"ports": ports} | settings),
        resolve=names or Names(),
        count=lambda outcome: tally.update([outcome]),
        ssl_context=client,
        is_allowed=is_allowed,
    )


def port_of(server: MisbehavingServer) -> int:
    return int(server.base_url.rpartition(":")[2])


def url_at(server: MisbehavingServer, path: str = "/cat.png", host: str = HOSTS[0]) -> str:
    return f"https://{host}:{port_of(server)}{path}"
