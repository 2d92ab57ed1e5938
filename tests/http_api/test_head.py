"""Which heads are served and which refused, by a real connection in front of an app that tells what it was asked."""

import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from starlette.types import Receive, Scope, Send

from http_api.connection import head
from tests.cases import each
from tests.http_api.test_connection import assert_refused, raw, serving, statuses

HOST = b"Host: gateway.example\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TO_THE_END = b"Connection: close\r\n\r\n"


async def tells(scope: Scope, receive: Receive, send: Send) -> None:
    """Its method, path, query, version and host, and how much it had for a body."""
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message["more_body"]:
            break
    host = dict(scope["headers"]).get(b"host", b"-").decode()
    told = f"{scope['method']} {scope['path']} {scope['query_string'].decode()} {scope['http_version']} {host} {size}"
    body = told.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port() -> AsyncIterator[int]:
    async with serving(tells) as port:
        yield port


pytestmark = pytest.mark.asyncio(loop_scope="module")


@each(
    ("target", "told"),
    [
        (b"/a/b", "/a/b "),
        (b"/a?b=c&d", "/a b=c&d"),
        (b"/a?b=http://c/?d", "/a b=http://c/?d"),
        (b"/a%20b?c%20d", "/a b c%20d"),
        (b"/v1/%6dodels", "/v1/models "),
        (b"//a", "//a "),
        (b"//a//b?c", "//a//b c"),
        (b"/a#b", "/a "),
        (b"/a#b?c", "/a "),
        (b"/a/../b", "/a/../b "),
        (b"/caf%C3%A9", "/café "),
        # an encoded slash is none, and what is encoded twice is decoded once
        (b"/v1%2fmodels", "/v1%2fmodels "),
        (b"/v1%2Fmodels", "/v1%2Fmodels "),
        (b"/v1%252fmodels", "/v1%252fmodels "),
        (b"/a%2541", "/a%2541 "),
        (b"/%zz%", "/%zz% "),
    ],
)
async def test_a_path_is_told_decoded_but_for_what_would_make_it_another(port: int, target: bytes, told: str) -> None:
    answer = await raw(port, b"GET %b HTTP/1.1\r\n" % target + HOST + TO_THE_END)
    assert answer.partition(b"\r\n\r\n")[2].decode() == f"GET {told} 1.1 gateway.example 0"


@each("escape", [b"%00", b"%0a", b"%0D", b"%1f", b"%7F", b"%c2%85", b"%e2%80%a8"])
@each("form", [b"/v1/models%b", b"/v1/models/a/health%b", b"/%b?x", b"http://gateway.example/%b"])
async def test_a_path_with_control_characters_is_no_path(port: int, form: bytes, escape: bytes) -> None:
    assert_refused(await raw(port, b"GET %b HTTP/1.1\r\n" % (form % escape) + HOST + b"\r\n"), 400, "invalid_json")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (b"http://other.example/a?b", "/a b 1.1 other.example"),
        (b"HTTPS://other.example:8443/a", "/a  1.1 other.example:8443"),
        (b"http://other.example", "/  1.1 other.example"),
        (b"http://other.example?a=/b", "/ a=/b 1.1 other.example"),
        (b"http://[::1]:80/a#b", "/a  1.1 [::1]:80"),
    ],
)
async def test_of_a_whole_url_the_authority_takes_the_place_of_host(port: int, target: bytes, told: str) -> None:
    answer = await raw(port, b"GET %b HTTP/1.1\r\n" % target + HOST + TO_THE_END)
    assert answer.partition(b"\r\n\r\n")[2].decode() == f"GET {told} 0"


@each(
    "target",
    [
        b"ftp://gateway.example/a",
        b"ws://gateway.example/a",
        b"file:///a",
        b"http:/a",
        b"http://",
        b"http:///a",
        b"http://user:word@gateway.example/a",
        b"http://a b/",
        b"gateway.example:80",
        b"models",
        b"*",
        b"?a",
        b"/caf\xc3\xa9",
        b"/a\x01",
    ],
)
async def test_what_is_neither_a_path_nor_a_url_of_http_is_refused(port: int, target: bytes) -> None:
    assert_refused(await raw(port, b"GET %b HTTP/1.1\r\n" % target + HOST + b"\r\n" + NEXT), 400, "invalid_json")


@pytest.mark.parametrize("target", [b"other.example:443", b"http://x/", b"/hello"])
async def test_a_tunnel_is_refused(port: int, target: bytes) -> None:
    assert_refused(await raw(port, b"CONNECT %b HTTP/1.1\r\n" % target + HOST + b"\r\n" + NEXT), 400, "invalid_json")


