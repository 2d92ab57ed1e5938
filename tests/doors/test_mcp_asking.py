"""What the server asks of a client: the page to top up at, and whatever else a handler asks; and the log it is sent."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from mcp import MCPError
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CONNECTION_CLOSED,
    LOG_LEVEL_META_KEY,
    REQUEST_TIMEOUT,
    ElicitRequestURLParams,
    ElicitResult,
)

from mcp_gateway.core.caller import KeyHolder
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.mcp_door.jsonrpc import Message, parse_message
from mcp_gateway.mcp_door.questions import Questions
from tests.cases import each
from tests.doors.mcp_host import (
    JSON,
    Host,
    call,
    chat,
    http_client,
    initialize,
    open_host,
    text_in,
)
from tests.doors.test_mcp_catalog import ERAS, PRICED, request
from tests.doors.test_mcp_lifetimes import next_message, sse_session
from tests.doors.test_mcp_tools import failed, funded
from tests.doors.test_mcp_transports import MODERN, modern
from tests.fake_stripe import fake_stripe, settings_of
from tests.loop_clock import pass_time
from tests.patience import eventually

pytestmark = pytest.mark.gateways
PAGE = "https://app.example.com/top-up"
ARGUMENTS = chat(model="shop/echo")["params"]["arguments"]
CAPABLE: dict[str, Any] = {"elicitation": {"url": {}}}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with open_host(tmp_path, models=(PRICED, {"id": "demo/echo"}), stripe={"topup_url": PAGE}) as host:
        yield host
        await eventually(lambda: not host.gateway.limiter.in_flight)


def with_capabilities(message: dict[str, Any], capabilities: dict[str, Any] = CAPABLE) -> dict[str, Any]:
    message["params"]["capabilities"] = capabilities
    return message


# An empty wallet


@pytest.mark.parametrize(("transport", "mode"), ERAS)
@pytest.mark.parametrize(
    ("action", "words"), [("accept", "send the same call again"), ("decline", "declined"), ("cancel", "not answer")]
)
async def test_a_client_that_can_shows_its_person_the_page_to_top_up_at(
    host: Host, transport: str, mode: str, action: Any, words: str
) -> None:
    shown: list[str] = []

    async def elicit(_: Any, params: Any) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        shown.append(params.url)
        return ElicitResult(action=action)

    async with host.client(transport, mode, host.key("alice"), elicitation_callback=elicit) as client:
        answer = await client.call_tool("chat_completion", ARGUMENTS)
    assert shown == [PAGE]
    assert answer.is_error
    assert answer.structured_content["code"] == "insufficient_balance"
    assert answer.structured_content["topup_url"] == PAGE
    assert words in text_in(answer.content[0])


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_client_that_cannot_finds_the_page_in_the_error(host: Host, mode: str) -> None:
    async with host.client("http", mode, host.key("alice")) as client:
        answer = await client.call_tool("chat_completion", ARGUMENTS)
    assert PAGE in text_in(answer.content[0])
    assert answer.structured_content["topup_url"] == PAGE


async def test_who_has_topped_up_meanwhile_gets_the_answer(host: Host) -> None:
    account_id = await funded(host, 1)

    async def pay(*_: Any) -> ElicitResult:
        async with open_desk(host.gateway.settings) as desk:
            await desk.ledger.credit(account_id, 1_000_000_000, "payment")
        return ElicitResult(action="accept")

    key = host.key("alice", account_id=account_id)
    async with host.client("http", MODERN, key, elicitation_callback=pay) as client:
        assert not (await client.call_tool("chat_completion", ARGUMENTS)).is_error


async def test_a_modern_client_is_asked_by_a_result_that_requires_input(host: Host) -> None:
    message = call("chat_completion", ARGUMENTS, **{CLIENT_CAPABILITIES_META_KEY: CAPABLE})
    answer = (await host.post(*modern(message, **host.key("alice")))).json()["result"]
    assert answer["resultType"] == "input_required"
    [asked] = answer["inputRequests"].values()
    assert asked["method"] == "elicitation/create"
    assert (asked["params"]["mode"], asked["params"]["url"]) == ("url", PAGE)


async def test_a_session_whose_client_reads_no_events_is_not_asked(host: Host) -> None:
    alice = host.key("alice")
    opened = await host.post(with_capabilities(initialize("2025-11-25")), alice)
    session = alice | {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    answer = await host.post(call("chat_completion", ARGUMENTS), session | {"Accept": "application/json"})
    assert PAGE in answer.json()["result"]["content"][0]["text"]


async def test_a_revision_without_url_elicitation_is_not_asked(host: Host) -> None:
    alice = host.key("alice")
    opened = await host.post(with_capabilities(initialize("2025-06-18")), alice)
    answer = await host.post(
        call("chat_completion", ARGUMENTS), alice | {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    )
    assert PAGE in answer.json()["result"]["content"][0]["text"]


async def test_a_client_that_answers_with_an_error_gets_the_page_in_the_error(host: Host) -> None:
    async with sse_session(host, host.key("alice")) as (lines, url):
        headers = {"X-Test-Key": "alice"}
        await host.post(with_capabilities(initialize("2025-11-25")), headers, url)
        await host.post(call("chat_completion", ARGUMENTS), headers, url)
        await next_message(lines)
        asked = await next_message(lines)
        refusal = {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no"}}
        assert (await host.post(refusal, headers, url)).status_code == 202
        assert PAGE in (await next_message(lines))["result"]["content"][0]["text"]


async def test_a_client_that_leaves_while_it_is_asked_ends_its_call(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"models": (PRICED,), "stripe": {"topup_url": PAGE}, "mcp": {"disconnect_grace_s": 0}}
    async with open_host(tmp_path, **settings) as host:
        alice = host.key("alice")
        opened = await host.post(with_capabilities(initialize("2025-11-25")), alice)
        session = {**alice, "Mcp-Session-Id": opened.headers["mcp-session-id"], "Accept": "text/event-stream"}
        [waiting] = host.door.sessions.all()
        async with http_client() as http, http.stream(
            "POST", host.url, json=call("chat_completion", ARGUMENTS), headers=session
        ) as stream:  # fmt: skip
            assert (await next_message(stream.aiter_lines()))["method"] == "elicitation/create"
            assert len(waiting.questions) == 1
        await eventually(lambda: not len(waiting.questions) and not waiting.is_busy)


FORMS: list[dict[str, Any]] = [{}, {"form": {}}]


async def asked_by_form(
    host: Host, key: dict[str, str], forms: dict[str, Any], answer: dict[str, Any], version: str = "2025-11-25"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a client with forms alone is asked, and the call's result once it has answered."""
    capabilities = {"elicitation": forms}
    if version == MODERN:
        message, headers = modern(
            call("chat_completion", ARGUMENTS, **{CLIENT_CAPABILITIES_META_KEY: capabilities}), **key
        )
        [(name, asked)] = (await host.post(message, headers)).json()["result"]["inputRequests"].items()
        message["params"]["inputResponses"] = {name: answer}
        return asked["params"], (await host.post(message, headers)).json()["result"]
    opening = initialize(version)
    opening["params"]["capabilities"] = capabilities
    session = key | {"Mcp-Session-Id": (await host.post(opening, key)).headers["mcp-session-id"]}
    message = call("chat_completion", ARGUMENTS)
    async with http_client() as http, http.stream("POST", host.url, json=message, headers=session | JSON) as stream:
        lines = stream.aiter_lines()
        asked = await next_message(lines)
        await host.post({"jsonrpc": "2.0", "id": asked["id"], "result": answer}, session)
        return asked["params"], (await next_message(lines))["result"]


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25", MODERN])
@pytest.mark.parametrize("forms", FORMS)
async def test_a_client_with_forms_alone_asks_how_much_and_the_model_is_given_the_link(
    host: Host, forms: dict[str, Any], version: str
) -> None:
    answer = {"action": "accept", "content": {"amount_usd": 20}}
    asked, result = await asked_by_form(host, host.key("alice"), forms, answer, version)
    assert asked.get("mode", "form") == "form"
    assert asked["requestedSchema"]["required"] == ["amount_usd"]
    amount = asked["requestedSchema"]["properties"]["amount_usd"]
    assert (amount["type"], amount["minimum"], amount["maximum"]) == ("number", 5, 1000)
    facts = result["structuredContent"]
    assert (result["isError"], facts["code"], facts["topup_url"]) == (True, "insufficient_balance", PAGE)
    assert "20.00 USD" in facts["message"]
    assert PAGE in facts["message"]


