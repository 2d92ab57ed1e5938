"""What runs for a key that is revoked or expires, or whose account is switched off, through both doors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity import known_keys
from tests.doors.mcp_host import PATHS
from tests.patience import eventually
from tests.replaying import ReplayingBackend, chunk, contents, in_two, silence
from tests.serving import FREE, Door, bearer, chat_body, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
Served = tuple[Door, ReplayingBackend]
End = Callable[[Door, str, str], Awaitable[None]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """Where a key is forgotten as soon as another is shown, unless something goes on for it."""
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("revocation"), vllm_urls=[backend.url], models=[FREE]) as door,
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(known_keys, "_MOST_KNOWN", 0)
            yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served) -> AsyncIterator[Served]:
    door, backend = _served
    backend.answer_with()
    yield door, backend
    await door.nothing_is_left()
    assert door.gateway.inference.running == set()


async def revoke(door: Door, account_id: str, key_id: str) -> None:
    """By another key of the account."""
    owner = await door.key(account_id)
    assert (await door.http.delete(f"/v1/keys/{key_id}", headers=bearer(owner))).status_code == 200


async def show_others(door: Door) -> None:
    """Keys in whose place all are forgotten for which nothing goes on."""
    for _ in range(2):
        shown = await door.http.get("/v1/models", headers=bearer(await door.key(await door.account())))
        assert shown.status_code == 200
    assert len(door.gateway.known_keys) <= 3


async def deactivate(door: Door, account_id: str, key_id: str) -> None:
    await (await door.desk()).accounts.change(account_id, is_active=False)
    await door.gateway.known_keys.catch_up()


async def expire(door: Door, account_id: str, key_id: str) -> None:
    """Let the time come that no key but this one has."""
    known = door.gateway.known_keys
    clock, known._now_ms = known._now_ms, lambda: EXPIRES_AT_MS
    known.end_expired()
    known._now_ms = clock


EXPIRES_AT_MS = 4_000_000_000_000
ENDS = [(revoke, 401, "revoked_api_key"), (deactivate, 403, "account_deactivated"), (expire, 401, "expired_api_key")]
ended_by = pytest.mark.parametrize(("end", "status", "code"), ENDS, ids=[code for _, _, code in ENDS])


async def new_key(door: Door) -> tuple[str, str, str]:
    account_id = await door.account()
    key, raw = await door.gateway.keys.create(account_id, expires_at_ms=EXPIRES_AT_MS)
    return account_id, key.id, raw


@ended_by
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_that_is_not_delivered_is_void_and_refused(
    served: Served, end: End, status: int, code: str, is_stream: bool
) -> None:
    door, backend = served
    account_id, key_id, raw = await new_key(door)
    backend.answer_with(silence)
    asking = asyncio.ensure_future(door.chat(raw, stream=is_stream))
    (asked,) = await backend.chats_asked(1)
    await show_others(door)
    await end(door, account_id, key_id)
    response = await asking
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    await asked.gone()
    record = await door.record(response)
    assert (record["http_status"], record["error_code"], record["prompt_tokens"]) == (status, code, 0)


@ended_by
async def test_a_stream_ends_with_an_error_frame(served: Served, end: End, status: int, code: str) -> None:
    door, backend = served
    account_id, key_id, raw = await new_key(door)
    backend.answer_with(in_two([chunk("", 9, 0), chunk("a", 9, 1)], asyncio.Event(), []))
    body = chat_body(stream=True)
    async with door.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(raw)) as response:
        pieces = response.aiter_bytes()
        seen = b""
        while b'"content":"a"' not in seen:
            seen += await anext(pieces)
        await show_others(door)
        await end(door, account_id, key_id)
        rest = [piece async for piece in pieces]
    assert contents(rest)[-1]["error"]["code"] == code
    assert contents(rest)[-1]["choices"][0]["finish_reason"] == "error"
    assert b"".join(rest).endswith(b"data: [DONE]\n\n")
    record = await door.record(response)
    assert (record["http_status"], record["error_code"]) == (status, code)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (9, 1)


async def test_a_stream_of_the_demo_ends_with_its_next_token(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    door, _ = served
    account_id = await door.account()
    key, raw = await door.gateway.keys.create(account_id, is_test=True)
    sleeps, is_ended = 0, asyncio.Event()

    async def sleep(_: float) -> None:
        nonlocal sleeps
        sleeps += 1
        if sleeps > 3:
            await is_ended.wait()

    monkeypatch.setattr(door.gateway.pool.demo.origin, "_sleep", sleep)
    reading = asyncio.ensure_future(door.chat(raw, stream=True, stream_options={"include_usage": True}))
    await eventually(lambda: sleeps > 3)
    await show_others(door)
    await revoke(door, account_id, key.id)
    is_ended.set()
    response = await reading
    assert contents([response.content])[-1]["error"]["code"] == "revoked_api_key"


@ended_by
@pytest.mark.parametrize("meta", [{}, {"_meta": {"progressToken": 1}}], ids=["whole", "with progress"])
async def test_a_call_over_mcp_fails_with_the_same_code(
    served: Served, end: End, status: int, code: str, meta: dict[str, Any]
) -> None:
    door, backend = served
    account_id, key_id, raw = await new_key(door)
    backend.answer_with(silence)
    params = {"name": "chat_completion", "arguments": chat_body(), **meta}
    calling = asyncio.ensure_future(door.mcp("tools/call", raw, path=PATHS[0], **params))
    (asked,) = await backend.chats_asked(1)
    await show_others(door)
    await end(door, account_id, key_id)
    answer = (await calling).text
    result = orjson.loads(answer.rpartition("data: ")[2] if meta else answer)["result"]
    assert (result["isError"], result["structuredContent"]["code"]) == (True, code)
    await asked.gone()
    rows = await door.rows("SELECT http_status, error_code FROM requests WHERE account_id = ?", account_id)
    assert rows == [(status, code)]


@ended_by
async def test_a_session_over_mcp_ends_with_its_stream(served: Served, end: End, status: int, code: str) -> None:
    door, _ = served
    account_id, key_id, raw = await new_key(door)
    async with door.http.stream("GET", f"{PATHS[0]}/sse", headers=bearer(raw)) as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: endpoint"
        await show_others(door)
        await end(door, account_id, key_id)
        assert [line async for line in lines if line][1:] == []


@ended_by
async def test_a_request_whose_key_ended_is_refused_from_then_on(
    served: Served, end: End, status: int, code: str
) -> None:
    door, _ = served
    account_id, key_id, raw = await new_key(door)
    assert (await door.get("/v1/limits", raw)).status_code == 200
    await end(door, account_id, key_id)
    response = await door.get("/v1/limits", raw)
    assert (response.status_code, error_of(response)["code"]) == (status, code)


async def test_a_key_may_revoke_itself_and_is_told_that_it_was(served: Served) -> None:
    door, backend = served
    _, key_id, raw = await new_key(door)
    backend.answer_with(silence)
    asking = asyncio.ensure_future(door.chat(raw))
    await backend.chats_asked(1)
    revoked = await door.http.delete(f"/v1/keys/{key_id}", headers=bearer(raw))
    assert revoked.json()["revoked_at"] is not None
    assert error_of(await asking)["code"] == "revoked_api_key"
