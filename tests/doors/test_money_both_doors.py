"""The wallet under both doors at once, clients that leave over MCP, and a database that cannot be written."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import DATABASE
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.store.sqlite.backup import back_up
from tests.databases import store_of
from tests.patience import PATIENCE_S, becomes, eventually
from tests.replaying import DONE, Asked, ReplayingBackend, chunk, final_usage, held, unary
from tests.serving import PRICED, Door, bearer, chat_body, error_of, open_door

PROMPT_NANO, COMPLETION_NANO = 300, 700
LONG = [{"role": "user", "content": "x" * PRICED["context_window"]}]
CALL_HEADERS = {"mcp-protocol-version": "2025-06-18", "accept": "application/json"}


@pytest.fixture
async def door(tmp_path: Path, backend: ReplayingBackend) -> AsyncIterator[Door]:
    async with open_door(tmp_path, vllm_urls=[backend.url], models=[PRICED]) as door:
        yield door
        await door.nothing_is_left()


def tool_call(**arguments: Any) -> dict[str, Any]:
    params = {"name": "chat_completion", "arguments": {"model": PRICED["id"]} | arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


TRANSPORTS: dict[str, Callable[[Door, dict[str, str], httpx2.AsyncClient], Client]] = {
    "modern": lambda door, _, http: Client(streamable_http_client(f"{door.url}/v1/mcp", http_client=http)),
    "session": lambda door, _, http: Client(
        streamable_http_client(f"{door.url}/v1/mcp", http_client=http), mode="legacy"
    ),
    "sse": lambda door, headers, _: Client(sse_client(f"{door.url}/v1/mcp/sse", headers=headers)),
    "sse legacy": lambda door, headers, _: Client(sse_client(f"{door.url}/v1/mcp/sse", headers=headers), mode="legacy"),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_that_leaves_over_mcp_pays_for_the_tokens_read_so_far(
    door: Door, backend: ReplayingBackend, transport: str
) -> None:
    account = await door.account("1")
    headers = bearer(await door.key(account))
    has_seen_all = asyncio.Event()

    async def three_tokens_and_then_nothing(asked: Asked) -> None:
        asked.start_stream()
        for number, word in enumerate(["", "one ", "two ", "three "]):
            asked.send_event(chunk(word, 9, number))
        await asyncio.Event().wait()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        if "three" in (message or ""):
            has_seen_all.set()

    backend.answer_with(three_tokens_and_then_nothing)
    arguments = {"model": PRICED["id"], "messages": [{"role": "user", "content": "count"}]}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S) as http,
        TRANSPORTS[transport](door, headers, http) as client,
    ):
        calling = asyncio.create_task(client.call_tool("chat_completion", arguments, progress_callback=note))
        async with asyncio.timeout(PATIENCE_S):
            await has_seen_all.wait()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await backend.chats[0].gone()
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9 - 9 * PROMPT_NANO - 3 * COMPLETION_NANO


async def test_two_choices_are_summed_right(door: Door, backend: ReplayingBackend) -> None:
    account = await door.account("1")

    def of_choice(index: int, tokens: int) -> bytes:
        return chunk("x", 9, tokens).replace(b'"index":0', b'"index":%d' % index)

    async def two_choices_and_then_nothing(asked: Asked) -> None:
        asked.start_stream()
        for index, tokens in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]:
            asked.send_event(of_choice(index, tokens))
        await asyncio.Event().wait()

    backend.answer_with(two_choices_and_then_nothing)
    body = chat_body(model=PRICED["id"], n=2, stream=True)
    headers = bearer(await door.key(account))
    async with door.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        seen = 0
        async for line in response.aiter_lines():
            seen += line.startswith("data: ")
            if seen == 5:
                break
    await backend.chats[0].gone()
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9 - 9 * PROMPT_NANO - 3 * COMPLETION_NANO


@contextlib.asynccontextmanager
async def full_disk(door: Door) -> AsyncIterator[None]:
    """The database may not grow any more."""
    store = store_of(door.gateway)
    other = await door.account("1")
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with contextlib.suppress(GatewayError):  # until not even a hold finds room in the pages that there are
        for number in count():
            await door.gateway.ledger.hold(f"ballast {number}", other, 1, 1)
            await door.gateway.ledger.void(f"ballast {number}", None)
    try:
        yield
    finally:
        store._connection.execute("PRAGMA max_page_count = 1000000")


@contextlib.asynccontextmanager
async def locked_database(door: Door) -> AsyncIterator[None]:
    """Another process writes, without end."""
    store_of(door.gateway)._busy_timeout_s = 0.05
    with contextlib.closing(sqlite3.connect(door.data_dir / DATABASE, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("outage", [full_disk, locked_database])
@pytest.mark.parametrize("is_over_in_time", [True, False])
async def test_a_whole_answer_waits_for_its_bill_and_is_refused_unbilled_where_that_takes_too_long(
    door: Door, backend: ReplayingBackend, outage: Callable[[Door], Any], is_over_in_time: bool
) -> None:
    account = await door.account("1")
    key = await door.key(account)
    door.gateway.ledger._wait_limit.limit_s = PATIENCE_S if is_over_in_time else 0.05
    is_released = asyncio.Event()
    backend.answer_with(held(is_released, unary(9, 2)))
    asking = asyncio.create_task(door.chat(key, model=PRICED["id"]))
    await backend.chats_asked(1)
    async with outage(door):
        is_released.set()
        await eventually(lambda: not door.gateway.ledger.is_writable)
        if not is_over_in_time:
            await asyncio.wait([asking])
    answer = await asking
    await eventually(lambda: door.gateway.ledger.is_writable)
    record = await door.record(answer)
    spent = 9 * PROMPT_NANO + 2 * COMPLETION_NANO if is_over_in_time else 0
    assert await door.balance_nano(account) == 10**9 - spent
    if is_over_in_time:
        assert (answer.status_code, answer.headers["x-cost-usd"]) == (200, format_usd(spent))
        assert (record["http_status"], record["cost_nano"]) == (200, spent)
    else:
        assert (answer.status_code, error_of(answer)["code"]) == (503, "ledger_unavailable")
        assert answer.headers["retry-after"]
        assert (record["http_status"], record["error_code"], record["cost_nano"]) == (503, "ledger_unavailable", 0)
    metrics = (await door.http.get("/metrics")).text
    labels = f'door="http",model="priced/tiny",status="{answer.status_code}",surface="chat"'
    assert f"gateway_requests_total{{{labels}}} 1.0" in metrics
    assert len(backend.chats) == 1
    door.errors.clear()  # the outage is logged, once


@pytest.mark.parametrize("outage", [full_disk, locked_database])
@pytest.mark.parametrize("is_mcp", [False, True])
async def test_a_client_that_hangs_up_in_an_outage_is_recorded_as_gone_and_pays_what_was_made(
    door: Door, backend: ReplayingBackend, outage: Callable[[Door], Any], is_mcp: bool
) -> None:
    account = await door.account("1")
    key = await door.key(account)
    may_answer = asyncio.Event()
    backend.answer_with(held(may_answer, unary(9, 2)))
    body = tool_call(messages=LONG, max_tokens=2) if is_mcp else chat_body(model=PRICED["id"], max_tokens=2)
    path, headers = ("/v1/mcp", CALL_HEADERS) if is_mcp else ("/v1/chat/completions", {})
    asking = asyncio.create_task(door.http.post(path, json=body, headers=bearer(key) | headers))
    await backend.chats_asked(1)
    async with outage(door):
        may_answer.set()
        await eventually(lambda: all(exchange._bill.status is not None for exchange in door.gateway.inference.running))
        asking.cancel()
        await asyncio.wait([asking])
        await eventually(lambda: not door.gateway.inference.running)
    await eventually(lambda: door.gateway.ledger.is_writable)
    spent = 9 * PROMPT_NANO + 2 * COMPLETION_NANO
    rows = await door.rows("SELECT http_status, error_code, cost_nano FROM requests")
    assert rows == [(499, "client_closed", spent)]
    assert await door.balance_nano(account) == 10**9 - spent
    door.errors.clear()  # the outage is logged, once


@pytest.mark.parametrize("outage", [full_disk, locked_database])
async def test_in_an_outage_new_chats_are_refused_and_streams_end_whole_and_are_billed_later(
    door: Door, backend: ReplayingBackend, outage: Callable[[Door], Any]
) -> None:
    account = await door.account("1")
    key = await door.key(account)
    door.gateway.ledger._wait_limit.limit_s = 0.05
    has_begun, goes_on = asyncio.Event(), asyncio.Event()

    async def in_two_parts(asked: Asked) -> None:
        asked.start_stream()
        asked.send_event(chunk("a", 9, 1))
        has_begun.set()
        await goes_on.wait()
        for event in (chunk("b", 9, 2, "stop"), final_usage(9, 2), DONE):
            asked.send_event(event)
        asked.end_stream()

    backend.answer_with(in_two_parts)
    streaming = asyncio.create_task(door.chat(key, model=PRICED["id"], stream=True))
    await has_begun.wait()
    async with outage(door):
        refused = await door.chat(key, model=PRICED["id"])
        assert (refused.status_code, error_of(refused)["code"]) == (503, "ledger_unavailable")
        assert refused.headers["retry-after"]
        goes_on.set()
        stream = await streaming
        assert b'"error"' not in stream.content
        assert b'"finish_reason":"stop"' in stream.content
        spent_usd = format_usd(9 * PROMPT_NANO + 2 * COMPLETION_NANO)
        note = f": the bill of {spent_usd} USD is written as soon as it can be\n\n"
        assert stream.content.endswith(note.encode() + DONE)
        assert len(backend.chats) == 1, "a refused chat reached the backend"
    balance = await becomes(lambda: door.gateway.ledger.balance(account), lambda balance: not balance.held_nano)
    spent = 9 * PROMPT_NANO + 2 * COMPLETION_NANO
    assert balance == Balance(10**9 - spent)
    door.gateway.ledger._wait_limit.limit_s = 30
    backend.answer_with(unary(9, 2))
    assert (await door.chat(key, model=PRICED["id"])).status_code == 200
    assert await door.balance_nano(account) == 10**9 - 2 * spent
    door.errors.clear()  # the outage is logged, once


async def test_a_backup_taken_under_load_is_a_whole_database_whose_books_agree(
    door: Door, backend: ReplayingBackend, tmp_path: Path
) -> None:
    key = await door.key(credit="1")
    load = [asyncio.create_task(door.chat(key, model=PRICED["id"])) for _ in range(60)]
    await backend.chats_asked(10)
    copy = tmp_path / "copies" / "backup.sqlite3"
    copy.parent.mkdir()
    await asyncio.to_thread(back_up, tmp_path / DATABASE, copy)
    assert [response.status_code for response in await asyncio.gather(*load)] == [200] * 60
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert copy.stat().st_mode & 0o077 == 0
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        entries = connection.execute("SELECT SUM(paid_nano), SUM(held_nano) FROM ledger_transactions").fetchone()
        assert connection.execute("SELECT SUM(paid_nano), SUM(held_nano) FROM wallets").fetchone() == entries
    with pytest.raises(FileExistsError):
        back_up(tmp_path / DATABASE, copy)
    with pytest.raises(FileNotFoundError):
        back_up(tmp_path / "nothing", tmp_path / "other")
