"""Images fetched from a server on a real socket with a certificate of its own."""

import asyncio
import ssl
import zlib
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from mcp_gateway.core.bytes_in_flight import BytesInFlight, Owner
from mcp_gateway.core.config import ImageFetchSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.image_fetching.fetcher import ImageFetcher, ImageRoom
from mcp_gateway.core.image_fetching.public_address import is_public
from mcp_gateway.core.sent_images import RemoteImage
from tests.cases import each
from tests.core.upstream.misbehaving import (
    Behaviour,
    MisbehavingServer,
    Peer,
    be_deaf,
    close,
    read_then_stall,
    reply,
    reset,
    stall,
)
from tests.image_server import (
    HOSTS,
    PNG,
    Names,
    Tls,
    certificate_in,
    fetcher_of,
    held,
    image,
    port_of,
    redirect,
    url_at,
)
from tests.loop_clock import pass_time
from tests.patience import eventually

ROOM_BYTES = 2**20
UNREACHABLE = "could not be fetched"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return certificate_in(tmp_path_factory.mktemp("tls"))


def named(*urls: str) -> list[RemoteImage]:
    return [RemoteImage(url, f"messages[0].content[{index}]", {}, _put) for index, url in enumerate(urls)]


def _put(part: dict[str, Any], uri: str) -> None:
    part["uri"] = uri


def room(left_bytes: int = ROOM_BYTES) -> ImageRoom:
    return ImageRoom(left_bytes, None)


async def fetched(fetcher: ImageFetcher, *urls: str, account: str = "acc_1") -> list[str]:
    return await fetcher.fetch(named(*urls), account, room())


async def refusal(fetcher: ImageFetcher, *urls: str, left_bytes: int = ROOM_BYTES) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await fetcher.fetch(named(*urls), "acc_1", room(left_bytes))
    return raised.value


def decoded(uri: str) -> tuple[str, bytes]:
    head, _, digits = uri.partition(",")
    return head, b64decode(digits)


# What is brought


@each(
    ("content", "sent_type", "kind"),
    [
        (PNG, b"image/png", "png"),
        (b"\xff\xd8\xff\xe0 jfif", b"image/jpeg", "jpeg"),
        (b"\xff\xd8\xff\xe0 jfif", b"image/jpg", "jpeg"),
        (b"GIF89a...", b"image/gif", "gif"),
        (b"GIF87a...", b"IMAGE/GIF; charset=binary", "gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", b"image/webp", "webp"),
        (b"\xff\xd8\xff\xe0 jfif", b"image/png", "jpeg"),
        (PNG + bytes(range(256)) * 3000, b"image/png", "png"),
    ],
)
async def test_an_image_comes_as_data_of_the_type_that_its_bytes_say(
    tls: Tls, content: bytes, sent_type: bytes, kind: str
) -> None:
    tally: Counter[str] = Counter()
    async with MisbehavingServer(image(content, sent_type), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], outcomes=tally)
        (uri,) = await fetcher.fetch(named(url_at(server)), "acc_1", room(2**21))
    assert decoded(uri) == (f"data:image/{kind};base64", content)
    assert tally == {"fetched": 1}


@each("pieces", [[b"ffff\r\n" + b"x" * 10], [b"zz\r\n"], [b"-1\r\n"]])
async def test_a_body_that_breaks_its_framing_is_no_image(tls: Tls, pieces: list[bytes]) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
    async with MisbehavingServer(reply(head, *pieces, then=close), ssl_context=tls[0]) as server:
        assert UNREACHABLE in (await refusal(fetcher_of(server, tls[1]), url_at(server))).message


async def test_a_body_may_come_in_chunks_or_until_the_connection_ends(tls: Tls) -> None:
    chunks = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)
    for rest in (chunks, b"\r\n" + PNG):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n"
        async with MisbehavingServer(reply(head + rest, then=close), ssl_context=tls[0]) as server:
            (uri,) = await fetched(fetcher_of(server, tls[1]), url_at(server))
            assert decoded(uri)[1] == PNG


