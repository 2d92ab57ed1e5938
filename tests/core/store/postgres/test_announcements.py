"""What a commit announces: heard by the other servers of the database, never by its own, and by none if it is not."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import pytest

from mcp_gateway.core.engine import Announcement, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.access_tokens import AccessTokens, SigningKey
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import KeysPerAccount
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store import announcements
from mcp_gateway.core.store.postgres import hearing
from mcp_gateway.core.store.postgres.announcing import CHANNEL, as_text, said_in
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.hearing import Hearing
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.store.transaction import Executors, Transaction
from tests.clocks import MsClock
from tests.patience import eventually, settled
from tests.postgres_server import Outside
from tests.postgres_stores import lent_database

pytestmark = pytest.mark.engines


@dataclass(frozen=True, slots=True)
class Moved(Announcement):
    word: ClassVar[str] = "moved"
    account_id: str
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Move(Write[None]):
    """Announces, once each, and then may be refused."""

    facts: tuple[Moved, ...]
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class TryMove(Write[None]):
    """Goes on where a part is refused."""

    part: Move


def _move(transaction: Transaction, write: Move) -> None:
    for fact in write.facts:
        transaction.announce(fact)
    if write.is_refused:
        raise GatewayError("conflict", "No.")


def _try(transaction: Transaction, write: TryMove) -> None:
    try:
        transaction.run(write.part)
    except GatewayError:
        transaction.announce(Moved("went on"))


MOVING = Executors(alone={Move: _move, TryMove: _try})


class WatchedSession(WriterSession):
    """One that sees in which transactions others are notified, and may lose the answers to commits."""

    def __init__(self, url: str, *, is_server: bool) -> None:
        super().__init__(url, is_server=is_server)
        self.notified: list[str] = []
        self.failures = 0
        self.lost = 0

    def notify(self, channel: str, text: str) -> None:
        assert not self.link.in_transaction
        if self.failures:
            self.failures -= 1
            raise ConnectionResetError("lost")
        self.notified.append(text)
        super().notify(channel, text)

    def commit(self) -> None:
        super().commit()
        if self.lost:
            self.lost -= 1
            raise ConnectionResetError("lost")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with lent_database() as lent:
        yield lent


@pytest.fixture(autouse=True)
def moved_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(announcements.KINDS, Moved.word, Moved)


async def opened(session: WriterSession, url: str) -> PostgresStore:
    return await PostgresStore.open(url, EXECUTORS | MOVING, session=session, now_ms=now_ms)


@pytest.fixture
async def listener(url: str) -> AsyncIterator[PostgresStore]:
    """Which listens, once it does."""
    store = await opened(WriterSession(url, is_server=True), url)
    await eventually(lambda: store.hears_others)
    yield store
    await store.close()


@pytest.fixture
def session(url: str) -> WatchedSession:
    """Of the other."""
    return WatchedSession(url, is_server=False)


@pytest.fixture
async def other(session: WatchedSession, url: str) -> AsyncIterator[PostgresStore]:
    store = await opened(session, url)
    yield store
    await store.close()


@pytest.fixture
def heard(listener: PostgresStore) -> list[Moved]:
    facts: list[Moved] = []
    listener.listen(Moved, facts.append)
    return facts


async def test_others_hear_of_each_once(other: PostgresStore, heard: list[Moved], session: WatchedSession) -> None:
    await asyncio.gather(
        other.write(Move((Moved("a"), Moved("b", 7), Moved("a")))), other.write(Move((Moved("a"), Moved("c"))))
    )
    assert len(session.notified) == 1
    await eventually(lambda: heard == [Moved("a"), Moved("b", 7), Moved("c")])


async def test_nobody_hears_of_what_he_does_himself(
    listener: PostgresStore, other: PostgresStore, heard: list[Moved]
) -> None:
    await listener.write(Move((Moved("own"),)))
    await other.write(Move((Moved("another's"),)))
    await eventually(lambda: heard)
    assert heard == [Moved("another's")]


async def test_what_is_refused_is_not_heard_nor_is_a_part_that_is(other: PostgresStore, heard: list[Moved]) -> None:
    with pytest.raises(GatewayError):
        await other.write(Move((Moved("refused"),), is_refused=True))
    await other.write(TryMove(Move((Moved("part"),), is_refused=True)))
    await eventually(lambda: heard)
    assert heard == [Moved("went on")]


async def test_more_than_a_notification_holds_is_anything(
    listener: PostgresStore, other: PostgresStore, heard: list[Moved]
) -> None:
    unheard: list[None] = []
    listener.on_unheard(lambda: unheard.append(None))
    await other.write(Move(tuple(Moved(f"acc_{number}") for number in range(1000))))
    await eventually(lambda: unheard)
    assert (heard, len(unheard)) == ([], 1)


@pytest.mark.parametrize("text", ["", "no JSON", "7", '["by",[["of a later version","acc_1"]]]', '["by",[["moved"]]]'])
async def test_what_is_not_understood_is_anything(listener: PostgresStore, url: str, text: str) -> None:
    unheard: list[None] = []
    listener.on_unheard(lambda: unheard.append(None))
    with Outside(url) as outside:
        outside.rows("SELECT pg_notify(?, ?)", CHANNEL, text)
    await eventually(lambda: unheard)


async def test_who_was_cut_off_is_told_so_and_listens_again(
    listener: PostgresStore, other: PostgresStore, heard: list[Moved], url: str
) -> None:
    unheard: list[None] = []
    listener.on_unheard(lambda: unheard.append(None))
    with Outside(url) as outside:
        outside.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mcp-gateway, listening'"
            " AND datname = current_database()"
        )
    await eventually(lambda: unheard)
    await other.write(Move((Moved("a"),)))
    await eventually(lambda: heard == [Moved("a")])


async def test_one_that_is_away_is_looked_for_again_and_one_that_is_there_is_asked(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hearing, "_ASKED_EVERY_S", 0.0)
    unheard = asyncio.Event()
    listening = Hearing(f"postgresql://nobody@/none?host={tmp_path}", "own", lambda _: None, unheard.set)
    watching = asyncio.create_task(listening.watch())
    await eventually(lambda: "is heard later" in caplog.text)
    assert not listening.is_up
    listening._url = url
    await unheard.wait()
    await settled()
    assert listening.is_up
    watching.cancel()
    await asyncio.wait([watching])
    assert not listening.is_up


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(3600, "3600 s ahead"), (-3600, "3600 s behind"), (0, None)], ids=["ahead", "behind", "right"]
)
async def test_a_clock_that_is_far_from_the_database_s_is_told(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, ahead_s: float, said: str | None
) -> None:
    monkeypatch.setattr(hearing, "_ASKED_EVERY_S", 0.0)
    looks = count()

    def wall_s() -> float:
        next(looks)
        return time.time() + ahead_s

    listening = Hearing(url, "own", lambda _: None, lambda: None, wall_s=wall_s)
    watching = asyncio.create_task(listening.watch())
    await eventually(lambda: next(looks) > 20)
    lines = [line for line in caplog.messages if "this machine's clock" in line]
    assert len(lines) == (said is not None)
    assert all(str(said) in line.replace("3599", "3600") for line in lines)
    watching.cancel()
    await asyncio.wait([watching])


async def test_a_notification_that_fails_goes_with_the_next(
    other: PostgresStore, heard: list[Moved], session: WatchedSession
) -> None:
    session.failures = 1
    await other.write(Move((Moved("a"),)))
    await other.write(Move((Moved("b"),)))
    await eventually(lambda: heard == [Moved("a"), Moved("b")])


async def test_it_is_said_once_it_is_known_that_it_is_committed(
    other: PostgresStore, heard: list[Moved], session: WatchedSession
) -> None:
    session.lost = 1
    await other.write(Move((Moved("a"),)), in_outage="wait")
    await eventually(lambda: heard == [Moved("a")])
    assert len(session.notified) == 1


async def test_no_transaction_of_the_ledger_notifies_also_where_keys_change_beside_it(
    other: PostgresStore, session: WatchedSession
) -> None:
    """It would hold up all commits of all servers; the session asserts that there is none when it notifies."""
    accounts = Accounts(other, new_id=new_id, now_ms=now_ms)
    account = (await accounts.create("Ann")).id
    before = len(session.notified)
    ledger = Ledger(other)
    await asyncio.gather(
        accounts.change(account, is_active=False), ledger.credit(account, 5_000_000_000, new_id("cli"))
    )
    assert len(session.notified) == before + 1
    hold = await ledger.hold("req_1", account, 1, 1_000_000)
    assert await ledger.settle(hold, 1_000, None) == 1_000
    assert len(session.notified) == before + 1


async def test_a_key_that_is_revoked_elsewhere_is_refused_here_at_once(
    listener: PostgresStore, other: PostgresStore
) -> None:
    """Not in half a second, when it is looked at whether anything has changed: the clock here does not get there."""

    def ring(store: PostgresStore) -> KeyRing:
        return KeyRing(store, new_id=new_id, now_ms=now_ms, most=KeysPerAccount(live=9, a_day=9))

    account = (await Accounts(other, new_id=new_id, now_ms=now_ms).create("Ann")).id
    known = KnownKeys(ring(listener), now_ms=now_ms)
    await known.begin()
    closed: list[str] = []
    known.on_close(lambda key_id, _: closed.append(key_id))
    watching = asyncio.create_task(known.watch())
    key, raw = await ring(other).create(account)
    assert await known.look_up(raw) == key
    await ring(other).revoke(key.id)
    await eventually(lambda: closed == [key.id])
    with pytest.raises(GatewayError) as caught:
        known.recall(raw)
    assert caught.value.code == "revoked_api_key"
    watching.cancel()


async def test_what_another_signs_with_is_known_here_at_once(listener: PostgresStore, other: PostgresStore) -> None:
    """Also where keys were read just before, for a token of nobody's."""
    clock = MsClock()
    foreign, there, here = (
        AccessTokens(store, issuer="https://gateway.test", lifetime_ms=900_000, new_id=new_id, now_ms=clock)
        for store in (other, other, listener)
    )
    foreign._keys = {"sgn_0": SigningKey("sgn_0", 32 * b"x", 0, 2**62)}
    with pytest.raises(GatewayError):
        await here.read(await foreign.make("usr_1", "ses_1", "read"))
    token = await there.make("usr_1", "ses_1", "read")
    await eventually(lambda: here._read_at_ms < 0)
    assert (await here.read(token)).user_id == "usr_1"


def all_kinds() -> list[type[Announcement]]:
    return [kind for kind in Announcement.__subclasses__() if kind.__module__.startswith("mcp_gateway.")]


def test_every_announcement_has_a_row() -> None:
    assert {word for word in announcements.KINDS if word != Moved.word} == {kind.word for kind in all_kinds()}


@pytest.mark.parametrize("kind", announcements.KINDS.values())
def test_each_comes_over_as_it_was_said(kind: type[Any]) -> None:
    """Ids alone, which no text of a person's is."""
    hints = get_type_hints(kind)
    values: dict[Any, object] = {str: "acc_1", int: 7, int | None: None}
    fact = kind(**{one.name: values[hints[one.name]] for one in fields(kind)})
    text = as_text("by", [fact])
    assert json.loads(text)[0] == "by"
    assert said_in(text) == ("by", [fact])
