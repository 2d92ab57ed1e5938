"""The wallet under both doors at once, clients that leave over MCP, and a database that cannot be written."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from mcp_gateway.core.inference.exchange import Exchange
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.ledger.ledger import SettlementPending
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.store.sqlite.backup import back_up
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.databases import full_beneath, locked_out
from tests.patience import PATIENCE_S, becomes, eventually
from tests.replaying import Answer, Asked, ReplayingBackend, chunk, held, in_two
from tests.serving import Door, bearer, chat_body, open_door
from tests.stage import CREDIT_NANO, PRICED, cost_nano, staged
from tests.surfaces import MODEL, SPOKEN, ChatTool, Spoken, answers, every_surface


@pytest.fixture
async def door(tmp_path: Path, backend: ReplayingBackend) -> AsyncIterator[Door]:
    async with open_door(tmp_path, vllm_urls=[backend.url], models=[PRICED]) as door:
        yield door
        await door.nothing_is_left()


pytestmark = pytest.mark.surfaces

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
    assert await door.balance_nano(account) == CREDIT_NANO - cost_nano(9, 3)


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
    assert await door.balance_nano(account) == CREDIT_NANO - cost_nano(9, 3)


@contextlib.asynccontextmanager
async def full_disk(door: Door) -> AsyncIterator[None]:
    """The database may not grow any more."""
    async with full_beneath(door.gateway, await door.account("1")):
        yield


@contextlib.asynccontextmanager
async def locked_database(door: Door) -> AsyncIterator[None]:
    """Another process writes, without end."""
    async with locked_out(door.gateway, wait_s=0.05):
        yield


@pytest.mark.parametrize("outage", [full_disk, locked_database])
@pytest.mark.parametrize("is_over_in_time", [True, False])
async def test_a_whole_answer_waits_for_its_bill_and_is_refused_unbilled_where_that_takes_too_long(
    door: Door, backend: ReplayingBackend, outage: Callable[[Door], Any], is_over_in_time: bool
) -> None:
    door.gateway.ledger._wait_limit.limit_s = PATIENCE_S if is_over_in_time else 0.05
    is_released = asyncio.Event()
    backend.standing = held(is_released, as_asked(9, 2))
    payers = [await staged(door, backend) for _ in SPOKEN]
    asking = [asyncio.create_task(payer.ask(spoken)) for payer, spoken in zip(payers, SPOKEN, strict=True)]
    await backend.chats_asked(len(asking))
    async with outage(door):
        is_released.set()
        await eventually(lambda: not door.gateway.ledger.is_writable)
        if not is_over_in_time:
            await asyncio.wait(asking)
    answered = await asyncio.gather(*asking)
    await eventually(lambda: door.gateway.ledger.is_writable)
    for payer, spoken, answer in zip(payers, SPOKEN, answered, strict=True):
        spent = cost_nano(9, 2 if spoken.is_generated else 0) if is_over_in_time else 0
        (record,) = await payer.records()
        assert await door.balance_nano(payer.account_id) == CREDIT_NANO - spent
        assert record["cost_nano"] == spent
        if is_over_in_time:
            assert (spoken.told(answer, is_stream=False)[1], record["http_status"]) == (format_usd(spent), 200)
        else:
            assert spoken.refusal_of(answer) == spoken.word_for("ledger_unavailable")
            assert (record["http_status"], record["error_code"]) == (503, "ledger_unavailable")
            assert "retry-after" in answer.headers or isinstance(spoken, ChatTool)
        labels = f'door="{record["door"]}",model="{MODEL}",status="{record["http_status"]}"'
        assert f'gateway_requests_total{{{labels},surface="{spoken.surface.name}"}} 1.0' in await metrics_of(door)
    assert len(backend.chats) == len(SPOKEN)
    door.errors.clear()  # the outage is logged, once


async def metrics_of(door: Door) -> str:
    return (await door.http.get("/metrics")).text


@pytest.mark.parametrize("outage", [full_disk, locked_database])
async def test_a_client_that_hangs_up_in_an_outage_is_recorded_as_gone_and_pays_what_was_made(
    door: Door, backend: ReplayingBackend, outage: Callable[[Door], Any]
) -> None:
    may_answer = asyncio.Event()
    backend.standing = held(may_answer, as_asked(9, 2))
    payers = [await staged(door, backend) for _ in SPOKEN]
    asking = [asyncio.create_task(payer.ask(spoken)) for payer, spoken in zip(payers, SPOKEN, strict=True)]
    await backend.chats_asked(len(asking))
    async with outage(door):
        may_answer.set()
        await eventually(lambda: all(exchange._bill.status is not None for exchange in door.gateway.inference.running))
        await eventually(lambda: not door.gateway.ledger.is_writable)
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        await eventually(lambda: not door.gateway.inference.running)
    await eventually(lambda: door.gateway.ledger.is_writable)
    for payer, spoken in zip(payers, SPOKEN, strict=True):
        (record,) = await payer.records()
        spent = cost_nano(9, 2 if spoken.is_generated else 0)
        told = (record["http_status"], record["error_code"], record["cost_nano"])
        assert told == (499, "client_closed", spent), spoken
        assert await door.balance_nano(payer.account_id) == CREDIT_NANO - spent
    door.errors.clear()  # the outage is logged, once


@pytest.mark.parametrize("outage", [full_disk, locked_database])
async def test_in_an_outage_new_requests_are_refused_and_streams_end_whole_and_are_billed_later(
    door: Door, backend: ReplayingBackend, outage: Callable[[Door], Any]
) -> None:
    door.gateway.ledger._wait_limit.limit_s = 0.05
    goes_on = asyncio.Event()
    streaming = [spoken for spoken in SPOKEN if spoken.has_streams]
    parts = {one.upstream: in_two(one.stream(9, 2)[:-2], goes_on, one.stream(9, 2)[-2:]) for one in streaming}
    backend.standing = lambda asked: parts[asked.path](asked)
    payers = [await staged(door, backend) for _ in streaming]
    asking = [asyncio.create_task(payer.ask(one, is_stream=True)) for payer, one in zip(payers, streaming, strict=True)]
    await backend.chats_asked(len(asking))
    await eventually(lambda: all(map(has_begun, door.gateway.inference.running)))
    ended = await door.gateway.ledger.hold("req_ended", await door.account("1"), 1, 1)
    async with outage(door):
        with pytest.raises(SettlementPending):  # by which the outage is known: a hold writes nothing
            await door.gateway.ledger.settle(ended, 1, None)
        await eventually(lambda: not door.gateway.ledger.is_writable)
        for spoken in SPOKEN:
            refused = await payers[0].ask(spoken)
            assert spoken.refusal_of(refused) == spoken.word_for("ledger_unavailable")
            assert "retry-after" in refused.headers or isinstance(spoken, ChatTool)
        goes_on.set()
        streams = [answer.content for answer in await asyncio.gather(*asking)]
        assert len(backend.chats) == len(asking), "a refused request reached the backend"
    note = f": the bill of {format_usd(cost_nano(9, 2))} USD is written as soon as it can be\n\n".encode()
    for spoken, payer, stream, answer in zip(streaming, payers, streams, asking, strict=True):
        assert not any(map(spoken.failure_in, spoken.events(stream)))
        assert spoken.told(answer.result(), is_stream=True)[1] == format_usd(cost_nano(9, 2))
        assert stream.removesuffix(spoken.surface.done).endswith(note)
        balance = await becomes(partial(door.gateway.ledger.balance, payer.account_id), lambda one: not one.held_nano)
        assert balance == Balance(CREDIT_NANO - cost_nano(9, 2))
    door.gateway.ledger._wait_limit.limit_s = 30
    backend.standing = as_asked(9, 2)
    assert (await payers[0].ask()).status_code == 200
    assert await door.balance_nano(payers[0].account_id) == CREDIT_NANO - 2 * cost_nano(9, 2)
    door.errors.clear()  # the outage is logged, once


@every_surface
async def test_an_outage_that_nobody_has_noticed_costs_the_first_answer_and_the_next_request_is_refused_unasked(
    door: Door, backend: ReplayingBackend, spoken: Spoken
) -> None:
    door.gateway.ledger._wait_limit.limit_s = 0.05
    backend.standing = as_asked(9, 2)
    payer = await staged(door, backend)
    async with locked_database(door):
        told = [await payer.ask(spoken)]
        await eventually(lambda: not door.gateway.ledger.is_writable)
        asked = 0 if door.is_replica else 1  # which draws before it asks, and so is the first to notice
        assert len(backend.chats) == asked
        told += [await payer.ask(spoken) for _ in range(2)]
        assert len(backend.chats) == asked
        # what PostgreSQL may have committed is held until it is known; SQLite's writer always knows
        assert door.gateway.ledger.held_now().requests == (0 if door.is_on_sqlite else asked)
    assert [spoken.refusal_of(answer) for answer in told] == [spoken.word_for("ledger_unavailable")] * 3
    await eventually(lambda: door.gateway.ledger.is_writable)
    assert [(record["http_status"], record["cost_nano"]) for record in await payer.records()] == [(503, 0)] * 3
    assert await door.balance_nano(payer.account_id) == CREDIT_NANO
    door.errors.clear()  # the outage is logged, once


def has_begun(exchange: Exchange) -> bool:
    return exchange._answer is not None and exchange._answer.reader is not None


def as_asked(prompt_tokens: int, output_tokens: int) -> Answer:
    """An answer of whichever surface it is that was asked for."""
    whole = {one.upstream: answers(one, prompt_tokens, output_tokens) for one in SPOKEN}
    return lambda asked: whole[asked.path](asked)


@pytest.mark.usefixtures("of_sqlite")
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
        entries = "SELECT SUM(paid_nano), SUM(granted_nano), SUM(held_nano) FROM ledger_transactions"
        wallets = "SELECT SUM(paid_nano), SUM(granted_nano), 0 FROM wallets"
        assert connection.execute(wallets).fetchone() == connection.execute(entries).fetchone()
    with pytest.raises(FileExistsError):
        back_up(tmp_path / DATABASE, copy)
    with pytest.raises(FileNotFoundError):
        back_up(tmp_path / "nothing", tmp_path / "other")