async def test_nothing_is_sent_but_what_is_asked_for(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    names_asked = []
    tls[0].sni_callback = lambda _socket, name, _context: names_asked.append(name)
    async with MisbehavingServer(redirect("/b?c=d"), image(), ssl_context=tls[0]) as server:
        await fetched(fetcher_of(server, tls[1]), url_at(server, "/a"))
        asked = [request.decode() for request in server.requests]
        host = f"{HOSTS[0]}:{port_of(server)}"
    tls[0].sni_callback = None
    assert names_asked == [HOSTS[0]] * 2
    sent = (
        f"host: {host}\r\naccept: image/gif, image/jpeg, image/jpg, image/png, image/webp\r\n"
        "accept-encoding: identity\r\nuser-agent: mcp-gateway\r\n\r\n"
    )
    assert asked == [f"GET /a HTTP/1.1\r\n{sent}", f"GET /b?c=d HTTP/1.1\r\n{sent}"]


async def test_several_come_in_their_order_whichever_is_there_first(tls: Tls) -> None:
    is_second_there = asyncio.Event()

    async def by_path(peer: Peer) -> None:
        await peer.read_request()
        if b"/first" in peer.requests[0]:
            await is_second_there.wait()
        body = PNG + peer.requests[0][:12]
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n" + body)
        is_second_there.set()

    async with MisbehavingServer(by_path, ssl_context=tls[0]) as server:
        urls = [url_at(server, path) for path in ("/first", "/other")]
        first, second = await fetched(fetcher_of(server, tls[1]), *urls)
    assert decoded(first)[1].endswith(b"GET /first H")
    assert decoded(second)[1].endswith(b"GET /other H")


# Where it leads


@each(
    ("host", "addresses"),
    [
        ("localhost.example", ["127.0.0.1"]),
        ("metadata.example", ["169.254.169.254"]),
        ("metadata6.example", ["fd00:ec2::254"]),
        ("127.0.0.1.nip.io", ["127.0.0.1"]),
        ("intranet.example", ["10.0.0.7"]),
        ("mapped.example", ["::ffff:127.0.0.1"]),
        ("nat64.example", ["64:ff9b::7f00:1"]),
        ("zoned.example", ["fe80::1%lo"]),
        ("carrier.example", ["100.64.0.1"]),
        ("mixed.example", ["8.8.8.8", "127.0.0.1"]),
        ("mixed6.example", ["127.0.0.1", "2606:4700::1111"]),
        ("nobody.example", []),
        ("garbled.example", ["not an address"]),
    ],
)
async def test_a_name_with_an_address_that_is_not_public_is_not_connected_to(
    tls: Tls, host: str, addresses: list[str]
) -> None:
    names = Names()
    names.addresses[host] = addresses
    async with MisbehavingServer(image(), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], names, is_allowed=is_public)
        assert UNREACHABLE in (await refusal(fetcher, url_at(server, host=host))).message
        assert (server.peers, names.asked) == ([], [host])


@each("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "[fd00::1]", "10.0.0.1", "0.0.0.0"])
async def test_an_address_that_is_named_itself_is_judged_and_looked_up_nowhere(tls: Tls, host: str) -> None:
    names = Names()
    async with MisbehavingServer(image(), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], names, is_allowed=is_public)
        assert UNREACHABLE in (await refusal(fetcher, url_at(server, host=host))).message
        assert (server.peers, names.asked) == ([], [])


async def test_an_address_that_is_public_is_served_by_its_own_certificate(tls: Tls) -> None:
    async with MisbehavingServer(image(), ssl_context=tls[0]) as server:
        assert len(await fetched(fetcher_of(server, tls[1]), url_at(server, host="127.0.0.1"))) == 1


async def test_a_name_is_looked_up_once_so_that_its_second_answer_changes_nothing(tls: Tls) -> None:
    """The address that was judged is connected to; at a redirect the name is asked for and judged again."""
    answers = [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]]
    judged = []

    async def resolve(host: str, account_id: str) -> list[str]:
        return answers.pop(0)

    def is_allowed(address: str) -> bool:
        judged.append(address)
        return address == "127.0.0.1"

    async with MisbehavingServer(image(), redirect("/again"), image(), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], is_allowed=is_allowed)
        fetcher.resolve = resolve
        await fetched(fetcher, url_at(server))
        assert (judged, len(server.peers)) == (["127.0.0.1"], 1)
        assert UNREACHABLE in (await refusal(fetcher, url_at(server))).message
        assert (judged, len(server.peers)) == (["127.0.0.1", "127.0.0.1", "127.0.0.2"], 2)


async def test_the_next_address_of_a_name_is_tried_where_one_takes_no_connection(tls: Tls) -> None:
    names = Names(pictures_example=["127.0.0.9", "127.0.0.1"])
    async with MisbehavingServer(image(), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], names, is_allowed=lambda _: True)
        assert len(await fetched(fetcher, url_at(server))) == 1


async def test_a_certificate_for_another_name_is_none(tls: Tls) -> None:
    async with MisbehavingServer(image(), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1])
        assert UNREACHABLE in (await refusal(fetcher, url_at(server, host="other.example"))).message
        assert server.requests == []


