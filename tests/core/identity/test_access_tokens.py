"""What signs people's tokens: replaced before it is old, and known for as long as something it signed is good."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import DatabaseError, Read
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.access_tokens import AccessTokens, AllSigningKeys, SigningKey
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock

LIFETIME_MS = 900_000


def tokens_of(store: Store, clock: Callable[[], int]) -> AccessTokens:
    return AccessTokens(store, issuer="https://gateway.test", lifetime_ms=LIFETIME_MS, new_id=new_id, now_ms=clock)


@pytest.fixture
def tokens(store: Store, clock: MsClock) -> AccessTokens:
    return tokens_of(store, clock)


async def signing_keys(store: Store) -> list[SigningKey]:
    return await store.read(AllSigningKeys())


async def code_of(tokens: AccessTokens, token: str) -> str:
    with pytest.raises(GatewayError) as refused:
        await tokens.read(token)
    return refused.value.code


async def test_a_token_is_read_until_it_expires_by_whoever_knows_the_database(
    store: Store, tokens: AccessTokens, clock: MsClock
) -> None:
    token = await tokens.make("usr_1", "ses_1", "read")
    for reader in (tokens, tokens_of(store, clock)):
        assert (await reader.read(token))[:2] == ("usr_1", "ses_1")
    clock.now_ms += LIFETIME_MS - 1000
    await tokens.read(token)
    clock.now_ms += 1000
    assert await code_of(tokens, token) == "expired_session"


async def test_keys_rotate_each_week_and_no_token_dies_of_it(
    store: Store, tokens: AccessTokens, clock: MsClock
) -> None:
    """By the hour, for six weeks: a key is known for a day before it signs, and gone once nothing of it is good."""
    began_ms = clock.now_ms
    known: dict[str, int] = {}
    previous = await tokens.make("usr_1", "ses_1", "read")
    other = tokens_of(store, clock)
    for _ in range(6 * 7 * 24):
        clock.now_ms += LIFETIME_MS - 1000
        await tokens.read(previous)
        await other.read(previous)
        clock.now_ms += 3_600_000 - LIFETIME_MS + 1000
        previous = await tokens.make("usr_1", "ses_1", "read")
        keys = await signing_keys(store)
        for key in keys:
            known.setdefault(key.id, clock.now_ms)
        assert len(keys) <= 3
    later = [key for key in await signing_keys(store) if key.active_from_ms > began_ms]
    assert later
    assert all(key.active_from_ms - known[key.id] >= DAY_MS - 3_600_000 for key in later)
    assert len(known) == 7


async def test_after_a_long_rest_a_new_key_signs_at_once(store: Store, tokens: AccessTokens, clock: MsClock) -> None:
    old = await tokens.make("usr_1", "ses_1", "read")
    clock.now_ms += 30 * DAY_MS
    new = await tokens.make("usr_1", "ses_1", "read")
    await tokens.read(new)
    assert await code_of(tokens, old) == "invalid_api_key"
    assert len(await signing_keys(store)) == 1


async def test_two_servers_that_begin_at_once_agree_on_what_signs(store: Store, clock: MsClock) -> None:
    one, other = tokens_of(store, clock), tokens_of(store, clock)
    first, second = await one.make("usr_1", "ses_1", "read"), await other.make("usr_2", "ses_2", "read")
    assert (await one.read(second)).user_id == "usr_2"
    assert (await other.read(first)).user_id == "usr_1"
    assert len(await signing_keys(store)) == 1


async def test_a_clock_that_is_set_back_stops_nobody_from_signing_in(tokens: AccessTokens, clock: MsClock) -> None:
    await tokens.make("usr_1", "ses_1", "read")
    clock.now_ms -= DAY_MS
    assert (await tokens.read(await tokens.make("usr_1", "ses_1", "read"))).user_id == "usr_1"


async def test_a_flood_of_tokens_with_unknown_keys_has_the_keys_read_once_in_ten_seconds(
    store: Store, tokens: AccessTokens, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = AccessTokens(store, issuer="https://gateway.test", lifetime_ms=LIFETIME_MS, new_id=new_id, now_ms=clock)
    foreign._keys = {"sgn_x": SigningKey("sgn_x", b"x" * 32, 0, clock.now_ms + 3 * DAY_MS)}
    token = await foreign.make("usr_1", "ses_1", "read")
    reads: list[object] = []
    read = store.read

    async def counted(question: Read[object]) -> object:
        reads.append(question)
        return await read(question)

    monkeypatch.setattr(store, "read", counted)
    for _ in range(200):
        assert await code_of(tokens, token) == "invalid_api_key"
    assert len(reads) == 1
    clock.now_ms += 10_000
    assert await code_of(tokens, token) == "invalid_api_key"
    assert len(reads) == 2


class SlowReads:
    """A store's reads, which wait until they are let through, or fail then; how many began."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read = store.read
        self.go = asyncio.Event()
        self.fails = False
        self.count = 0
        monkeypatch.setattr(store, "read", self._slow)

    async def _slow(self, question: Read[object]) -> object:
        self.count += 1
        await self.go.wait()
        if self.fails:
            raise DatabaseError("no disk")
        return await self._read(question)


async def begun(*coroutines: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(one) for one in coroutines]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_after_a_restart_tokens_that_come_at_once_wait_for_one_read_of_the_keys(
    store: Store, tokens: AccessTokens, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await tokens.make("usr_1", "ses_1", "read")
    restarted = tokens_of(store, clock)
    reads = SlowReads(store, monkeypatch)
    first, *others = await begun(*(restarted.read(token) for _ in range(20)))
    first.cancel()  # its client has left
    late = await begun(restarted.read(token))
    reads.go.set()
    claims = await asyncio.gather(*others, *late)
    assert {claim.user_id for claim in claims} == {"usr_1"}
    assert reads.count == 1


async def test_a_read_of_the_keys_that_fails_is_503_for_all_who_waited_and_is_tried_again_at_once(
    store: Store, tokens: AccessTokens, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await tokens.make("usr_1", "ses_1", "read")
    restarted = tokens_of(store, clock)
    reads = SlowReads(store, monkeypatch)
    reads.fails = True
    waiting = await begun(*(code_of(restarted, token) for _ in range(5)))
    reads.go.set()
    assert await asyncio.gather(*waiting) == ["ledger_unavailable"] * 5
    assert await code_of(restarted, token) == "ledger_unavailable"
    reads.fails = False
    assert (await restarted.read(token)).user_id == "usr_1"
    assert reads.count == 3


async def test_a_read_of_the_keys_that_began_before_one_was_made_does_not_forget_it(
    store: Store, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = AccessTokens(store, issuer="https://gateway.test", lifetime_ms=LIFETIME_MS, new_id=new_id, now_ms=clock)
    other._keys = {"sgn_x": SigningKey("sgn_x", b"x" * 32, 0, clock.now_ms + 3 * DAY_MS)}
    foreign = await other.make("usr_1", "ses_1", "read")
    tokens, read, has_read, go = tokens_of(store, clock), store.read, asyncio.Event(), asyncio.Event()

    async def told_late(question: Read[object]) -> object:
        found = await read(question)
        has_read.set()
        await go.wait()
        return found

    monkeypatch.setattr(store, "read", told_late)
    refused = asyncio.create_task(code_of(tokens, foreign))
    await has_read.wait()
    monkeypatch.setattr(store, "read", read)
    token = await tokens.make("usr_1", "ses_1", "read")
    go.set()
    assert await refused == "invalid_api_key"
    assert (await tokens.read(token)).user_id == "usr_1"