@each(
    ("answer", "words"),
    [
        ({"action": "decline"}, "declined"),
        ({"action": "cancel"}, "did not answer"),
        ({"action": "accept"}, "amount_usd"),
        ({"action": "accept", "content": {"amount_usd": 4.99}}, "from 5.00 to 1000.00 USD"),
        ({"action": "accept", "content": {"amount_usd": 1e9}}, "from 5.00 to 1000.00 USD"),
        ({"action": "accept", "content": {"amount_usd": 5.001}}, "whole cents"),
        ({"action": "accept", "content": {"amount_usd": "a lot"}}, "amount_usd"),
        ({"action": "accept", "content": {"amount_usd": True}}, "amount_usd"),
        ({"action": "accept", "content": {"amount_usd": "7.50"}}, "7.50 USD"),
    ],
)
async def test_whatever_is_put_into_the_form_the_model_is_told_what_came_of_it(
    host: Host, answer: dict[str, Any], words: str
) -> None:
    _, result = await asked_by_form(host, host.key("alice"), {}, answer)
    assert result["isError"]
    assert words in result["structuredContent"]["message"]


async def test_with_stripe_the_link_is_a_session_to_pay_that_amount_in(tmp_path: Path) -> None:
    with fake_stripe() as stripe:
        settings = settings_of(stripe)
        async with open_host(tmp_path, models=(PRICED,), stripe=settings, public_url="https://gw.example.com") as host:
            async with open_desk(host.gateway.settings) as desk:
                account_id = (await desk.accounts.create("test")).id
            key = host.key("alice", account_id=account_id)
            answer = {"action": "accept", "content": {"amount_usd": 12.5}}
            for version in ("2025-11-25", MODERN):
                _, result = await asked_by_form(host, key, {}, answer, version)
                url = result["structuredContent"]["topup_url"]
                assert url.startswith("https://checkout.stripe.test/")
                assert url in result["content"][0]["text"]
            asked = stripe.asked_for("/v1/checkout/sessions")
            assert [one.form["line_items[0][price_data][unit_amount]"] for one in asked] == ["1250"] * 2
            host.keys["bob"] = replace(host.keys["alice"], principal=KeyHolder("bob"), scopes=frozenset({"inference"}))
            opened = await host.post(
                with_capabilities(initialize("2025-11-25"), {"elicitation": {}}), {"X-Test-Key": "bob"}
            )
            session = {"X-Test-Key": "bob", "Mcp-Session-Id": opened.headers["mcp-session-id"]}
            told = (await host.post(call("chat_completion", ARGUMENTS), session)).json()["result"]["structuredContent"]
            assert told["topup_url"] == "https://gw.example.com/v1/billing/checkout"
            assert len(stripe.asked_for("/v1/checkout/sessions")) == 2
            stripe.failure = (500, {"message": "no"})
            _, result = await asked_by_form(host, key, {}, answer)
            assert "came to nothing" in result["structuredContent"]["message"]


