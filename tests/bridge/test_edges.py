"""What the bridge makes of servers that refuse, lie, break off or fall silent; in process, against bytes of ours."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from bridge import mcp_stdio_bridge
from bridge.mcp_stdio_bridge import (
    Bridge,
    Log,
    McpFrame,
    Problem,
    Remote,
    backoff,
    encode_header,
    origin_of,
    read_events,
)
from tests.bridge.fake_server import STREAM, Exchange, fake_server
from tests.bridge.process import INITIALIZE_PARAMS, Message
from tests.cases import each
from tests.loop_clock import pass_time
from tests.patience import PATIENCE_S, eventually
from tests.serving import NO_TLS

LOST = {"type": "connection_lost", "may_have_been_delivered": True}


class Lines:
    """A bridge with its lines in queues."""

    def __init__(self, client: httpx2.AsyncClient, url: str, transport: str) -> None:
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self.bridge = Bridge(Remote(client, url, Log(is_verbose=False)), transport, self._lines.put)

    async def next_line(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._lines.get()

    async def read(self) -> Message:
        line = await self.next_line()
        assert line.count(b"\n") == 1
        message: Message = json.loads(line)
        return message

    @property
    def is_empty(self) -> bool:
        return self._lines.empty()

    async def send(self, method: str, params: Message | None = None, **members: object) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}, **members}
        await self.bridge.take(json.dumps(message).encode())

    async def call(self, method: str = "tools/call", params: Message | None = None, *, id: int | str = 1) -> Message:
        await self.send(method, params, id=id)
        return await self.read()

    async def open(self) -> None:
        await self.call("initialize", INITIALIZE_PARAMS, id="init")
        await self.send("notifications/initialized")


@contextlib.asynccontextmanager
async def bridge_to(url: str, transport: str = "auto") -> AsyncIterator[Lines]:
    async with httpx2.AsyncClient(verify=NO_TLS, timeout=PATIENCE_S) as client:
        lines = Lines(client, url, transport)
        yield lines
        await lines.bridge.aclose()


async def handshake(exchange: Exchange) -> bool:
    """Answers what opens a session; False for anything else."""
    if exchange.rpc_method == "initialize":
        result = exchange.result(protocolVersion="2025-11-25", serverInfo={"name": "fake", "version": "1"})
        await exchange.json(result, mcp_session_id="s1")
    elif exchange.rpc_method == "notifications/initialized":
        await exchange.head(202, content_length="0")
    else:
        return False
    return True


@each(
    ("status", "type_", "code"),
    [
        (401, "invalid_auth", "invalid_api_key"),
        (402, "insufficient_balance", "insufficient_balance"),
        (403, "content_policy", None),
        (429, "rate_limited", "requests_per_minute"),
        (503, "draining", None),
    ],
)
async def test_a_refusal_of_the_gateway_comes_in_its_own_words(status: int, type_: str, code: str | None) -> None:
    async def refuse(exchange: Exchange) -> None:
        error = {"message": "what to do", "type": type_, "code": code, "param": None}
        await exchange.json({"error": error}, status, retry_after="7")

    async with fake_server(refuse) as server, bridge_to(server.url) as lines:
        answer = await lines.call(id="a")
    data = {"type": type_, "code": code, "param": None, "status": status, "retry_after_s": 7}
    assert answer == {"jsonrpc": "2.0", "id": "a", "error": {"code": -32000, "message": "what to do", "data": data}}
    assert server.methods == ["POST"]


@pytest.mark.parametrize("is_worded", [True, False])
async def test_where_a_server_asks_for_a_sign_in_the_person_is_told_to_set_a_key(is_worded: bool) -> None:
    async def refuse(exchange: Exchange) -> None:
        challenge = 'Bearer resource_metadata="http://127.0.0.1/.well-known/oauth-protected-resource/v1/mcp"'
        body = {"error": {"message": "Send a token."}} if is_worded else {}
        await exchange.json(body, 401, www_authenticate=challenge)

    async with fake_server(refuse) as server, bridge_to(server.url) as lines:
        message = (await lines.call())["error"]["message"]
    assert message.startswith("Send a token. The server" if is_worded else "The server answered 401 X. The")
    assert "put an API key into GATEWAY_API_KEY" in message


async def test_a_call_that_was_refused_is_not_kept() -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.json({"error": {"message": "wait"}}, 429)

    async with fake_server(refuse) as server, bridge_to(server.url) as lines:
        known = [id(it) for it in gc.get_objects() if isinstance(it, McpFrame)]
        gc.disable()  # else it might hide a cycle
        try:
            assert "error" in await lines.call()
            await asyncio.sleep(0)  # the call's task ends
            assert not [it for it in gc.get_objects() if isinstance(it, McpFrame) and id(it) not in known]
        finally:
            gc.enable()


async def test_a_json_rpc_error_in_a_refusal_keeps_its_code_and_gets_the_id_of_the_call() -> None:
    error = {"code": -32601, "message": "Method not found", "data": {"a": 1}}

    async def refuse(exchange: Exchange) -> None:
        await exchange.json({"jsonrpc": "2.0", "id": None, "error": error}, 404)

    async with fake_server(refuse) as server, bridge_to(server.url) as lines:
        assert await lines.call(id=7) == {"jsonrpc": "2.0", "id": 7, "error": error}
    assert server.methods == ["POST"]


@each(
    ("status", "headers", "body"),
    [
        (200, {"content_type": "text/html"}, "<html>"),
        (200, {"content_type": "application/json"}, '{"jsonrpc": "2.0", "id": 99, "result": {}}'),
        (202, {}, ""),
        (308, {"location": "https://elsewhere.example/mcp"}, ""),
        (500, {"content_type": "application/json"}, '{"error": "text"}'),
        (502, {"content_type": "text/html"}, "<html>"),
        (404, {}, ""),
    ],
)
async def test_an_answer_that_is_not_mcp_is_an_error_for_that_call(
    status: int, headers: dict[str, str], body: str
) -> None:
    async def odd(exchange: Exchange) -> None:
        await exchange.head(status, **headers)
        await exchange.send(body)

    async with fake_server(odd) as server, bridge_to(server.url) as lines:
        answer = await lines.call()
        assert answer["id"] == 1
        assert answer["error"]["code"] == -32000


@each("how", ["no head", "half a head", "half a body", "an event of another kind", "half an event"])
async def test_a_response_cut_in_the_middle_is_one_clean_error_and_the_call_is_not_sent_again(how: str) -> None:
    async def cut(exchange: Exchange) -> None:
        if how == "half a head":
            await exchange.send("HTTP/1.1 200 OK\r\ncontent-")
        elif how == "half a body":
            await exchange.head(200, content_type="application/json", content_length="99")
            await exchange.send('{"jsonrpc"')
        elif "event" in how:
            await exchange.head(200, content_type=STREAM)
            await exchange.send("event: ping\ndata: 1\n\n" if "kind" in how else "data: {")

    async with fake_server(cut) as server, bridge_to(server.url) as lines:
        answer = await lines.call()
        assert answer["error"]["data"] == LOST
        assert len(server.exchanges) == 1


async def test_a_stream_that_ends_early_is_taken_up_where_it_ended() -> None:
    async def polled(exchange: Exchange) -> None:
        await exchange.head(200, content_type=STREAM)
        if exchange.method == "POST":
            await exchange.send("id: 1\nretry: 1\ndata:\n\n")
        elif exchange.headers["last-event-id"] == "1":
            await exchange.event({"jsonrpc": "2.0", "method": "notifications/progress"}, id="2")
        else:
            await exchange.event({"jsonrpc": "2.0", "id": 1, "result": {"at": exchange.headers["last-event-id"]}})

    async with fake_server(polled) as server, bridge_to(server.url) as lines:
        assert (await lines.call())["method"] == "notifications/progress"
        assert (await lines.read())["result"] == {"at": "2"}
    assert server.methods == ["POST", "GET", "GET"]


async def test_json_over_many_lines_becomes_one_line() -> None:
    async def pretty(exchange: Exchange) -> None:
        await exchange.head(200, content_type=STREAM)
        await exchange.send(
            'data: {"jsonrpc": "2.0",\ndata:  "id": 1,\r\n: ping\r\ndata: "result": {"a": "x y"}}\r\n\r\n'
        )

    async with fake_server(pretty) as server, bridge_to(server.url) as lines:
        assert (await lines.call())["result"] == {"a": "x y"}


LONG = "x" * 1_100_000


@each(
    ("params", "is_shorter"),
    [
        ({"text": "é\u2028\U0001f600" * 200_000}, True),
        ({"text": LONG, "numbers": [1.5, 12345678901234567890123, -0.0, 1e300], "é": None}, True),
        ({"text": LONG + "\\u00e9"}, False),
        ({"text": LONG + "\ud83d"}, False),
        ({"text": LONG, "é": float("inf")}, False),
        ({"text": "é" * 1000}, False),
    ],
)
async def test_characters_of_a_large_frame_are_not_escaped(params: Message, is_shorter: bool) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    frame = McpFrame.parse(line)
    assert json.loads(frame.body) == json.loads(line)
    assert (len(frame.body) < len(line.replace(b", ", b",").replace(b": ", b":"))) == is_shorter


@pytest.mark.parametrize("kind", ["application/json", STREAM])
async def test_a_line_for_the_client_holds_no_line_end_of_unicode(kind: str) -> None:
    text = "one\u2028two\u2029three\u0085é\U0001f600"

    async def raw(exchange: Exchange) -> None:
        body = json.dumps(exchange.result(text=text), ensure_ascii=False)
        await exchange.head(200, content_type=kind)
        await exchange.send(f"data: {body}\n\n" if kind == STREAM else body)

    async with fake_server(raw) as server, bridge_to(server.url) as lines:
        await lines.send("tools/call", id=1)
        line = (await lines.next_line()).decode()
    assert line.splitlines(keepends=True) == [line]
    assert json.loads(line)["result"] == {"text": text}


async def test_a_server_without_a_stream_of_notifications_keeps_its_session() -> None:
    async def no_stream(exchange: Exchange) -> None:
        if not await handshake(exchange):
            await (exchange.head(404) if exchange.method == "GET" else exchange.json(exchange.result()))

    async with fake_server(no_stream) as server, bridge_to(server.url) as lines:
        await lines.open()
        for i in range(3):
            assert "result" in await lines.call(id=i)
    assert sorted(server.methods) == ["DELETE", "GET", *["POST"] * 5]


async def test_a_call_that_comes_while_the_session_is_opened_again_waits_for_it() -> None:
    reopening, may_reopen = asyncio.Event(), asyncio.Event()
    has_restarted = False

    async def restarted(exchange: Exchange) -> None:
        if exchange.rpc_method == "initialize" and has_restarted:
            reopening.set()
            await may_reopen.wait()
        if exchange.method == "GET":
            await exchange.head(405)
        elif has_restarted and not may_reopen.is_set():
            await exchange.head(404)
        elif not await handshake(exchange):
            await exchange.json(exchange.result())

    async with fake_server(restarted) as server, bridge_to(server.url) as lines:
        await lines.open()
        has_restarted = True
        await lines.send("tools/call", id=1)
        await reopening.wait()
        await lines.send("tools/call", id=2)
        await asyncio.sleep(0)  # the second call is on its way
        posts = len(server.exchanges)
        may_reopen.set()
        assert {(await lines.read())["id"] for _ in range(2)} == {1, 2}
        methods = [exchange.rpc_method for exchange in server.exchanges[posts:] if exchange.method == "POST"]
        assert methods == ["notifications/initialized", "tools/call", "tools/call"]


async def test_a_stream_that_pinged_and_fell_silent_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_stdio_bridge, "PINGED_SILENCE_S", 0.02)
    monkeypatch.setattr(mcp_stdio_bridge, "BACKOFF_S", (0.01, 0.01))
    reopened = asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        if not await handshake(exchange) and exchange.method == "GET":
            if server.methods.count("GET") == 2:
                reopened.set()
            await exchange.head(200, content_type=STREAM)
            await exchange.send(": ping\r\n\r\n")
            await asyncio.Event().wait()

    async with fake_server(silent) as server, bridge_to(server.url) as lines:
        await lines.open()
        async with asyncio.timeout(PATIENCE_S):
            await reopened.wait()


async def test_a_server_that_never_ends_the_session_does_not_keep_the_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_stdio_bridge, "CLOSE_TIMEOUT_S", 50)
    is_asked_to_end = asyncio.Event()

    async def stuck(exchange: Exchange) -> None:
        if exchange.method == "DELETE":
            is_asked_to_end.set()
        if not await handshake(exchange):
            await asyncio.Event().wait()

    async with fake_server(stuck) as server, bridge_to(server.url) as lines:
        await lines.open()
        await lines.send("tools/call", id=1)
        closing = asyncio.create_task(lines.bridge.aclose())
        async with asyncio.timeout(PATIENCE_S):
            await is_asked_to_end.wait()
            pass_time(50)
            await closing


async def test_what_is_sent_behind_a_handshake_waits_for_its_session_and_an_answer_does_not() -> None:
    may_open, is_answered = asyncio.Event(), asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        if exchange.rpc_method == "initialize":
            await may_open.wait()
        elif exchange.body and not exchange.rpc_method:
            is_answered.set()
        if not await handshake(exchange):
            is_call = exchange.rpc_method == "tools/call"
            await (exchange.json(exchange.result()) if is_call else exchange.head(405))

    async with fake_server(slow) as server, bridge_to(server.url) as lines, asyncio.timeout(PATIENCE_S):
        await lines.send("initialize", INITIALIZE_PARAMS, id="init")
        await lines.send("tools/call", id=1)
        await lines.bridge.take(b'{"jsonrpc":"2.0","id":"ping","result":{}}')
        await is_answered.wait()
        assert "tools/call" not in [exchange.rpc_method for exchange in server.exchanges]
        may_open.set()
        assert [(await lines.read())["id"] for _ in range(2)] == ["init", 1]
        assert server.exchanges[-1].headers["mcp-session-id"] == "s1"


class Leaving:
    """A client whose output ends while a call is under way at a server that answers when it may."""

    def __init__(self) -> None:
        self.is_asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.has_ended, self.is_unread = asyncio.Event(), asyncio.Event()

    async def serve(self, exchange: Exchange) -> None:
        if not await handshake(exchange) and exchange.rpc_method == "tools/call":
            self.is_asked.set()
            await self.may_answer.wait()
            await exchange.json(exchange.result())
        else:
            await exchange.head(405 if exchange.method == "GET" else 200, content_length="0")

    def converse(self, bridge: Bridge) -> asyncio.Task[int]:
        self.lines.put_nowait(b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}')
        self.lines.put_nowait(None)
        work = mcp_stdio_bridge.converse(bridge, self.lines, self.has_ended, self.is_unread)
        return asyncio.create_task(work)


async def test_a_client_in_conversation_that_leaves_has_a_moment_for_its_last_answer() -> None:
    client = Leaving()
    async with fake_server(client.serve) as server, bridge_to(server.url) as lines:
        await lines.open()
        conversing = client.converse(lines.bridge)
        async with asyncio.timeout(PATIENCE_S):
            await client.is_asked.wait()
            client.has_ended.set()
            client.may_answer.set()
            assert (await lines.read())["result"] == {}
            assert await conversing == 0
    assert server.methods.count("DELETE") == 1


async def test_after_that_moment_its_calls_are_cancelled_and_its_session_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = Leaving()
    async with fake_server(client.serve) as server, bridge_to(server.url) as lines:
        await lines.open()
        conversing = client.converse(lines.bridge)
        async with asyncio.timeout(PATIENCE_S):
            await client.is_asked.wait()
            client.has_ended.set()
            await asyncio.sleep(0)  # the wait has begun
            await asyncio.sleep(0)
            pass_time(mcp_stdio_bridge.LEAVING_TIMEOUT_S)
            assert await conversing == 0
    assert server.methods.count("DELETE") == 1
    assert capsys.readouterr().err.endswith("or the bridge was told to end: 1\n")


@pytest.mark.parametrize(
    ("ends_by", "is_answered"), [("an answer", True), ("nobody who reads", False), ("its patience", False)]
)
async def test_a_script_that_has_asked_and_ended_its_output_is_answered_while_it_reads(
    ends_by: str, is_answered: bool
) -> None:
    client = Leaving()
    async with fake_server(client.serve) as server, bridge_to(server.url) as lines:
        conversing = client.converse(lines.bridge)
        client.has_ended.set()
        async with asyncio.timeout(PATIENCE_S):
            await client.is_asked.wait()
            pass_time(mcp_stdio_bridge.SCRIPT_TIMEOUT_S / (1 if ends_by == "its patience" else 2))
            if ends_by != "its patience":
                (client.may_answer if is_answered else client.is_unread).set()
            assert await conversing == 0
        assert lines.is_empty is not is_answered


async def test_an_endpoint_on_another_host_is_not_followed() -> None:
    async def lure(exchange: Exchange) -> None:
        await exchange.head(200, content_type=STREAM)
        await exchange.send("event: endpoint\ndata: http://elsewhere.example/messages\n\n")
        await asyncio.Event().wait()

    async with fake_server(lure) as server, bridge_to(server.url, "sse") as lines:
        assert "another host" in (await lines.call())["error"]["message"]


@each("spelling", ["http://LocalHost:{port}/m", "http://localhost.:{port}/m", "  /m\t", "m", "//localhost:{port}/m"])
async def test_an_endpoint_of_the_same_origin_is_followed_however_it_is_spelt(spelling: str) -> None:
    posted: asyncio.Queue[Exchange] = asyncio.Queue()

    async def one_answer(exchange: Exchange) -> None:
        if exchange.method == "POST":
            await exchange.head(202, content_length="0")
            await posted.put(exchange)
        else:
            port = exchange.headers["host"].rpartition(":")[2]
            await exchange.head(200, content_type="Text/Event-Stream; charset=UTF-8")
            await exchange.send(f"event: endpoint\ndata: {spelling.format(port=port)}\n\n")
            await exchange.event((await posted.get()).result())
            await asyncio.Event().wait()

    async with fake_server(one_answer) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        async with bridge_to(url, "sse") as lines:
            assert (await lines.call())["result"] == {}


async def test_a_relative_endpoint_is_one_of_the_address_that_the_stream_was_redirected_to() -> None:
    posted: asyncio.Queue[Exchange] = asyncio.Queue()

    async def one_answer(exchange: Exchange) -> None:
        if exchange.method == "POST":
            await exchange.head(202, content_length="0")
            await posted.put(exchange)
        elif not exchange.path.endswith("/"):
            await exchange.head(307, location=f"{exchange.path}/", content_length="0")
        else:
            await exchange.head(200, content_type=STREAM)
            await exchange.send("event: endpoint\ndata: messages\n\n")
            await exchange.event((await posted.get()).result())
            await asyncio.Event().wait()

    async with fake_server(one_answer) as server, bridge_to(server.url, "sse") as lines:
        assert (await lines.call())["result"] == {}
        assert server.exchanges[-1].path == "/v1/mcp/messages"


@each(
    "endpoint",
    [
        "https://localhost/m", "http://localhost:1/m", "http://u:p@localhost:{port}/m", "http://localhost.evil.example/m",
        "http://[/m", "http://localhost:x/m", "ftp://localhost:{port}/m", "//evil.example/m",
    ],
)  # fmt: skip
async def test_an_endpoint_of_another_origin_is_not_followed(endpoint: str) -> None:
    async def lure(exchange: Exchange) -> None:
        port = exchange.headers["host"].rpartition(":")[2]
        await exchange.head(200, content_type=STREAM)
        await exchange.send(f"event: endpoint\ndata: {endpoint.format(port=port)}\n\n")
        await asyncio.Event().wait()

    async with fake_server(lure) as server:
        async with bridge_to(server.url.replace("127.0.0.1", "localhost"), "sse") as lines:
            assert "another host" in (await lines.call())["error"]["message"]
        assert server.methods == ["GET"]


@each(
    ("one", "other"),
    [
        ("http://a", "HTTP://A:80/x"), ("https://a.example", "https://A.Example.:443"), ("http://[::1]:8", "http://[0:0::1]:8"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example/"),
    ],
)  # fmt: skip
def test_an_origin_is_the_same_however_it_is_spelt(one: str, other: str) -> None:
    assert origin_of(one) == origin_of(other) is not None


@each("status", [307, 308])
@each("location", ["/v1/other", "other", "HTTP://LOCALHOST:{port}/v1/other"])
async def test_a_redirect_within_the_origin_is_followed(status: int, location: str) -> None:
    async def moved(exchange: Exchange) -> None:
        port = exchange.headers["host"].rpartition(":")[2]
        if exchange.path == "/v1/mcp":
            await exchange.head(status, location=location.format(port=port), content_length="0")
        else:
            await exchange.json(exchange.result(body=exchange.body.decode()))

    async with fake_server(moved) as server, bridge_to(server.url.replace("127.0.0.1", "localhost")) as lines:
        for number in (1, 2):
            assert json.loads((await lines.call(id=number))["result"]["body"])["method"] == "tools/call"
        paths = [exchange.path for exchange in server.exchanges]
    again = ["/v1/mcp", "/v1/other"] if status == 307 else ["/v1/other"]  # a permanent one is remembered
    assert paths == ["/v1/mcp", "/v1/other", *again]


@each(
    ("status", "location"),
    [
        (307, "https://127.0.0.1/mcp"), (308, "http://evil.example/mcp"), (307, "//evil.example/"), (302, "/v1/other"),
        (307, "http://["), (307, ""), (303, "/v1/other"),
    ],
)  # fmt: skip
async def test_a_redirect_elsewhere_or_to_another_method_is_told_and_not_followed(status: int, location: str) -> None:
    async def moved(exchange: Exchange) -> None:
        await exchange.head(status, location=location, content_length="0")

    async with fake_server(moved) as server, bridge_to(server.url) as lines:
        assert str(status) in (await lines.call())["error"]["message"]
    assert server.methods == ["POST"]


async def test_redirects_in_a_circle_come_to_an_end() -> None:
    async def around(exchange: Exchange) -> None:
        await exchange.head(307, location=exchange.path, content_length="0")

    async with fake_server(around) as server, bridge_to(server.url) as lines:
        assert "redirects" in (await lines.call())["error"]["message"]
    assert len(server.exchanges) == mcp_stdio_bridge.MAX_REDIRECTS


@pytest.mark.parametrize("status", [404, 405, 200])
async def test_an_address_without_an_event_stream_is_told_which_one_is_meant(status: int) -> None:
    async def none(exchange: Exchange) -> None:
        await exchange.json({"error": {"message": "Not this.", "type": "t"}}, status)

    async with fake_server(none) as server, bridge_to(server.url, "sse") as lines:
        assert "/v1/mcp/sse" in (await lines.call())["error"]["message"]


async def test_an_event_stream_that_never_opens_is_an_error_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_stdio_bridge, "OPEN_TIMEOUT_S", 0.05)

    async def mute(exchange: Exchange) -> None:
        if exchange.method == "POST":
            await exchange.head(405)
        else:
            await exchange.head(200, content_type=STREAM)
            await asyncio.Event().wait()

    async with fake_server(mute) as server, bridge_to(server.url, "sse") as lines:
        assert (await lines.call())["error"]["data"]["type"] == "server_unreachable"
    async with fake_server(mute) as server, bridge_to(server.url, "auto") as lines:
        assert (await lines.call())["error"]["data"] == {"type": "http_error", "status": 405}


async def test_a_call_learns_that_its_event_stream_ended_and_the_next_one_finds_the_session_open_again() -> None:
    received: asyncio.Queue[Exchange] = asyncio.Queue()

    async def two_frames_and_a_cut(exchange: Exchange) -> None:
        if exchange.method == "POST":
            await exchange.head(202, content_length="0")
            await received.put(exchange)
        else:
            await exchange.head(200, content_type=STREAM)
            await exchange.send("event: endpoint\ndata: /messages?session=1\n\n")
            await exchange.event((await received.get()).result(protocolVersion="2024-11-05"))
            assert (await received.get()).rpc_method == "notifications/initialized"
            await received.get()

    async with fake_server(two_frames_and_a_cut) as server, bridge_to(server.url, "sse") as lines:
        await lines.open()
        assert (await lines.call(id=5))["error"]["data"] == LOST
        assert (await lines.call(id=6))["error"]["data"] == LOST
        posted = [exchange.rpc_method for exchange in server.exchanges if exchange.body]
        assert posted[:6] == ["initialize", "notifications/initialized", "tools/call"] * 2


async def test_the_answer_of_the_client_to_a_question_of_the_server_is_posted() -> None:
    answered: asyncio.Queue[bytes] = asyncio.Queue()

    async def asking(exchange: Exchange) -> None:
        if exchange.rpc_method:
            await exchange.head(200, content_type=STREAM)
            await exchange.event({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}})
            await exchange.event(exchange.result(told=json.loads(await answered.get())["result"]))
        else:
            await exchange.head(202, content_length="0")
            await answered.put(exchange.body)

    async with fake_server(asking) as server, bridge_to(server.url) as lines:
        assert (await lines.call())["id"] == "q"
        await lines.bridge.take(b'{"jsonrpc":"2.0","id":"q","result":{"action":"accept"}}')
        assert (await lines.read())["result"] == {"told": {"action": "accept"}}


@each(
    ("line", "code"),
    [
        (b"hello", -32700),
        (b"\xff\xfe", -32700),
        (b'{"a": ' * 100_000, -32700),
        (b"[]", -32600),
        (b"1", -32600),
        (b'{"method": 1, "id": 1}', -32600),
        (b'{"method": "a", "id": null}', -32600),
        (b'{"method": "a", "id": [1]}', -32600),
    ],
)
def test_a_line_that_is_no_message_is_refused_with_the_code_of_json_rpc(line: bytes, code: int) -> None:
    with pytest.raises(Problem) as raised:
        McpFrame.parse(line)
    assert raised.value.error["code"] == code


@each(
    ("value", "encoded"),
    [
        ("echo", "echo"),
        ("a b", "a b"),
        (" a", "=?base64?IGE=?="),
        ("ä", "=?base64?w6Q=?="),
        ("", "=?base64??="),
        ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
    ],
)
def test_a_name_that_http_cannot_carry_is_wrapped_in_base64(value: str, encoded: str) -> None:
    assert encode_header(value) == encoded


@each("mark", [b"", b"\xef\xbb\xbf"])
@each("end", [b"\n", b"\r\n", b"\r", None])
@each("size", [1, 2, 3, 7, 1000])
async def test_events_are_read_whole_however_the_bytes_arrive_and_lines_end(
    size: int, end: bytes | None, mark: bytes
) -> None:
    stream = b': hi\r\n\r\nevent: endpoint\ndata: /m\n\nid: 4\r\nretry: 20\rdata:{"a":\r\ndata: 1}\r\r\ndata: cut'
    if end is not None:
        stream = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", end)
    stream = mark + stream

    async def pieces() -> AsyncIterator[bytes]:
        for i in range(0, len(stream), size):
            yield stream[i : i + size]

    events = [event async for event in read_events(httpx2.Response(200, content=pieces()))]
    assert [(event.kind, event.data, event.id, event.retry_s) for event in events] == [
        ("endpoint", b"/m", "", None),
        ("message", b'{"a": 1}', "4", 0.02),
    ]


async def test_waits_between_attempts_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(wait_s: float) -> None:
        waits.append(wait_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    turns: Any = backoff()
    for _ in range(9):
        await anext(turns)
    await turns.aclose()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"error": {"code": -32602, "message": "`reason`: MARK is no text"}}, "refused with -32602"),
        ({"error": {"message": "MARK", "type": "rate_limited", "code": "x", "param": None}}, "HttpRefusal"),
        (None, "Lost"),
    ],
)
async def test_a_notification_that_is_refused_is_told_with_its_code_and_none_of_its_words(
    answer: Message | None, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(exchange: Exchange) -> None:
        if not await handshake(exchange) and answer is not None:
            await exchange.json({"jsonrpc": "2.0", "id": None, **answer}, 400)

    async with fake_server(refuse) as server, bridge_to(server.url) as lines:
        await lines.open()
        await lines.send("notifications/roots/list_changed", {"reason": "MARK"})
        await eventually(lambda: server.methods.count("POST") == 3)
    told = capsys.readouterr().err
    assert f"notifications/roots/list_changed was not delivered ({why})" in told
    assert "MARK" not in told


@pytest.mark.parametrize("mark", ["\x1b[2J", "\n", "\x07", "\x7f", "\x9b", "\u202e", "\u2028"])
async def test_what_a_server_says_does_not_move_a_terminal_s_cursor(
    mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.rpc_method == "initialize":
            server = {"name": f"a{mark}", "version": "1"}
            await exchange.json(exchange.result(protocolVersion="2025-11-25", capabilities={}, serverInfo=server))
        elif exchange.rpc_method == "tools/list":
            await exchange.json(exchange.result(tools=[{"name": f"b{mark}c"}]))
        else:
            await exchange.head(202, content_length="0")

    escaped = mark.encode("unicode_escape").decode()
    async with fake_server(answer) as server, httpx2.AsyncClient(verify=NO_TLS, timeout=PATIENCE_S) as client:
        remote = Remote(client, server.url, Log(is_verbose=False))
        assert await mcp_stdio_bridge.check(remote, "http", has_key=False) == 0
    told = capsys.readouterr().out
    assert f"a{escaped} 1" in told
    assert f"Tools  1: b{escaped}c\n" in told
    Log(is_verbose=False)(f"x{mark}y")
    assert capsys.readouterr().err == f"mcp bridge: x{escaped}y\n"