async def test_the_server_as_a_whole_may_be_asked_for_its_options(port: int) -> None:
    assert b"OPTIONS *  1.1" in await raw(port, b"OPTIONS * HTTP/1.1\r\n" + HOST + TO_THE_END)


UNKNOWN = [b"FOO", b"get", b"Get", b"GETX", b"G", b"DESCRIBE", b"SOURCE", b"PROPFIND", b"M-SEARCH", b"x'|~"]


@each("method", UNKNOWN)
async def test_a_method_that_is_not_of_http_is_unknown(port: int, method: bytes) -> None:
    assert_refused(await raw(port, b"%b / HTTP/1.1\r\n" % method + HOST + b"\r\n" + NEXT), 501, "unknown_method")


@each("method", [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"QUERY"])
async def test_whether_a_path_has_a_method_of_http_is_left_to_the_app(port: int, method: bytes) -> None:
    assert method + b" /a " in await raw(port, method + b" /a HTTP/1.1\r\n" + HOST + TO_THE_END)


@pytest.mark.parametrize("line", [b"\x00\x01garbage", b"G\x00T / HTTP/1.1", b"hello", b"(GET) / HTTP/1.1", b"GET"])
async def test_what_has_no_method_at_all_is_not_understood(port: int, line: bytes) -> None:
    assert_refused(await raw(port, line + b"\r\n" + HOST + b"\r\n"), 400, "invalid_json")