async def test_a_certificate_of_an_authority_that_is_not_trusted_is_none(tls: Tls) -> None:
    async with MisbehavingServer(image(), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, ssl.create_default_context())
        assert UNREACHABLE in (await refusal(fetcher, url_at(server))).message


@each("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_up_to_three_times(tls: Tls, status: int) -> None:
    async with MisbehavingServer(ssl_context=tls[0]) as server:
        elsewhere = f"//www.pictures.example:{port_of(server)}/c"
        server.behaviours += [redirect(to, status) for to in ("/b", elsewhere, url_at(server, "/d"))] + [image()]
        names = Names()
        await fetched(fetcher_of(server, tls[1], names), url_at(server, "/a"))
        assert [request.split()[1] for request in server.requests] == [b"/a", b"/b", b"/c", b"/d"]
        assert names.asked == [HOSTS[0], HOSTS[0], "www.pictures.example", HOSTS[0]]


async def test_a_circle_of_redirects_ends(tls: Tls) -> None:
    async with MisbehavingServer(redirect("/cat.png"), ssl_context=tls[0]) as server:
        assert UNREACHABLE in (await refusal(fetcher_of(server, tls[1]), url_at(server))).message
        assert len(server.peers) == 4


@each(
    "location",
    [
        "http://pictures.example/a.png",
        "http://127.0.0.1/",
        "//user@pictures.example/",
        "https://pictures.example:22/",
        "https://localhost/",
        "https://0x7f000001/",
        "https://private.example/",
        "https://[::1]/",
        "https://[::1",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "/a b",
        "\\\\private.example\\",
        "https://" + "a" * 9000,
    ],
)
async def test_a_redirect_leads_nowhere_that_could_not_be_named(tls: Tls, location: str) -> None:
    names = Names(private_example=["10.0.0.1"])
    async with MisbehavingServer(redirect(location), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], names)
        assert UNREACHABLE in (await refusal(fetcher, url_at(server))).message
        assert len(server.peers) == 1


# What is no image


