"""What is remembered of an issuer's tokens, for how long, and what becomes of it where something changes meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mcp_gateway.core.caller import SCOPES
from mcp_gateway.core.engine import DatabaseError, Read
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.oidc import issued_tokens
from mcp_gateway.core.identity.oidc.arrivals import Arrivals
from mcp_gateway.core.identity.oidc.issued_tokens import IssuedTokens, is_issued_elsewhere
from mcp_gateway.core.identity.oidc.issuer import ACCESS_TOKEN_TYPES, Issuer
from mcp_gateway.core.identity.oidc.issuer_http import IssuerHttp
from mcp_gateway.core.identity.people import People
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.oidc_settings import OidcSettings
from mcp_gateway.core.store.sqlite.store import Store
from tests.cases import each
from tests.clocks import MsClock
from tests.fake_issuer import LIFETIME_S, FakeIssuer

OURS = "https://gateway.test/v1"


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeIssuer]:
    async with FakeIssuer().serving() as fake:
        yield fake


@pytest.fixture
def now() -> MsClock:
    clock = MsClock()
    clock.now_ms = int(time.time() * 1000)
    return clock


@pytest_asyncio.fixture
async def issuer(fake: FakeIssuer, now: MsClock) -> AsyncIterator[Issuer]:
    http = IssuerHttp()
    yield Issuer(fake.url, http, now_ms=now)
    await http.aclose()


@pytest.fixture
def tokens(store: Store, issuer: Issuer, now: MsClock) -> IssuedTokens:
    settings = OidcSettings(issuer=issuer.url, creates_users=True)
    arrivals = Arrivals(store, settings, new_id=new_id, now_ms=now)
    return IssuedTokens(issuer, arrivals, audiences=[OURS], types=ACCESS_TOKEN_TYPES, offered_scopes=SCOPES, now_ms=now)


async def test_a_token_is_remembered_until_it_is_over(fake: FakeIssuer, tokens: IssuedTokens, now: MsClock) -> None:
    token = fake.token(OURS)
    assert tokens.recall(token) is None
    holder = await tokens.look_up(token)
    assert tokens.recall(token) is holder
    now.now_ms += (LIFETIME_S + 62) * 1000
    assert tokens.recall(token) is None
    assert len(tokens) == 0
    with pytest.raises(GatewayError, match="expired_session"):
        await tokens.look_up(token)


async def test_as_many_are_remembered_as_there_is_room_for(
    fake: FakeIssuer, tokens: IssuedTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issued_tokens, "_MOST_KNOWN", 2)
    shown = [fake.token(OURS) for _ in range(3)]
    for token in shown:
        await tokens.look_up(token)
    assert [tokens.recall(token) is None for token in shown] == [True, False, False]


async def test_a_token_whose_key_was_withdrawn_is_forgotten(
    fake: FakeIssuer, issuer: Issuer, tokens: IssuedTokens
) -> None:
    old = fake.token(OURS)
    await tokens.look_up(old)
    first = fake.pair
    fake.rotate()
    await issuer.read()
    new = fake.token(OURS)
    await tokens.look_up(new)
    fake.withdraw(first)
    await issuer.read()
    assert (tokens.recall(old), tokens.recall(new) is None) == (None, False)


async def test_a_token_whose_key_is_withdrawn_while_it_is_looked_up_is_not_remembered(
    fake: FakeIssuer, issuer: Issuer, tokens: IssuedTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer, "stands_by", lambda key: False)
    await tokens.look_up(fake.token(OURS))
    assert len(tokens) == 0


async def test_what_changes_while_somebody_is_looked_up_is_not_missed(
    store: Store, fake: FakeIssuer, tokens: IssuedTokens, now: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user is switched off after they were read, and before their token is remembered."""
    user_id = (await tokens.look_up(fake.token(OURS))).user.user_id
    people = People(store, new_id=new_id, now_ms=now)
    read, changed = store.read, asyncio.Event()

    async def slowly(asked: Read[object]) -> object:
        found = await read(asked)
        if not changed.is_set():
            changed.set()
            await people.set_active(user_id, is_active=False)
            await tokens.catch_up({user_id})
        return found

    monkeypatch.setattr(store, "read", slowly)
    with pytest.raises(GatewayError, match="account_deactivated"):
        await tokens.look_up(fake.token(OURS))


async def test_a_change_is_told_once_for_each_token_and_what_is_gone_stays_so(
    store: Store, fake: FakeIssuer, tokens: IssuedTokens, now: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    tokens.on_end(lambda holder, error: ended.append(error.code))
    holders = [await tokens.look_up(fake.token(OURS)) for _ in range(2)]
    other = fake.token(OURS, sub="bea")
    await tokens.look_up(other)
    await tokens.catch_up({"usr_none"})
    user_id = holders[0].user.user_id
    await People(store, new_id=new_id, now_ms=now).delete(user_id)
    read = store.read

    async def meanwhile(asked: Read[object]) -> object:
        """The token that was to be read again is forgotten while that is done."""
        found = await read(asked)
        tokens._known.pop(next(iter(tokens._known)))
        return found

    monkeypatch.setattr(store, "read", meanwhile)
    await tokens.catch_up({user_id})
    assert ended == ["expired_session"]
    assert len(tokens) == 1
    assert tokens.recall(other) is not None


async def test_while_the_database_cannot_be_read_nobody_is_let_in(
    store: Store, fake: FakeIssuer, tokens: IssuedTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: Read[object]) -> object:
        raise DatabaseError("gone")

    monkeypatch.setattr(store, "read", fails)
    with pytest.raises(GatewayError, match="ledger_unavailable"):
        await tokens.look_up(fake.token(OURS))


async def test_of_a_token_only_scopes_of_the_role_count_and_only_those_offered_are_asked_for(
    fake: FakeIssuer, issuer: Issuer, tokens: IssuedTokens
) -> None:
    tokens._offered_scopes = frozenset({"inference", "read"})
    part = await tokens.look_up(fake.token(OURS, scope="read"))
    assert (part.scopes, part.scopes_to_ask_for, part.user.is_whole) == (
        frozenset({"read"}),
        frozenset({"inference"}),
        False,
    )
    whole = await tokens.look_up(fake.token(OURS, scope="openid"))
    assert (whole.scopes, whole.scopes_to_ask_for, whole.user.is_whole) == (frozenset(SCOPES), frozenset(), True)


@each("sub", ["a" * 256, "a\nb", "\u202eann"])
async def test_a_name_that_is_no_line_or_too_long_is_refused(fake: FakeIssuer, tokens: IssuedTokens, sub: str) -> None:
    with pytest.raises(GatewayError, match="invalid_api_key"):
        await tokens.look_up(fake.token(OURS, sub=sub))


async def test_tokens_of_an_issuer_are_told_from_ours_by_their_heads(fake: FakeIssuer) -> None:
    assert is_issued_elsewhere(fake.token(OURS))
    for other in ("eyJ", "eyJhbGciOiJIUzI1NiJ9.e30.AA"):
        assert not is_issued_elsewhere(other)
