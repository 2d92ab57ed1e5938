"""Documents of clients, fetched from a server on a real socket with a certificate of its own."""

from collections.abc import Callable

import pytest

from mcp_gateway.core.image_fetching.documents import MAX_DOCUMENT_BYTES, DocumentFetcher
from mcp_gateway.core.image_fetching.public_address import is_public
from tests.cases import each
from tests.core.upstream.misbehaving import Behaviour, MisbehavingServer, close
from tests.image_server import LOOPBACK, Names, Tls, certificate_in, image, port_of, redirect, url_at

JSON = b'{"client_id": "x"}'


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return certificate_in(tmp_path_factory.mktemp("tls"))


def fetcher_of(
    server: MisbehavingServer, tls: Tls, is_allowed: Callable[[str], bool] = lambda address: address == LOOPBACK
) -> DocumentFetcher:
    return DocumentFetcher(resolve=Names(), ports=(port_of(server),), ssl_context=tls[1], is_allowed=is_allowed)


@each(
    ("behaviour", "found"),
    [
        (image(JSON, b"application/json; charset=utf-8"), JSON),
        (image(JSON, b"application/client+json"), JSON),
        (image(JSON, b"text/html"), None),
        (image(JSON, b"application/json", headers=b"content-encoding: gzip\r\n"), None),
        (image(JSON, b"application/json", 404), None),
        (image(b" " * (MAX_DOCUMENT_BYTES + 1), b"application/json"), None),
        (redirect("/other"), None),
        (close, None),
    ],
)
async def test_a_document_is_fetched_from_a_public_server_as_it_stands_and_within_bounds(
    tls: Tls, behaviour: Behaviour, found: bytes | None
) -> None:
    async with MisbehavingServer(behaviour, ssl_context=tls[0]) as server:
        assert await fetcher_of(server, tls)(url_at(server, "/client"), "somebody") == found


async def test_no_document_is_asked_for_at_a_private_address_another_port_or_without_tls(tls: Tls) -> None:
    async with MisbehavingServer(image(JSON, b"application/json"), ssl_context=tls[0]) as server:
        assert await fetcher_of(server, tls, is_public)(url_at(server), "somebody") is None
        fetcher = fetcher_of(server, tls)
        for url in ("https://pictures.example/client", url_at(server).replace("https:", "http:"), "https://"):
            assert await fetcher(url, "somebody") is None
        assert server.peers == []


async def test_the_system_s_authorities_are_trusted_where_nobody_else_is_named(tls: Tls) -> None:
    async with MisbehavingServer(image(JSON, b"application/json"), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls)
        fetcher.ssl_context = None
        assert await fetcher(url_at(server), "somebody") is None
        assert fetcher.ssl_context is not None