@each("version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"RTSP/1.0", b"RTSP/1.1"])
async def test_another_version_is_not_spoken(port: int, version: bytes) -> None:
    assert_refused(await raw(port, b"GET / %b\r\n" % version + HOST + b"\r\n" + NEXT), 505, "unsupported_version")


@each("version", [b" HTTP/1.", b" HTTP/1.10", b" HTTP/11.1", b" http/1.1", b" HTTP/1.1 ", b" HTTPS/1.1", b""])
async def test_what_is_no_version_is_not_understood(port: int, version: bytes) -> None:
    assert_refused(await raw(port, b"GET /" + version + b"\r\n" + HOST + b"\r\n" + NEXT), 400, "invalid_json")


@pytest.mark.parametrize("cut", [0, 1, 16, 18])
async def test_a_client_of_http_2_is_told_that_this_is_http_1_1(port: int, cut: int) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    answer = await raw(port, preface[:cut], preface[cut:])
    assert_refused(answer, 505, "unsupported_version")
    assert b"This is HTTP/1.1 alone" in answer


async def test_a_client_of_tls_is_told_that_this_is_http_in_the_clear(port: int) -> None:
    answer = await raw(port, bytes.fromhex("1603010200010001fc0303") + b"\x00" * 100)
    assert_refused(answer, 400, "invalid_json")
    assert b"in the clear" in answer


CODINGS = [
    "gzip",
    "gzip, chunked",
    "identity",
    "identity, chunked",
    "chunked, chunked",
    "chunked, identity",
    "xchunked",
]
CODINGS += [
    "chunked;x=1",
    '"chunked"',
    "chunked\r\nTransfer-Encoding: chunked",
    "chunked\r\nTransfer-Encoding: gzip",
    "",
]


@each("coding", CODINGS)
async def test_a_transfer_coding_other_than_chunked_alone_is_not_decoded(port: int, coding: str) -> None:
    lines = HOST + b"Transfer-Encoding: %b\r\n\r\n" % coding.encode()
    answer = await raw(port, b"POST / HTTP/1.1\r\n" + lines + b"2\r\nab\r\n0\r\n\r\n" + NEXT)
    assert_refused(answer, 501, "unsupported_transfer_coding")


@pytest.mark.parametrize("coding", [b"chunked", b"ChUnKeD", b"\tchunked  "])
async def test_chunked_is_decoded_however_it_is_written(port: int, coding: bytes) -> None:
    lines = HOST + b"Transfer-Encoding:%b\r\n\r\n" % coding
    answer = await raw(port, b"POST / HTTP/1.1\r\n" + lines + b"2\r\nab\r\n0\r\n\r\n" + NEXT)
    assert statuses(answer) == [200, 200]
    assert b"gateway.example 2" in answer


AMBIGUOUS = [
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
    b"Content-Length: 2\r\nContent-Length: 2\r\n",
    b"Content-Length: 2\r\nContent-Length: 3\r\n",
    b"Content-Length: 2, 2\r\n",
    b"Content-Length: +2\r\n",
    b"Content-Length: 0x2\r\n",
    b"Content-Length: 2_0\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"X: a\r\n b\r\n",
    b"X: a\r\n\tContent-Length: 2\r\n",
    b"X: a\rb\r\n",
    b"X: a\r\r\n",
    b"X: a\x00b\r\n",
    b"X: a\x7fb\r\n",
    b"X\x00: a\r\n",
    b"X Y: a\r\n",
    b": a\r\n",
    b"XY\r\n",
    b"X: a\n",
]


@each("lines", AMBIGUOUS)
async def test_headers_that_can_be_read_in_two_ways_are_refused(port: int, lines: bytes) -> None:
    assert_refused(await raw(port, b"POST / HTTP/1.1\r\n" + HOST + lines + b"\r\nok" + NEXT), 400, "invalid_json")


async def test_a_transfer_coding_is_none_in_http_1_0(port: int) -> None:
    lines = HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert_refused(await raw(port, b"POST / HTTP/1.0\r\n" + lines + b"0\r\n\r\n"), 400, "invalid_json")


async def test_a_name_with_an_underscore_is_another_name(port: int) -> None:
    lines = HOST + b"Transfer_Encoding: chunked\r\nContent_Length: 50\r\nContent-Length: 2\r\n\r\nok"
    assert statuses(await raw(port, b"POST / HTTP/1.1\r\n" + lines + NEXT)) == [200, 200]


@each(
    "host",
    [b"x", b"x:80", b"x:", b"127.0.0.1:8080", b"[::1]", b"[::ffff:127.0.0.1]:80", b"my_service", b"a%20b", b"X" * 300],
)
async def test_a_host_is_a_name_or_an_address_with_or_without_a_port(port: int, host: bytes) -> None:
    assert statuses(await raw(port, b"GET / HTTP/1.1\r\nHost: %b\r\n" % host + TO_THE_END)) == [200]


BAD_HOSTS = [
    b"",
    b"a b",
    b"a/b",
    b"a@b",
    b"a, b",
    b":80",
    b"x:8o",
    b"[::1",
    b"[::g]",
    b"[]",
    b"[1]",
    b"::1",
    b"a%2",
    b"\xff",
]


@each("host", [*BAD_HOSTS, b"a/" + b"b" * 300])
@each("version", [b"1.1", b"1.0"])
async def test_a_malformed_host_is_refused(port: int, host: bytes, version: bytes) -> None:
    answer = await raw(port, b"GET / HTTP/%b\r\nHost: %b\r\n\r\n" % (version, host) + NEXT)
    assert_refused(answer, 400, "invalid_json")


@each("hosts", list(itertools.product([b"x", b"y"], repeat=2)))
@each("version", [b"1.1", b"1.0"])
async def test_two_hosts_are_refused(port: int, hosts: tuple[bytes, bytes], version: bytes) -> None:
    lines = b"".join(b"Host: %b\r\nX: y\r\n" % host for host in hosts)
    assert_refused(await raw(port, b"GET / HTTP/%b\r\n" % version + lines + b"\r\n" + NEXT), 400, "invalid_json")


async def test_http_1_1_needs_a_host_and_http_1_0_none(port: int) -> None:
    assert_refused(await raw(port, b"GET / HTTP/1.1\r\n\r\n" + NEXT), 400, "invalid_json")
    assert_refused(await raw(port, b"GET http://x/ HTTP/1.1\r\n\r\n" + NEXT), 400, "invalid_json")
    assert statuses(await raw(port, b"GET / HTTP/1.0\r\n\r\n")) == [200]


async def test_http_1_0_is_not_asked_for_the_body_that_it_expects_to_be_asked_for(port: int) -> None:
    lines = HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert statuses(await raw(port, b"POST / HTTP/1.0\r\n" + lines, b"ok")) == [200]


async def test_a_refused_head_request_has_no_body(port: int) -> None:
    answer = await raw(port, b"HEAD / HTTP/1.1\r\n\r\n")
    assert statuses(answer) == [400]
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("refused", [b"GET / HTTP/1.1\r\n\r\n", b"PROPFIND / HTTP/1.1\r\n" + HOST + b"\r\n"])
async def test_a_request_that_is_refused_behind_others_is_refused_in_its_turn(port: int, refused: bytes) -> None:
    good = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = await raw(port, good + good + refused + NEXT)
    assert statuses(answer)[:2] == [200, 200]
    assert statuses(answer)[2:] in ([400], [501])


async def test_empty_lines_before_a_request_do_not_count(port: int) -> None:
    assert statuses(await raw(port, b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n\r\n" + NEXT)) == [200, 200]


async def test_neither_queries_nor_long_lines_are_kept(port: int) -> None:
    head._known_line.cache_clear()
    for target in (b"/a?secret", b"/" + b"a" * 5000, b"/b"):
        assert statuses(await raw(port, b"GET %b HTTP/1.1\r\n" % target + HOST + TO_THE_END)) == [200]
    assert head._known_line.cache_info().currsize == 1
