"""Two replicas of one gateway: whichever a client's messages come to serves them, and a session needs none of them."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from mcp.shared.subscriptions import ResourceUpdated
from mcp.types import PARSE_ERROR

from mcp_gateway.core.replicas import Replicas
from mcp_gateway.mcp_door.sessions import Session
from tests.doors.mcp_host import Host, call, chat, gated, http_client, initialize, lent, open_host
from tests.doors.test_mcp_catalog import PRICED, request
from tests.doors.test_mcp_lifetimes import next_message, sse_session
from tests.doors.test_mcp_transports import PING, error_of, modern, text_of
from tests.patience import PATIENCE_S, eventually
from tests.replicas import Neighbourhood

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGE = "https://app.example.com/top-up"
SHOP = chat(model="shop/echo")["params"]["arguments"]
PACED = "demo/paced"


class Pair:
    """The two; a session is opened at one and gone on with at the other."""

    def __init__(self, one: Host, other: Host, neighbourhood: Neighbourhood | None) -> None:
        self.one = one
        self.other = other
        self.neighbourhood = neighbourhood

    def key(self, name: str = "alice") -> dict[str, str]:
        self.other.key(name)
        return self.one.key(name)

    async def session(self, headers: dict[str, str] | None = None, version: str = "2025-06-18") -> dict[str, str]:
        """The headers of one that was opened at the first."""
        opened = await self.one.post(initialize(version), headers)
        return {"Mcp-Session-Id": opened.headers["mcp-session-id"]} | (headers or {})

    def session_at(self, host: Host, session: dict[str, str]) -> Session:
        found = host.door.sessions.named(session["Mcp-Session-Id"])
        assert found is not None
        return found


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=["process", pytest.param("valkey", marks=pytest.mark.engines)]
)
async def hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    settings: dict[str, Any] = {"models": (PRICED, {"id": "demo/echo"}, {"id": PACED}), "stripe": {"topup_url": PAGE}}
    neighbourhood = Neighbourhood()
    made: list[Replicas] = [neighbourhood.join(), neighbourhood.join()]
    async with asyncio.TaskGroup() as group:
        loops: list[asyncio.Task[None]] = []
        if request.param == "valkey":
            from tests.engines.joined import joined  # noqa: PLC0415 - hiredis is an extra

            server = request.getfixturevalue("valkey_server")
            made = []
            for _ in range(2):
                replica, watches = await joined(server.url(), group)
                made.append(replica)
                loops += watches
        async with (
            open_host(folders[0], replicas=made[0], **settings) as one,
            open_host(folders[1], replicas=made[1], **settings) as other,
        ):
            yield Pair(one, other, neighbourhood if request.param == "process" else None)
        for loop in loops:
            loop.cancel()


@pytest.fixture
def pair(hosts: Pair) -> Iterator[Pair]:
    with lent(hosts.one), lent(hosts.other):
        yield hosts


@pytest.fixture
def away(pair: Pair) -> Iterator[Pair]:
    """Nothing connects the two."""
    if pair.neighbourhood is None:
        pytest.skip("tried once, with what a test can take away")
    pair.neighbourhood.is_away = True
    yield pair
    pair.neighbourhood.is_away = False


# Sessions


async def test_a_session_goes_on_at_another_replica_as_what_it_was_opened_as(pair: Pair) -> None:
    session = await pair.session(pair.key(), "2024-11-05")
    for host in (pair.other, pair.one, pair.other):
        answer = await host.post(chat(), session)
        assert text_of(answer).endswith("hello")
        assert "structuredContent" not in answer.json()["result"]  # which that revision does not know


async def test_a_client_of_today_needs_no_session_and_is_served_in_turns(pair: Pair) -> None:
    for host in (pair.one, pair.other, pair.one):
        message, headers = modern(chat())
        assert text_of(await host.post(message, headers)).endswith("hello")


async def test_an_id_is_of_no_use_to_anybody_else(pair: Pair) -> None:
    session = await pair.session(pair.key())
    others = [pair.key("bob"), {"X-Test-Address": "192.0.2.77"}, {}]
    for host in (pair.one, pair.other):
        for caller in others:
            answer = await host.post(PING, {"Mcp-Session-Id": session["Mcp-Session-Id"]} | caller)
            assert answer.status_code == 404
            assert "initialize" in error_of(answer)["message"]


@pytest.mark.parametrize("spoil", ["its version", "its signature", "its form", "its length", "all of it"])
async def test_an_id_that_is_not_ours_is_none(pair: Pair, spoil: str) -> None:
    session = await pair.session(pair.key())
    good = session["Mcp-Session-Id"]
    raw = base64.urlsafe_b64decode(good.removeprefix("mcp_") + "==")
    signature, facts = raw[:16], orjson.loads(raw[16:])
    told = {
        "its version": signature + orjson.dumps(facts | {"v": "2025-11-25"}),
        "its signature": bytes(16) + raw[16:],
    }
    spoiled = {"its form": good + "!", "its length": good + 2048 * "A", "all of it": "other"}.get(spoil)
    named = spoiled or "mcp_" + base64.urlsafe_b64encode(told[spoil]).decode().rstrip("=")
    answer = await pair.other.post(PING, session | {"Mcp-Session-Id": named})
    assert answer.status_code == 404


async def test_many_first_messages_at_once_make_one_session(pair: Pair) -> None:
    session = await pair.session(pair.key())
    before = len(pair.other.door.sessions)
    answers = await asyncio.gather(*[pair.other.post(PING, session) for _ in range(8)])
    assert {answer.status_code for answer in answers} == {200}
    assert len(pair.other.door.sessions) == before + 1


async def test_a_session_is_ended_everywhere_with_what_runs_for_it(pair: Pair) -> None:
    session = await pair.session(pair.key())
    gate = gated(pair.other)
    calling = asyncio.create_task(pair.other.post(chat(model=PACED), session))
    await gate.is_reached.wait()
    async with http_client() as http:
        assert (await http.delete(pair.one.url, headers=session)).status_code == 200
    await calling
    assert gate.was_cancelled.is_set()
    for host in (pair.one, pair.other):
        assert (await host.post(PING, session)).status_code == 404


async def test_what_nobody_has_seen_is_ended_by_its_id(pair: Pair) -> None:
    session = await pair.session(pair.key())
    async with http_client() as http:
        assert (await http.delete(pair.other.url, headers=session)).status_code == 200
    await eventually(lambda: pair.one.door.sessions.named(session["Mcp-Session-Id"]) is None)
    assert (await pair.one.post(PING, session)).status_code == 404


async def test_a_call_is_cancelled_by_a_message_to_another_replica(pair: Pair) -> None:
    session = await pair.session(pair.key())
    gate = gated(pair.one)
    calling = asyncio.create_task(pair.one.post(chat(model=PACED, request_id=41), session))
    await gate.is_reached.wait()
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 41}}
    assert (await pair.other.post(cancel, session)).status_code == 202
    async with asyncio.timeout(PATIENCE_S):
        await gate.was_cancelled.wait()
    await calling


async def test_a_log_level_is_known_to_all(pair: Pair) -> None:
    session = await pair.session(pair.key())
    await pair.one.post(request("logging/setLevel", level="info"), session)
    await pair.other.post(PING, session)
    there = pair.session_at(pair.other, session)
    assert there.log_level == "info"
    await pair.one.post(request("logging/setLevel", level="emergency"), session)
    await eventually(lambda: there.log_level == "emergency")


async def test_a_stream_hears_of_what_is_subscribed_to_elsewhere(pair: Pair) -> None:
    session = await pair.session(pair.key())
    async with http_client() as http, listening(http, pair.one, session) as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == ": open"
        for uri in ("models://catalog", "models://shop%2Fecho"):
            assert (await pair.other.post(request("resources/subscribe", uri=uri), session)).json()["result"] == {}
        await pair.other.post(request("resources/unsubscribe", uri="models://catalog"), session)
        here = pair.session_at(pair.one, session)
        await eventually(lambda: list(here.subscribed_uris) == ["models://shop%2Fecho"])
        pair.one.door.publish(ResourceUpdated(here.subscribed_uris["models://shop%2Fecho"]))
        assert (await next_message(lines))["params"] == {"uri": "models://shop%2Fecho"}


async def test_what_there_is_not_at_one_replica_is_not_subscribed_to_there(pair: Pair) -> None:
    session = await pair.session(pair.key())
    await pair.other.post(PING, session)
    pair.one.door._take_up(pair.session_at(pair.one, session), {"uri:models://nobody/has": "1"})
    assert pair.session_at(pair.one, session).subscribed_uris == {}


def listening(http: httpx2.AsyncClient, host: Host, session: dict[str, str]) -> Any:
    return http.stream("GET", host.url, headers=session | {"Accept": "text/event-stream"})


async def test_a_client_listens_at_one_replica_at_a_time(pair: Pair) -> None:
    session = await pair.session(pair.key())
    async with http_client() as http, listening(http, pair.one, session) as first:
        first_lines = first.aiter_lines()
        assert await anext(first_lines) == ": open"
        async with listening(http, pair.other, session) as second:
            assert await anext(second.aiter_lines()) == ": open"
            assert [line async for line in first_lines if line] == []  # it has ended


async def test_a_person_answers_through_whichever_replica(pair: Pair) -> None:
    alice = pair.key()
    opened = initialize("2025-11-25")
    opened["params"]["capabilities"] = {"elicitation": {"url": {}}}
    answer = await pair.one.post(opened, alice)
    session = alice | {"Mcp-Session-Id": answer.headers["mcp-session-id"]}
    posting: dict[str, Any] = call("chat_completion", SHOP)
    async with http_client() as http, http.stream(
        "POST", pair.other.url, json=posting, headers=session | {"Accept": "application/json, text/event-stream"}
    ) as stream:  # fmt: skip
        lines = stream.aiter_lines()
        asked = await next_message(lines)
        assert asked["method"] == "elicitation/create"
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}
        assert (await pair.one.post(reply, session)).status_code == 202
        told = await next_message(lines)
    assert "declined" in told["result"]["content"][0]["text"]


async def test_a_session_goes_on_while_replicas_are_not_connected(away: Pair) -> None:
    session = await away.session(away.key())
    assert (await away.other.post(PING, session)).status_code == 200
    refused = (await away.other.post(request("logging/setLevel", level="info"), session)).json()
    assert "try again" in refused["error"]["message"]
    async with http_client() as http:
        answer = await http.delete(away.other.url, headers=session)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# HTTP+SSE


async def test_messages_to_another_replica_reach_the_stream(pair: Pair) -> None:
    alice = pair.key()
    async with sse_session(pair.one, alice) as (lines, url):
        there = url.replace(pair.one.url, pair.other.url)
        assert there != url
        for number, message in enumerate((initialize(), chat(request_id=1), PING | {"id": 2})):
            assert (await pair.other.post(message, alice, there)).status_code == 202
            assert (await next_message(lines))["id"] == number
        assert (await pair.other.post(PING, pair.key("bob"), there)).status_code == 404


async def test_what_is_refused_there_is_refused_here(pair: Pair) -> None:
    alice = pair.key()
    async with sse_session(pair.one, alice) as (_, url):
        there = url.replace(pair.one.url, pair.other.url)
        answer = await pair.other.post(b"no JSON", alice, there)
        assert answer.status_code == 400
        assert error_of(answer)["code"] == PARSE_ERROR
        large = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_":"' + 1024 * 1024 * b"a" + b'"}}'
        answer = await pair.other.post(large, alice, there)
        assert answer.status_code == 413
        assert "1048576" in error_of(answer)["message"]
        answer = await pair.other.post(large, alice | {"content-type": "text/plain"}, there)
        assert answer.status_code == 415


async def test_a_stream_that_has_ended_takes_nothing(pair: Pair) -> None:
    alice = pair.key()
    async with sse_session(pair.one, alice) as (_, url):
        there = url.replace(pair.one.url, pair.other.url)
    await eventually(lambda: not len(pair.one.door.event_sessions))
    for address, host in ((url, pair.one), (there, pair.other)):
        assert (await host.post(PING, alice, address)).status_code == 404


async def test_a_stream_of_a_replica_that_has_died_is_unknown(pair: Pair) -> None:
    if pair.neighbourhood is None:
        pytest.skip("tried once, with what a test can take away")
    alice = pair.key()
    async with sse_session(pair.one, alice) as (_, url):
        there = url.replace(pair.one.url, pair.other.url)
        [name, *_] = list(pair.neighbourhood.replicas)
        gone = pair.neighbourhood.replicas.pop(name)
        assert (await pair.other.post(PING, alice, there)).status_code == 404
        pair.neighbourhood.replicas[name] = gone


async def test_a_stream_elsewhere_is_out_of_reach_while_replicas_are_not_connected(away: Pair) -> None:
    alice = away.key()
    async with sse_session(away.one, alice) as (_, url):
        answer = await away.other.post(PING, alice, url.replace(away.one.url, away.other.url))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "try again" in error_of(answer)["message"]