async def test_a_client_with_pages_and_forms_is_shown_the_page(host: Host) -> None:
    asked, _ = await asked_by_form(host, host.key("alice"), {"form": {}, "url": {}}, {"action": "accept"})
    assert (asked["mode"], asked["url"]) == ("url", PAGE)


async def test_progress_is_told_while_a_person_is_asked_and_its_number_grows(host: Host) -> None:
    alice = host.key("alice")
    opened = await host.post(with_capabilities(initialize("2025-11-25")), alice)
    session = alice | {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    message = call("chat_completion", ARGUMENTS, progressToken="p")
    told: list[dict[str, Any]] = []
    async with (
        http_client(timeout=600) as http,
        http.stream("POST", host.url, json=message, headers=session | JSON) as stream,
    ):
        lines = stream.aiter_lines()
        while "elicitation/create" not in [one.get("method") for one in told]:
            told.append(await next_message(lines))
        for seconds in (1, 9) * 3:  # once in a second at most, and once in ten at least
            pass_time(seconds)
            for _ in range(3):
                await asyncio.sleep(0)
        told += [await next_message(lines) for _ in range(3)]
        [asked] = [one for one in told if one["method"] == "elicitation/create"]
        await host.post({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}, session)
        while "result" not in told[-1]:
            told.append(await next_message(lines))
    reports = [one["params"] for one in told if one.get("method") == "notifications/progress"]
    assert {report["progressToken"] for report in reports} == {"p"}
    assert "person" in reports[-1]["message"]
    numbers = [report["progress"] for report in reports]
    assert len(numbers) >= 3
    assert numbers == sorted(set(numbers))
    assert told[-1]["result"]["isError"]


async def test_without_a_page_the_error_says_who_can_pay(tmp_path: Path) -> None:
    async with open_host(tmp_path, models=(PRICED,)) as host:
        facts = await failed(host, call("chat_completion", ARGUMENTS), host.key("alice"))
        assert "topup_url" not in facts
        assert "top it up" in facts["message"]


async def test_a_balance_says_where_to_top_up_but_not_to_guests(host: Host) -> None:
    mine = (await host.post(call("get_balance", {}), host.key("alice"))).json()["result"]
    assert mine["structuredContent"]["topup_url"] == PAGE
    assert PAGE in mine["content"][0]["text"]
    assert "topup_url" not in (await host.post(call("get_balance", {}))).json()["result"]["structuredContent"]


# Questions and their answers


class Client:
    """What is told to a client."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.was_told = asyncio.Event()

    async def tell(self, payload: bytes) -> None:
        self.told.append(orjson.loads(payload))
        self.was_told.set()


def response(request_id: Any, **fields: Any) -> Message:
    message = parse_message(orjson.dumps({"jsonrpc": "2.0", "id": request_id, **fields}))
    assert isinstance(message, Message)
    return message


async def test_each_answer_reaches_who_asked_and_an_id_may_come_back_as_text() -> None:
    questions, client = Questions(), Client()
    asking = [asyncio.create_task(questions.ask(client.tell, method, None, None)) for method in ("a", "b")]
    while len(client.told) < 2:
        client.was_told.clear()
        await client.was_told.wait()
    first, second = [message["id"] for message in client.told]
    questions.take(response(99, result={}))
    questions.take(response(str(second), result={"is": "b"}))
    questions.take(response(first, result={"is": "a"}))
    questions.take(response(first, result={"is": "late"}))
    assert await asyncio.gather(*asking) == [{"is": "a"}, {"is": "b"}]
    assert not len(questions)


@pytest.mark.parametrize("fields", [{"error": {"code": 7, "message": "no"}}, {"error": 5}, {"result": 5}])
async def test_a_client_that_fails_fails_the_question(fields: dict[str, Any]) -> None:
    questions, client = Questions(), Client()
    asking = asyncio.create_task(questions.ask(client.tell, "a", None, None))
    await client.was_told.wait()
    questions.take(response(client.told[0]["id"], **fields))
    with pytest.raises(MCPError):
        await asking


async def test_a_question_that_failed_is_not_kept() -> None:
    questions, client = Questions(), Client()
    params = {"x": 1}
    before = sys.getrefcount(params)
    gc.disable()  # else it might hide a cycle
    try:
        asking = asyncio.create_task(questions.ask(client.tell, "a", params, None))
        await client.was_told.wait()
        questions.take(response(client.told[0]["id"], error={}))
        with suppress(MCPError):
            await asking
        del asking
        await asyncio.sleep(0)  # the loop lets go of it
        assert sys.getrefcount(params) == before
    finally:
        gc.enable()


async def test_a_client_that_is_silent_is_told_that_its_answer_is_not_wanted_any_more() -> None:
    questions, client = Questions(), Client()
    with pytest.raises(MCPError) as refused:
        await questions.ask(client.tell, "a", {"x": 1}, 0.01)
    assert refused.value.code == REQUEST_TIMEOUT
    asked, cancelled = client.told
    assert (cancelled["method"], cancelled["params"]["requestId"]) == ("notifications/cancelled", asked["id"])


async def test_a_session_that_ends_ends_its_questions() -> None:
    questions, client = Questions(), Client()
    asking = asyncio.create_task(questions.ask(client.tell, "a", None, None))
    await client.was_told.wait()
    questions.close()
    with pytest.raises(MCPError) as refused:
        await asking
    assert refused.value.code == CONNECTION_CLOSED


# The log


async def test_a_session_that_asked_for_a_log_hears_how_its_calls_went_and_nothing_of_their_content(host: Host) -> None:
    session = await host.open_session()
    quiet = await host.post(chat("canary"), session)
    assert quiet.headers["content-type"] == "application/json"
    assert (await host.post(request("logging/setLevel", level="info"), session)).json()["result"] == {}
    events = (await host.post(chat("canary"), session)).text.split("data: ")
    params = orjson.loads(events[1].split("\n")[0])["params"]
    assert (params["level"], params["data"]["tool"], params["data"]["model"]) == (
        "info",
        "chat_completion",
        "demo/echo",
    )
    assert "canary" not in events[1]
    await host.post(request("logging/setLevel", level="warning"), session)
    assert (await host.post(chat("canary"), session)).headers["content-type"] == "application/json"
    failing = (await host.post(chat("canary", model="nope"), session)).text
    assert '"level":"warning"' in failing


async def test_a_modern_request_asks_for_its_own_log(host: Host) -> None:
    message = call("get_balance", {}, **{LOG_LEVEL_META_KEY: "debug"})
    assert "notifications/message" in (await host.post(*modern(message))).text
    assert "notifications/message" not in (await host.post(*modern(call("get_balance", {})))).text


async def test_a_level_that_there_is_not_is_refused(host: Host) -> None:
    answer = await host.post(request("logging/setLevel", level="loud"), await host.open_session())
    assert answer.json()["error"]["code"] == -32602
