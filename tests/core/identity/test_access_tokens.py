"""What signs people's tokens: replaced before it is old, and known for as long as something it signed is good."""

from collections.abc import Callable

import pytest

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Read
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
