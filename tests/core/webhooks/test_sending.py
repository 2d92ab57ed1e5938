"""To whom a delivery may go, what it sends there, and how little of the answer is read."""

import ssl
from collections.abc import Callable, Sequence

import pytest

from mcp_gateway.core.webhooks.outbox import OPERATOR, Delivery
from mcp_gateway.core.webhooks.sending import Sender, read_webhook_url
from tests.cases import each
from tests.core.upstream.misbehaving import MisbehavingServer, answer, read_then_stall, reply
from tests.image_server import Names, Tls, certificate_in, port_of, redirect

HEADERS = ((b"webhook-id", b"evt_1"),)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return certificate_in(tmp_path_factory.mktemp("hooks"))


def to(url: str, receiver: str = "acc_1") -> Delivery:
    return Delivery(receiver, "evt_1", "{}", 0, url, None, None)


def sender(
    server: MisbehavingServer,
    context: ssl.SSLContext | None = None,
    names: Names | None = None,
    *,
    timeout_s: float = 10.0,
    is_allowed: Callable[[str], bool] = lambda address: address == "127.0.0.1",
) -> Sender:
    return Sender(
        resolve=names or Names(),
        ports=[443, port_of(server)],
        timeout_s=timeout_s,
        ssl_context=context,
        is_allowed=is_allowed,
    )


async def test_a_body_is_posted_with_its_headers_and_the_status_told(tls: Tls) -> None:
    async with MisbehavingServer(reply(answer(b"thanks", 202)), ssl_context=tls[0]) as server:
        url = f"https://hooks.pictures.example:{port_of(server)}/in?for=me"
        assert await sender(server, tls[1])(to(url), HEADERS, b'{"a":1}') == 202
        (request,) = server.peers[0].requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /in?for=me HTTP/1.1\r\nhost: hooks.pictures.example:")
    assert b"\r\ncontent-type: application/json\r\n" in head + b"\r\n"
    assert b"\r\nwebhook-id: evt_1" in head
    assert body == b'{"a":1}'


async def test_the_answer_is_not_read_beyond_its_head(tls: Tls) -> None:
    endless = reply(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
    async with MisbehavingServer(endless, ssl_context=tls[0]) as server:
        url = f"https://hooks.pictures.example:{port_of(server)}/"
        assert await sender(server, tls[1])(to(url), HEADERS, b"{}") == 200
        await server.peers[0].gone()


async def test_no_redirect_is_followed(tls: Tls) -> None:
    async with MisbehavingServer(redirect("https://other.pictures.example/"), ssl_context=tls[0]) as server:
        names = Names()
        url = f"https://hooks.pictures.example:{port_of(server)}/"
        assert await sender(server, tls[1], names)(to(url), HEADERS, b"{}") == 302
        assert (len(server.peers), names.asked) == (1, ["hooks.pictures.example"])


@each(
    "addresses",
    [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["169.254.169.254"], []],
)
async def test_a_name_with_an_address_that_is_not_public_is_asked_for_nothing(
    tls: Tls, addresses: Sequence[str]
) -> None:
    async with MisbehavingServer(reply(answer(b"")), ssl_context=tls[0]) as server:
        names = Names(hooks_pictures_example=addresses)
        url = f"https://hooks.pictures.example:{port_of(server)}/"
        assert await sender(server, tls[1], names)(to(url), HEADERS, b"{}") is None
        assert server.peers == []


async def test_an_account_gets_nothing_sent_to_loopback_where_nobody_says_so(tls: Tls) -> None:
    async with MisbehavingServer(reply(answer(b"")), ssl_context=tls[0]) as server:
        strict = Sender(resolve=Names(), ports=[port_of(server)], timeout_s=10, ssl_context=tls[1])
        for host in ("127.0.0.1", "hooks.pictures.example", "[::1]"):
            assert await strict(to(f"https://{host}:{port_of(server)}/"), HEADERS, b"{}") is None
        assert server.peers == []


async def test_the_certificate_must_be_for_the_name(tls: Tls) -> None:
    async with MisbehavingServer(reply(answer(b"")), ssl_context=tls[0]) as server:
        url = f"https://hooks.other.example:{port_of(server)}/"
        assert await sender(server, tls[1])(to(url), HEADERS, b"{}") is None
        assert all(peer.requests == [] for peer in server.peers)


async def test_the_operators_may_be_http_on_this_machine() -> None:
    async with MisbehavingServer(reply(answer(b"", 204))) as server:
        status = await sender(server)(to(f"{server.base_url}/hook?a=b", OPERATOR), HEADERS, b"{}")
        assert status == 204
        assert server.peers[0].requests[0].startswith(b"POST /hook?a=b HTTP/1.1\r\n")


async def test_whoever_does_not_answer_in_time_has_not_taken_it() -> None:
    async with MisbehavingServer(read_then_stall) as server:
        assert await sender(server, timeout_s=0.05)(to(server.base_url, OPERATOR), HEADERS, b"{}") is None


@each(
    "url",
    [
        "http://hooks.example/",
        "https://user:word@hooks.example/",
        "https://hooks.example:8443/",
        "https://localhost/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://hooks.example\\@evil.example/",
        "https://hooks.example/ a",
        "ftp://hooks.example/",
        "",
        "https://" + "a" * 9000 + ".example/",
    ],
)
def test_what_is_no_address_for_an_account_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError, match=r"an account's webhook is https://host\.example/path"):
        read_webhook_url(url, (443,))


@each("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[fd00::1]", "[::ffff:10.0.0.1]"])
def test_an_address_that_is_not_public_is_refused_when_it_is_set(host: str) -> None:
    with pytest.raises(ValueError, match="goes to the public internet"):
        read_webhook_url(f"https://{host}/hook", {443})


def test_an_address_that_is_public_needs_no_name() -> None:
    assert read_webhook_url("https://9.9.9.9/hook", {443}).host == "9.9.9.9"
