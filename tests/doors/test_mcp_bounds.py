"""What a caller can make the MCP door keep, and how often it may make it work."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import orjson
import pytest
from mcp import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp.types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, INVALID_REQUEST, PROTOCOL_VERSION_META_KEY

from mcp_gateway.core.bytes_in_flight import BytesInFlight, Share
from mcp_gateway.core.caller import Allowance, Caller
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.observe.history import RequestFilter
from mcp_gateway.mcp_door import places
from mcp_gateway.mcp_door.jsonrpc import Message
from mcp_gateway.mcp_door.questions import Questions
from mcp_gateway.mcp_door.sessions import Session
from mcp_gateway.mcp_door.shares import Tally
from tests.doors.mcp_host import JSON, Host, call, chat, gated, http_client, initialize, open_host
from tests.doors.test_mcp_catalog import CATALOG, PRICED, request
from tests.doors.test_mcp_endurance import unread
from tests.doors.test_mcp_lifetimes import PACED, next_message, sse_session
from tests.doors.test_mcp_odd_messages import session_of
from tests.doors.test_mcp_transports import INITIALIZED, MODERN, PING, error_of, modern
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.gateways
MARK = "xyzzy-kept"
BULK: dict[str, Any] = {MARK: {str(number): {} for number in range(400)}}
BULKY = {
    "elicitation": {"form": BULK, "url": {}, **BULK},
    "sampling": {"tools": {}, **BULK},
    "roots": {"listChanged": True},
    "experimental": BULK,
    "extensions": BULK,
    **BULK,
}
INFO = {"name": "n" * 10_000, "version": "1" * 1000, "icons": [], "title": "t" * 10_000, **BULK}
LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with open_host(tmp_path, send_buffer_bytes=8192) as host:
        yield host


def in_flight(most: int | None) -> Allowance:
    return Allowance(None, None, None, most)


# What an introduction leaves


def introduction() -> bytes:
    message = initialize("2025-11-25")
    message["params"] |= {"capabilities": BULKY, "clientInfo": INFO, "_meta": BULK, **BULK}
    return orjson.dumps(message)


def wish() -> tuple[bytes, dict[str, str]]:
    """A request to listen that says of itself all that it can."""
    meta = {CLIENT_CAPABILITIES_META_KEY: BULKY, CLIENT_INFO_META_KEY: INFO, **BULK}
    wanted = {"resourcesListChanged": True, "resourceSubscriptions": [CATALOG], **BULK}
    message, headers = modern(request("subscriptions/listen", 1, _meta=meta, notifications=wanted, **BULK))
    return orjson.dumps(message), headers


def is_kept() -> bool:
    gc.collect()
    return any(isinstance(it, dict) and MARK in it and it[MARK] is not BULK[MARK] for it in gc.get_objects())


def size_bytes(it: Any) -> int:
    """All that something refers to, less code, classes and what sessions share."""
    seen: dict[int, Any] = {}
    waiting = [it]
    while waiting:
        one = waiting.pop()
        shared = type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, Tally, BytesInFlight, Share
        if id(one) not in seen and not isinstance(one, shared):
            seen[id(one)] = one
            waiting += gc.get_referents(one)
    return sum(map(object.__sizeof__, seen.values()))


async def opened(host: Host, transport: str, message: Any) -> Session:
    """The session that an introduction has left, whose client is gone where it may."""
    if transport == "http":
        assert (await host.post(message)).status_code == 200
        return host.door.sessions.all()[-1]
    async with sse_session(host) as (lines, url):
        assert (await host.post(message, url=url)).status_code == 202
        assert "result" in await next_message(lines)
        [session] = host.door.event_sessions.all()
        session.stream = None
        return session


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_session_keeps_little_of_what_its_client_says_of_itself(host: Host, transport: str) -> None:
    small = size_bytes(await opened(host, transport, initialize()))
    session = await opened(host, transport, introduction())
    assert not is_kept()
    assert size_bytes(session) < small + 4096
    assert small < 16_384
    kept = session.connection.client_params
    assert kept is not None
    assert (kept.client_info.name, kept.client_info.version) == ("n" * 64, "1" * 64)
    assert kept.capabilities.model_dump(exclude_none=True) == {
        "elicitation": {"form": {}, "url": {}},
        "sampling": {"tools": {}},
        "roots": {"list_changed": True},
    }


async def test_a_stream_that_listens_keeps_little_of_what_its_client_says_of_itself(host: Host) -> None:
    body, headers = wish()
    padding = {f"X-Padding-{number}": "p" * 4000 for number in range(12)}
    async with http_client() as http, http.stream(
        "POST", host.url, content=body, headers=JSON | headers | padding
    ) as stream:  # fmt: skip
        acknowledged = await next_message(stream.aiter_lines())
        assert acknowledged["params"]["notifications"]["resourceSubscriptions"] == [CATALOG]
        assert not is_kept()
        line = (b"x-padding-1", b"p" * 4000)
        assert not [it for it in gc.get_objects() if isinstance(it, list) and line in it]
    await eventually(lambda: not len(host.door.subscriptions))


async def test_a_call_that_listens_over_sse_keeps_little_too(host: Host) -> None:
    async with sse_session(host) as (lines, url):
        assert (await host.post(wish()[0], url=url)).status_code == 202
        assert (await next_message(lines))["method"] == "notifications/subscriptions/acknowledged"
        assert not is_kept()


@pytest.mark.parametrize(
    "said",
    [
        {"_meta": {PROTOCOL_VERSION_META_KEY: BULK}},
        {"_meta": {PROTOCOL_VERSION_META_KEY: MODERN, CLIENT_INFO_META_KEY: [BULK]}},
        {"_meta": [BULK]},
        {"protocolVersion": BULK},
        {"capabilities": {"roots": {"listChanged": BULK}}},
        {"capabilities": {"sampling": [BULK]}},
        {"clientInfo": {"name": [BULK], "version": "1"}},
    ],
)
async def test_what_is_of_the_wrong_type_is_not_kept_either(host: Host, said: dict[str, Any]) -> None:
    message = initialize("2025-11-25")
    message["params"] |= said
    body = orjson.dumps(message)
    async with sse_session(host) as (lines, url):
        await host.post(body, url=url)
        await next_message(lines)
        await host.post(body)
        assert not is_kept()


@pytest.mark.parametrize("params", [{"capabilities": 5}, {"clientInfo": []}, {"capabilities": {"elicitation": "x"}}])
async def test_an_introduction_of_the_wrong_types_is_refused_as_before(host: Host, params: dict[str, Any]) -> None:
    message = initialize()
    message["params"] |= params
    assert (await host.post(message)).status_code == 400
    assert not len(host.door.sessions)


@pytest.mark.parametrize("odd", [{"id": "x" * 257}, {"params": {"_meta": {"progressToken": "x" * 257}}}])
async def test_ids_that_would_be_kept_and_repeated_are_short(host: Host, odd: dict[str, Any]) -> None:
    for message in (LIST_TOOLS | odd, call("get_balance", {}) | odd):
        answer = await host.post(message)
        assert (answer.status_code, error_of(answer)["code"], answer.json()["id"]) == (400, INVALID_REQUEST, None)
    assert (await host.post(LIST_TOOLS | {"id": "x" * 256})).status_code == 200


# What a refusal leaves


@pytest.mark.parametrize("way", ["alone", "in a batch", "over SSE", "over SSE, as a notification"])
async def test_a_message_that_was_refused_is_not_kept(host: Host, way: str) -> None:
    refused = LIST_TOOLS | {"params": {"_meta": {"progressToken": "x" * 257}}}
    if "notification" in way:
        del refused["id"]
    sent = [refused, PING] if "batch" in way else refused
    async with sse_session(host) as (_, url):
        assert (await host.post(initialize(), url=url)).status_code == 202
        session = await session_of(host, "2025-03-26")
        known = [id(it) for it in gc.get_objects() if isinstance(it, Message)]
        gc.disable()  # else it might hide a cycle
        try:
            await (host.post(sent, url=url) if "SSE" in way else host.post(sent, session))
            await eventually(
                lambda: not [it for it in gc.get_objects() if isinstance(it, Message) and id(it) not in known]
            )
        finally:
            gc.enable()


# Unfinished calls


async def test_a_session_has_as_many_unfinished_calls_as_its_key_may_have_in_flight(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PATIENCE_S", 0.01)
    gate, alice = gated(host), host.key("alice", in_flight(2))
    session = await host.open_session(alice)
    running = [asyncio.create_task(host.post(chat(model=PACED, request_id=1), session)) for _ in range(2)]
    await eventually(lambda: host.gateway.limiter.in_flight == 2)
    refused = await host.post(LIST_TOOLS | {"id": "mine"}, session)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["id"] == "mine"
    assert error_of(refused)["data"] == {"code": "in_flight", "retry_after_s": 1}
    assert (await host.post(PING, session)).status_code == 200
    assert (await host.post(LIST_TOOLS, alice)).status_code == 200
    assert (await host.post(LIST_TOOLS, await host.open_session(alice))).status_code == 200
    for _ in range(2):
        assert (await host.post(chat(model=PACED, request_id=7), session)).status_code == 429
    assert (await host.post(call("get_balance", {}), session)).status_code == 429
    gate.is_open.set()
    assert [answer.status_code for answer in await asyncio.gather(*running)] == [200, 200]
    host.gateway.inference.refused.write()
    await host.gateway.ledger._store.flushed()
    records = await host.gateway.history.page("acc_test", RequestFilter(http_status=429), before_id=None, limit=9)
    assert [(one.error_code, one.door, one.surface) for one in records] == [("in_flight", "mcp", "chat")]
    assert await host.gateway.history.further_refusals("acc_test", records) == {records[0].id: 1}
    assert (await host.post(LIST_TOOLS, session)).status_code == 200
    assert host.door.calls.total == 0


async def test_a_call_waits_a_while_for_another_to_end(host: Host) -> None:
    gate, session = gated(host), await host.open_session(host.key("alice", in_flight(1)))
    running = asyncio.create_task(host.post(chat(model=PACED), session))
    await gate.is_reached.wait()
    [waiting] = [asyncio.create_task(host.post(LIST_TOOLS, session))]
    [found] = host.door.sessions.all()
    await eventually(lambda: found.places._freed is not None)
    gate.is_open.set()
    assert [(await it).status_code for it in (running, waiting)] == [200, 200]


async def test_a_session_that_ends_also_ends_the_call_that_waits_for_a_place_and_those_that_share_an_id(
    host: Host,
) -> None:
    gated(host)
    session = await host.open_session(host.key("alice", in_flight(2)))
    calls = [asyncio.create_task(host.post(chat(model=PACED, request_id=1), session)) for _ in range(3)]
    [found] = host.door.sessions.all()
    await eventually(lambda: host.gateway.limiter.in_flight == 2 and found.places._freed is not None)
    async with http_client() as http, asyncio.timeout(PATIENCE_S):
        await http.delete(host.url, headers=session)
        assert [(await it).content for it in calls] == [b""] * 3
    assert not found.is_busy


async def test_a_caller_has_so_many_unfinished_calls_over_all_sessions_and_without(tmp_path: Path) -> None:
    async with open_host(tmp_path, mcp={"max_sessions_per_guest_address": 2}) as host:
        gate = gated(host)
        message, headers = modern(chat(model=PACED))
        running = [
            asyncio.create_task(host.post(message, headers)),
            asyncio.create_task(host.post(chat(model=PACED), await host.open_session())),
        ]
        await eventually(lambda: host.gateway.limiter.in_flight == 2)
        for refused in (await host.post(LIST_TOOLS), await host.post(LIST_TOOLS, await host.open_session())):
            assert (refused.status_code, error_of(refused)["data"]["code"]) == (429, "guest")
        assert (await host.post(LIST_TOOLS, {"X-Test-Address": "192.0.2.9"})).status_code == 200
        gate.is_open.set()
        await asyncio.gather(*running)
        assert (await host.post(LIST_TOOLS)).status_code == 200


async def test_over_sse_a_call_too_many_is_refused_on_the_stream_and_not_by_its_post(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PATIENCE_S", 0.01)
    gate, alice = gated(host), host.key("alice", in_flight(1))
    async with sse_session(host, alice) as (lines, url):
        assert (await host.post(chat(model=PACED), alice, url)).status_code == 202
        await gate.is_reached.wait()
        assert (await host.post(LIST_TOOLS | {"id": 2}, alice, url)).status_code == 202
        refused = await next_message(lines)
        assert (refused["id"], refused["error"]["data"]["code"]) == (2, "in_flight")
        assert (await host.post(PING, alice, url)).status_code == 202
        assert (await next_message(lines))["id"] == PING["id"]
        gate.is_open.set()
        assert (await next_message(lines))["id"] == 1
    await eventually(lambda: not host.door.calls.total)


async def test_a_session_that_ends_gives_back_the_places_of_its_calls(host: Host) -> None:
    gated(host)
    async with sse_session(host) as (_, url):
        for number in range(3):
            await host.post(chat(model=PACED, request_id=number), url=url)
        await eventually(lambda: host.door.calls.total == 3)
    await eventually(lambda: not host.door.calls.total)


async def test_a_client_is_asked_only_so_many_questions_at_once() -> None:
    questions = Questions()

    async def tell(_: bytes) -> None: ...

    asking = [asyncio.create_task(questions.ask(tell, "a", None, None)) for _ in range(16)]
    await asyncio.sleep(0)
    with pytest.raises(MCPError, match="Too many"):
        await questions.ask(tell, "a", None, None)
    assert len(questions) == 16
    questions.close()
    await asyncio.gather(*asking, return_exceptions=True)
    assert not len(questions)


# What a client does not read


class Unread:
    """An HTTP+SSE client that reads nothing until it is told to."""

    def __init__(self, host: Host, session: Session, connection: Any) -> None:
        self.host = host
        self.session = session
        self.url = f"{host.url}/messages/?session_id={session.id}"
        self.read = bytearray()
        self._connection = connection

    async def read_until(self, ending: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while ending not in self.read:
                self.read += await asyncio.get_running_loop().sock_recv(self._connection, 65536)

    def told(self, word: bytes) -> int:
        return self.read.count(word)


@asynccontextmanager
async def unread_session(host: Host, headers: dict[str, str], others: int = 0) -> AsyncIterator[Unread]:
    """The newest session, beside so many others."""
    with await unread(host, "/v1/mcp/sse", headers) as connection:
        await eventually(lambda: len(host.door.event_sessions) == others + 1)
        session = host.door.event_sessions.all()[-1]
        await eventually(lambda: session.stream is not None and session.stream.is_open)
        yield Unread(host, session, connection)
    await eventually(lambda: len(host.door.event_sessions) == others)


async def fill(client: Unread, headers: dict[str, str]) -> int:
    """Ask until answers wait to be read; how often it took."""
    asked = 0
    while not client.session.is_unread:
        assert (await client.host.post(LIST_TOOLS, headers, client.url)).status_code == 202
        asked += 1
    return asked


async def test_where_a_session_has_unread_answers_its_further_calls_are_not_begun(host: Host) -> None:
    alice = host.key("alice")
    async with unread_session(host, alice) as client:
        asked = await fill(client, alice)
        for number in range(40):
            assert (await host.post(LIST_TOOLS | {"id": number + 1000}, alice, client.url)).status_code == 202
        assert client.session._unread == 16
        assert client.session.places.taken == 41
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1039}}
        assert (await host.post(cancelled, alice, client.url)).status_code == 202
        await eventually(lambda: client.session.places.taken == 40)
        pinging = asyncio.create_task(host.post(PING, alice, client.url))
        await client.read_until(b'"id":7,"result":{}')
        assert (await pinging).status_code == 202
        assert client.told(b'"tools":[') == asked + 39
        assert (client.session._unread, client.session.places.taken, host.door.calls.total) == (0, 0, 0)


async def test_a_call_too_many_for_a_client_that_does_not_read_is_refused_by_its_post(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PATIENCE_S", 0.01)
    alice = host.key("alice", in_flight(4))
    async with unread_session(host, alice) as client:
        await fill(client, alice)
        for _ in range(3):
            assert (await host.post(LIST_TOOLS, alice, client.url)).status_code == 202
        for _ in range(3):
            refused = await host.post(LIST_TOOLS, alice, client.url)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert len(client.session._tasks) == 4


@pytest.mark.parametrize("padding", [0, 20_000])
async def test_a_session_whose_unread_answers_and_waiting_calls_outgrow_its_callers_room_ends(
    tmp_path: Path, padding: int
) -> None:
    room: dict[str, Any] = {"max_in_flight_bytes": 640_000, "max_body_bytes": 80_000}
    async with open_host(tmp_path, send_buffer_bytes=8192, upstream={"max_response_bytes": 100_000}, **room) as host:
        alice, bob = host.key("alice"), host.key("bob")
        async with sse_session(host, bob) as (lines, url), unread_session(host, alice, others=1) as client:
            await fill(client, alice)
            message = request("tools/list", _meta={"padding": "x" * padding})
            while not client.session.is_ended:
                answer = await host.post(message, alice, client.url)
                assert answer.status_code in (202, 404)
                assert host.gateway.bytes_in_flight.used_bytes < 200_000
            await eventually(lambda: not host.gateway.bytes_in_flight.used_bytes and not client.session._tasks)
            await host.post(PING, bob, url)
            assert (await next_message(lines))["id"] == PING["id"]


async def test_a_call_keeps_its_room_until_it_is_answered_though_its_post_is_over(host: Host) -> None:
    gate, room = gated(host), host.gateway.bytes_in_flight
    async with sse_session(host) as (lines, url):
        assert (await host.post(chat("x" * 10_000, model=PACED), url=url)).status_code == 202
        await gate.is_reached.wait()
        await eventually(lambda: 10_000 < room.large.used_bytes < 12_000)
        assert room.small.used_bytes == 0
        gate.is_open.set()
        assert "result" in await next_message(lines)
        await eventually(lambda: not room.used_bytes)


async def test_what_listens_is_not_begun_for_a_client_that_does_not_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PATIENCE_S", 0.01)
    alice = host.key("alice")
    async with unread_session(host, alice) as client:
        await fill(client, alice)
        before = len(client.session._tasks)
        for _ in range(3):
            assert (await host.post(wish()[0], alice, client.url)).status_code == 429
        assert (len(client.session._tasks), len(host.door.subscriptions)) == (before, 0)
        monkeypatch.setattr(places, "PATIENCE_S", 60)
        listening = asyncio.create_task(host.post(wish()[0], alice, client.url))
        await client.read_until(b"notifications/subscriptions/acknowledged")
        assert (await listening).status_code == 202


async def test_changes_that_a_client_does_not_read_are_told_once_each(host: Host) -> None:
    alice = host.key("alice")
    async with unread_session(host, alice) as client:
        await host.post(initialize(), alice, client.url)
        await host.post(request("resources/subscribe", uri=CATALOG), alice, client.url)
        await fill(client, alice)
        before = len(asyncio.all_tasks())
        for number in range(500):
            host.door.publish(ResourcesListChanged(), ResourceUpdated(CATALOG), ResourceUpdated(f"models://{number}"))
        assert len(asyncio.all_tasks()) <= before + 1
        await client.read_until(b"notifications/resources/updated")
        told = client.told(b"list_changed"), client.told(b"resources/updated")
        assert told == (1, 1)


async def test_progress_and_a_log_that_a_client_does_not_read_are_dropped(host: Host) -> None:
    alice, gate = host.key("alice"), gated(host)
    async with unread_session(host, alice) as client:
        await host.post(initialize(), alice, client.url)
        await host.post(request("logging/setLevel", level="debug"), alice, client.url)
        await fill(client, alice)
        message = call("chat_completion", chat(model=PACED)["params"]["arguments"], 1000, progressToken=1)
        assert (await host.post(message, alice, client.url)).status_code == 202
        await gate.is_reached.wait()
        gate.is_open.set()
        await client.read_until(b'"id":1000')
        assert client.told(b"notifications/progress") == client.told(b"notifications/message") == 0


# What counts


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Caller]:
    """The callers whose listings were counted, one by one."""
    callers: list[Caller] = []
    count = Limiter.count_listing

    def noted(limiter: Limiter, caller: Caller) -> None:
        count(limiter, caller)
        callers.append(caller)

    monkeypatch.setattr(Limiter, "count_listing", noted)
    return callers


CANCEL = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
ONCE: dict[str, Any] = {
    "initialize": initialize(),
    "initialize, malformed": request("initialize"),
    "tools/list": LIST_TOOLS,
    "tools/list, malformed": request("tools/list", cursor=5),
    "resources/list": request("resources/list"),
    "resources/templates/list": request("resources/templates/list"),
    "resources/read": request("resources/read", uri=CATALOG),
    "resources/read, missing": request("resources/read", uri="models://nope"),
    "resources/subscribe": request("resources/subscribe", uri=CATALOG),
    "resources/unsubscribe": request("resources/unsubscribe", uri=CATALOG),
    "prompts/list": request("prompts/list"),
    "prompts/get": request("prompts/get", name="estimate_cost", arguments={"model": "demo/echo"}),
    "prompts/get, missing": request("prompts/get", name="nope"),
    "completion/complete": request(
        "completion/complete",
        ref={"type": "ref/prompt", "name": "estimate_cost"},
        argument={"name": "model", "value": "d"},
    ),
    "logging/setLevel": request("logging/setLevel", level="error"),
    "unknown": request("no/such"),
    "list_models": call("list_models", {}),
    "list_models, malformed": call("list_models", {"nope": 1}),
    "get_balance": call("get_balance", {}),
    "get_balance, malformed": call("get_balance", {"nope": 1}),
    "an unknown tool": call("nope", {}),
    "a call of nothing": request("tools/call"),
    "a call with arguments of no kind": request("tools/call", name="chat_completion", arguments=5),
    "a call that is a notification": {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "list_models"}},
    "a ping that is a notification": {"jsonrpc": "2.0", "method": "ping"},
    "a cancellation that is a request": request("notifications/cancelled", requestId=99),
    "initialized": INITIALIZED,
    "progress": {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}},
    "an unknown notification": {"jsonrpc": "2.0", "method": "notifications/nope"},
    "an answer to nothing": {"jsonrpc": "2.0", "id": 99, "result": {}},
    "no JSON": b"{",
    "no message": b"[]",
    "no body": b"",
}
NEVER: dict[str, Any] = {"ping": PING, "a cancellation": CANCEL}


async def test_every_message_of_a_session_counts_once_but_for_what_belongs_to_something(
    counted: list[Caller], host: Host
) -> None:
    for message in (PING, CANCEL, ONCE["an answer to nothing"]):
        counted.clear()
        await host.post(message, {"Mcp-Session-Id": "nope"})
        assert len(counted) == 1, "what belongs to no session belongs to nothing"
    counted.clear()
    await host.post(PING)
    assert len(counted) == 1
    session = await host.open_session()
    async with sse_session(host) as (_, url):
        await eventually(lambda: len(counted) == 3)
        for headers, address in ((session, ""), ({}, url)):
            for table, times in ((ONCE, 1), (NEVER, 0)):
                for name, message in table.items():
                    counted.clear()
                    await host.post(message, headers, address)
                    await eventually(lambda: not host.door.calls.total)
                    assert len(counted) == times, (name, address)


async def test_an_answer_to_a_question_does_not_count(counted: list[Caller], tmp_path: Path) -> None:
    page = {"topup_url": "https://app.example.com/top-up"}
    async with (
        open_host(tmp_path, models=(PRICED,), stripe=page) as host,
        sse_session(host, host.key("alice")) as (
            lines,
            url,
        ),
    ):
        alice, introduced = {"X-Test-Key": "alice"}, initialize("2025-11-25")
        introduced["params"]["capabilities"] = {"elicitation": {"url": {}}}
        await host.post(introduced, alice, url)
        await next_message(lines)
        await host.post(chat(model="shop/echo"), alice, url)
        asked = await next_message(lines)
        counted.clear()
        declined = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}
        assert (await host.post(declined, alice, url)).status_code == 202
        assert "declined" in (await next_message(lines))["result"]["content"][0]["text"]
        assert counted == []


async def test_what_comes_without_a_session_counts_once_too(counted: list[Caller], host: Host) -> None:
    refused = {"Mcp-Method": "nope"}, {"MCP-Protocol-Version": "2099-01-01"}
    for message in (
        LIST_TOOLS,
        request("server/discover"),
        request("no/such"),
        call("nope", {}),
        call("get_balance", {}),
    ):
        for changed in ({}, *refused):
            counted.clear()
            body, headers = modern(message)
            await host.post(body, headers | changed)
            assert len(counted) == 1, (message, changed)
    counted.clear()
    assert (await host.post(INITIALIZED, {"MCP-Protocol-Version": MODERN})).status_code == 202
    assert (await host.post(b"{}", {"Content-Type": "text/plain"})).status_code == 415
    assert len(counted) == 2


async def test_a_chat_counts_as_inference_alone_and_a_stream_as_a_listing(counted: list[Caller], host: Host) -> None:
    session = await host.open_session()
    counted.clear()
    for message in (chat(), chat(model="nope"), call("chat_completion", {})):
        await host.post(message, session)
        await host.post(*modern(message))
    assert counted == []
    headers = session | {"Accept": "text/event-stream"}
    async with http_client() as http, http.stream("GET", host.url, headers=headers) as stream:
        assert await anext(stream.aiter_bytes()) == b": open\n\n"
        assert len(counted) == 1
        assert (await http.delete(host.url, headers=session)).status_code == 200
    assert len(counted) == 1


async def test_too_many_messages_are_refused_in_the_terms_of_their_transport(tmp_path: Path) -> None:
    async with open_host(tmp_path, limits={"listing_requests_per_minute": 6}) as host:
        session = await host.open_session()
        async with sse_session(host) as (lines, url):
            for _ in range(4):
                assert (await host.post(LIST_TOOLS, session)).status_code == 200
            messages: list[Any] = [LIST_TOOLS, INITIALIZED, b"{", initialize(), call("nope", {})]
            for message in messages:
                refused = await host.post(message, session)
                assert refused.status_code == 429
                assert 0 < int(refused.headers["retry-after"]) <= 60
                error = error_of(refused)
                assert (error["code"], error["data"]["code"]) == (-32000, "guest")
                assert error["data"]["retry_after_s"] == int(refused.headers["retry-after"])
                asked_by = message.get("id") if isinstance(message, dict) else None
                assert refused.json()["id"] == asked_by
            assert (await host.post(LIST_TOOLS, url=url)).status_code == 202
            assert (await next_message(lines))["error"]["data"]["code"] == "guest"
            async with http_client() as http:
                assert (await http.get(f"{host.url}/sse")).status_code == 429
                assert (await http.get(host.url, headers=session)).status_code == 429
            for message in NEVER.values():
                assert (await host.post(message, session)).status_code in (200, 202)
            assert "result" in (await host.post(chat(), session)).json()


@pytest.mark.parametrize(
    ("transport", "mode"), [("http", "legacy"), ("http", "auto"), ("sse", "legacy"), ("sse", "auto")]
)
async def test_a_handshake_takes_a_small_part_of_what_a_guest_may_ask(
    counted: list[Caller], host: Host, transport: str, mode: str
) -> None:
    async with host.client(transport, mode) as client:
        await client.list_tools()
        await client.list_resources()
        await client.list_prompts()
    assert 2 <= len(counted) <= 8


# Shares of streams


async def test_a_key_can_open_a_stream_while_guests_hold_all_that_they_may(tmp_path: Path) -> None:
    async with open_host(tmp_path, mcp={"max_sessions": 4, "max_sessions_per_guest_address": 2}) as host:
        guests = [{"X-Test-Address": "192.0.2.1"}, {"X-Test-Address": "192.0.2.1"}, {"X-Test-Address": "192.0.2.2"}]
        async with (
            sse_session(host, guests[0]) as (ended, _),
            sse_session(host, guests[1]),
            sse_session(host, guests[2]),
        ):
            assert [line async for line in ended] == [""]
            await eventually(lambda: len(host.door.event_sessions) == 2)
            async with sse_session(host, host.key("alice")), sse_session(host, host.key("bob")):
                assert len(host.door.event_sessions) == 4


async def test_the_guest_with_the_most_listeners_makes_room_for_one_with_none(tmp_path: Path) -> None:
    async with (
        open_host(tmp_path, mcp={"max_sessions": 4, "max_sessions_per_guest_address": 2}) as host,
        host.client("http", headers={"X-Test-Address": "192.0.2.1"}) as mine,
        host.client("http", headers={"X-Test-Address": "192.0.2.2"}) as other,
        mine.listen(resources_list_changed=True) as first,
        mine.listen(resources_list_changed=True),
        other.listen(resources_list_changed=True),
    ):
        assert [event async for event in first] == []
        with pytest.raises(MCPError, match="Too many"):
            await other.listen(resources_list_changed=True).__aenter__()


async def test_a_caller_hears_of_so_many_resources_over_all_its_sessions(tmp_path: Path) -> None:
    models = tuple({"id": str(number)} for number in range(10))
    async with open_host(tmp_path, mcp={"max_sessions_per_caller": 2}, models=models) as host:
        alice = host.key("alice")
        first, second = await host.open_session(alice), await host.open_session(alice)
        for number in range(5):
            assert "result" in (await host.post(request("resources/subscribe", uri=f"models://{number}"), first)).json()
        for number in range(4):
            answer = (await host.post(request("resources/subscribe", uri=f"models://{number}"), second)).json()
            assert ("result" in answer) == (number < 3)
        assert "result" in (await host.post(request("resources/subscribe", uri="models://0"), second)).json()
        async with http_client() as http:
            await http.delete(host.url, headers=first)
        assert "result" in (await host.post(request("resources/subscribe", uri="models://9"), second)).json()
        assert host.door.subscriptions.has_any
        host.door.close_key("alice")
        assert not host.door.subscriptions.has_any