@each(
    ("behaviour", "words"),
    [
        (image(status=404), "HTTP status 404"),
        (image(status=500), "HTTP status 500"),
        (image(status=206), "HTTP status 206"),
        (image(status=401, headers=b"www-authenticate: Basic\r\n"), "HTTP status 401"),
        (redirect("", 304), "HTTP status 304"),
        (image(b"", status=302), "HTTP status 302"),
        (image(kind=b"text/html"), "no PNG"),
        (image(kind=b"image/svg+xml"), "no PNG"),
        (image(kind=b"application/octet-stream"), "no PNG"),
        (image(kind=b"image/png, text/html"), "no PNG"),
        (reply(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nGIF", then=close), "no PNG"),
        (image(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "no PNG"),
        (image(b"BM......"), "no PNG"),
        (image(b"RIFF\x00\x00\x00\x00WAVE"), "no PNG"),
        (image(b"GIF88a"), "no PNG"),
        (image(b"\x89PN"), "no PNG"),
        (image(b""), "no PNG"),
        (image(zlib.compress(PNG), headers=b"content-encoding: deflate\r\n"), "no PNG"),
        (image(headers=b"content-encoding: gzip\r\n"), "no PNG"),
        (image(headers=b"content-encoding: identity, br\r\n"), "no PNG"),
    ],
)
async def test_what_its_server_says_instead_is_told(tls: Tls, behaviour: Behaviour, words: str) -> None:
    async with MisbehavingServer(behaviour, ssl_context=tls[0]) as server:
        error = await refusal(fetcher_of(server, tls[1]), url_at(server))
    assert (error.code, error.param, words in error.message) == ("invalid_image_url", "messages[0].content[0]", True)
    assert error.message.startswith("`messages[0].content[0]`: ")


async def test_content_that_is_encoded_as_it_is_comes(tls: Tls) -> None:
    async with MisbehavingServer(image(headers=b"content-encoding: Identity\r\n"), ssl_context=tls[0]) as server:
        assert len(await fetched(fetcher_of(server, tls[1]), url_at(server))) == 1


async def garbage(peer: Peer) -> None:
    await peer.read_request()
    await peer.send(b"SSH-2.0-OpenSSH_9.6\r\n")


async def test_whatever_keeps_it_from_being_read_is_told_by_the_same_words(tls: Tls) -> None:
    """A refused connection, a name that nobody has, one that is private, TLS that fails: all one to who asked."""
    told = set()
    names = Names(private_pictures_example=["10.0.0.1"], nobody_pictures_example=[])
    big_head = b"HTTP/1.1 200 OK\r\nx: " + b"a" * 20_000
    behaviours = (close, reset, garbage, redirect("https://private.pictures.example/"), reply(big_head))
    async with MisbehavingServer(*behaviours, ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], names)
        for _ in behaviours:
            told.add((await refusal(fetcher, url_at(server))).message)
        for host in ("private.pictures.example", "nobody.pictures.example", "other.example", "127.0.0.2"):
            told.add((await refusal(fetcher, url_at(server, host=host))).message)
        server.die()
        told.add((await refusal(fetcher, url_at(server))).message)
    (words,) = told
    assert UNREACHABLE in words


# How large it is


@each("is_announced", [True, False])
@each("size_bytes", [1001, 5000, 3 * 2**20])
async def test_an_image_above_its_limit_is_given_up(tls: Tls, is_announced: bool, size_bytes: int) -> None:
    body = PNG.ljust(size_bytes, b"x")
    length = b"content-length: %d\r\n" % size_bytes if is_announced else b""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n%b\r\n" % length
    async with MisbehavingServer(reply(head + body, then=close), ssl_context=tls[0]) as server:
        error = await refusal(fetcher_of(server, tls[1], max_image_bytes=1000), url_at(server), left_bytes=2**30)
    assert (error.code, "more than 1000 bytes" in error.message) == ("invalid_image_url", True)


async def test_an_image_at_its_limit_comes(tls: Tls) -> None:
    async with MisbehavingServer(image(PNG.ljust(1000, b"x")), ssl_context=tls[0]) as server:
        assert len(await fetched(fetcher_of(server, tls[1], max_image_bytes=1000), url_at(server))) == 1


async def test_all_of_a_request_have_as_much_room_as_its_body(tls: Tls) -> None:
    async with MisbehavingServer(image(PNG.ljust(300, b"x")), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1])
        assert len(await fetcher.fetch(named(*[url_at(server)] * 3), "acc_1", room(1200))) == 3
        error = await refusal(fetcher, *[url_at(server)] * 3, left_bytes=1199)
    assert (error.code, "request is too large" in error.message) == ("invalid_image_url", True)


async def test_what_they_take_is_counted_where_the_body_is_until_the_request_ends(tls: Tls) -> None:
    budget = BytesInFlight(2**26)
    content = PNG.ljust(300_000, b"x")
    async with MisbehavingServer(image(content), ssl_context=tls[0]) as server:
        with budget.reservation(Owner("key_1", None, False)) as reservation:
            images = named(url_at(server), url_at(server))
            await fetcher_of(server, tls[1]).fetch(images, "acc_1", ImageRoom(ROOM_BYTES, reservation))
            assert budget.used_bytes == 800_000
    assert budget.used_bytes == 0


async def test_where_there_is_no_room_left_a_request_is_told_to_come_again(tls: Tls) -> None:
    budget = BytesInFlight(2**20, wait_s=0)
    with budget.reservation(Owner("other", None, False)) as other, budget.reservation(Owner("a", None, False)) as own:
        await other.grow(2**20 - 2**17)
        async with MisbehavingServer(image(PNG.ljust(300_000, b"x")), ssl_context=tls[0]) as server:
            with pytest.raises(GatewayError, match="overloaded"):
                await fetcher_of(server, tls[1]).fetch(named(url_at(server)), "acc_1", ImageRoom(ROOM_BYTES, own))


# How long it takes


class Slow:
    """What a server does until its client leaves, and the event that it has begun."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.has_begun = asyncio.Event()
        self._behaviour = behaviour

    async def __call__(self, peer: Peer) -> None:
        self.has_begun.set()
        await self._behaviour(peer)


async def drip(peer: Peer) -> None:
    """Send an image byte by byte, one each second."""
    await peer.read_request()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 1000\r\n\r\n")
    with suppress(ConnectionError):
        while not peer.writer.is_closing():
            await peer.send(b"x")
            pass_time(1)
            await asyncio.sleep(0)


@each(
    "behaviour",
    [stall, read_then_stall, be_deaf, drip, reply(b"HTTP/1.1 200 OK\r\n"), reply(b"HTTP/1.1 100 C\r\n\r\n")],
)
@each("is_tls", [True, False])
async def test_all_of_it_ends_by_the_deadline(tls: Tls, behaviour: Behaviour, is_tls: bool) -> None:
    slow = Slow(behaviour)
    async with MisbehavingServer(slow, ssl_context=tls[0] if is_tls else None) as server:
        fetcher = fetcher_of(server, tls[1], timeout_s=10)
        task = asyncio.create_task(refusal(fetcher, url_at(server)))
        await slow.has_begun.wait()
        pass_time(10)
        error = await task
    assert (error.code, UNREACHABLE in error.message) == ("invalid_image_url", True)


async def test_redirects_and_look_ups_are_within_the_same_deadline(tls: Tls) -> None:
    is_asked = asyncio.Event()

    async def resolve(host: str, account_id: str) -> list[str]:
        if host == "slow.pictures.example":
            is_asked.set()
            await asyncio.Event().wait()
        return ["127.0.0.1"]

    async with MisbehavingServer(redirect("https://slow.pictures.example/"), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], timeout_s=10)
        fetcher.resolve = resolve
        task = asyncio.create_task(refusal(fetcher, url_at(server)))
        await is_asked.wait()
        pass_time(10)
        assert UNREACHABLE in (await task).message


async def test_who_leaves_ends_every_fetch_and_nothing_is_left_of_them(tls: Tls) -> None:
    tally: Counter[str] = Counter()
    slow = Slow(read_then_stall)
    async with MisbehavingServer(slow, ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], outcomes=tally)
        task = asyncio.create_task(fetched(fetcher, *[url_at(server)] * 6))
        await eventually(lambda: len(server.requests) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for peer in server.peers:
            await peer.gone()
        assert (len(server.peers), tally) == (2, {"cancelled": 6})
        assert (len(fetcher.accounts), len(fetcher.hosts)) == (0, 0)


async def test_the_first_that_fails_ends_the_others_and_is_told_by_its_place(tls: Tls) -> None:
    tally: Counter[str] = Counter()
    is_asked = asyncio.Event()

    async def stalled(peer: Peer) -> None:
        await peer.read_request()
        is_asked.set()
        await peer.drain_until_gone()

    async with MisbehavingServer(stalled, held(is_asked, image(status=404)), ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1], outcomes=tally)
        error = await refusal(fetcher, *[url_at(server)] * 3)
        await server.peers[0].gone()
    assert error.param in ("messages[0].content[0]", "messages[0].content[1]")
    assert tally == {"status": 1, "cancelled": 2}


# How many at once


def hosts(count: int) -> list[str]:
    return [f"h{number}.pictures.example" for number in range(count)]


@each(
    ("urls_of", "most"),
    [
        (lambda server: [url_at(server)] * 8, 2),
        (lambda server: [url_at(server, host=host) for host in hosts(8)], 4),
    ],
)
async def test_so_many_are_fetched_at_once_from_a_host_and_for_an_account(
    tls: Tls, urls_of: Callable[[MisbehavingServer], list[str]], most: int
) -> None:
    is_open, at_once = asyncio.Event(), Counter[str]()

    async def counted(peer: Peer) -> None:
        at_once["now"] += 1
        at_once["most"] = max(at_once["most"], at_once["now"])
        await is_open.wait()
        at_once["now"] -= 1
        await image()(peer)

    async with MisbehavingServer(counted, ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1])
        task = asyncio.create_task(fetched(fetcher, *urls_of(server)))
        await eventually(lambda: at_once["now"] == most)
        is_open.set()
        assert len(await task) == 8
        assert (at_once["most"], len(fetcher.accounts), len(fetcher.hosts)) == (most, 0, 0)


async def test_one_account_keeps_no_other_from_fetching_elsewhere(tls: Tls) -> None:
    slow = Slow(read_then_stall)
    async with MisbehavingServer(slow, ssl_context=tls[0]) as server:
        fetcher = fetcher_of(server, tls[1])
        task = asyncio.create_task(fetched(fetcher, *(url_at(server, host=host) for host in hosts(8))))
        await eventually(lambda: len(server.requests) == 4)
        server.behaviours[:] = [image()]
        assert len(await fetched(fetcher, url_at(server, host="other.pictures.example"), account="acc_2")) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_who_waits_in_vain_for_a_turn_is_told_to_come_again(tls: Tls) -> None:
    async with MisbehavingServer(image(), ssl_context=tls[0]) as server, AsyncExitStack() as stack:
        fetcher = fetcher_of(server, tls[1], timeout_s=10)
        for _ in range(4):
            await stack.enter_async_context(fetcher.accounts.place("acc_1"))
        task = asyncio.create_task(refusal(fetcher, url_at(server)))
        await asyncio.sleep(0)  # it begins
        pass_time(10)
        assert ((await task).code, server.peers) == ("overloaded", [])


def test_settings_say_what_is_written_in_the_documents() -> None:
    fields: dict[str, Any] = ImageFetchSettings().model_dump()
    assert fields == {
        "max_image_bytes": 8 * 2**20,
        "timeout_s": 10.0,
        "max_per_request": 8,
        "max_at_once_per_account": 4,
        "max_at_once_per_host": 2,
        "ports": (443,),
    }
