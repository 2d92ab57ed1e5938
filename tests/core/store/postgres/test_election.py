"""Of several servers one does what falls due by the clock, at most, and another once that one is gone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from random import Random

import pytest

from mcp_gateway.core.ledger.closing import Closing
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.observe.retention import Retention
from mcp_gateway.core.store.postgres import hearing
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.session import ELECTED, WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.webhooks.deliveries import Deliveries, Headers
from mcp_gateway.core.webhooks.outbox import OPERATOR, Delivery, PutOffDelivery
from tests.clocks import MsClock
from tests.databases import FOR_TESTS, Query, changing
from tests.loop_clock import pass_time
from tests.patience import eventually, settled
from tests.postgres_server import Outside

pytestmark = pytest.mark.engines

_LISTENERS = "FROM pg_stat_activity WHERE application_name = 'mcp-gateway, listening' AND datname = current_database()"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask for the lock all the time."""
    monkeypatch.setattr(hearing, "_ASKED_EVERY_S", 0.0)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask once."""
    monkeypatch.setattr(hearing, "_ASKED_EVERY_S", 3600.0)


async def opened(lent_url: str, clock: MsClock, *, is_shared: bool = True) -> PostgresStore:
    session = WriterSession(lent_url, is_server=True, is_shared=is_shared)
    return await PostgresStore.open(lent_url, FOR_TESTS | EXECUTORS, session=session, now_ms=clock)


@pytest.fixture
async def both(lent_url: str, clock: MsClock) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    """The first of which is elected."""
    one = await opened(lent_url, clock)
    await eventually(lambda: one.is_elected)
    two = await opened(lent_url, clock)
    await eventually(lambda: two._hearing._is_successor)
    yield one, two
    for store in (one, two):
        await store.close()


async def test_one_that_is_alone_is_elected_whatever_else_there_is(lent_url: str, clock: MsClock) -> None:
    store = await opened(lent_url, clock, is_shared=False)
    assert store.is_elected
    await store.close()


@pytest.mark.usefixtures("quick")
async def test_of_two_one_is_elected_and_the_other_once_that_one_has_ended(
    both: tuple[PostgresStore, PostgresStore],
) -> None:
    one, two = both
    for _ in range(20):
        await settled()
        assert (one.is_elected, two.is_elected) == (True, False)
    await one.close()
    assert not one.is_elected
    await eventually(lambda: two.is_elected)


@pytest.mark.usefixtures("quick")
async def test_whose_session_is_ended_is_elected_no_more_and_never_are_two(
    both: tuple[PostgresStore, PostgresStore], lent_url: str
) -> None:
    with Outside(lent_url) as outside:
        for _ in range(5):
            outside.rows(f"SELECT pg_terminate_backend(pid) {_LISTENERS}")
            await eventually(lambda: not any(store.is_elected for store in both))
            await eventually(lambda: any(store.is_elected for store in both))
            assert [store.is_elected for store in both].count(True) == 1


async def test_a_successor_waits_until_what_was_begun_before_it_has_had_time_to_end(
    both: tuple[PostgresStore, PostgresStore], lent_url: str
) -> None:
    one, two = both
    await one.close()
    held = f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {ELECTED} AND granted"
    with Outside(lent_url) as outside:
        await eventually(lambda: not outside.rows(held))
        pass_time(hearing._ASKED_EVERY_S)
        await eventually(lambda: outside.rows(held))
    await settled()
    assert not two.is_elected
    pass_time(hearing._ASKED_EVERY_S)
    await eventually(lambda: two.is_elected)


def test_the_database_is_patient_for_longer_than_a_server_is_sure_and_that_for_longer_than_a_question_takes() -> None:
    assert hearing._ASKED_EVERY_S + hearing._ANSWER_S < hearing._SURE_S < hearing._SILENT_S


@pytest.mark.usefixtures("silent")
async def test_one_that_was_frozen_knows_by_its_clock_that_another_may_be_elected(
    lent_url: str, clock: MsClock
) -> None:
    """Its session is ended for its silence, and it has not heard of that as it wakes."""
    store = await opened(lent_url, clock)
    await eventually(lambda: store.is_elected)
    pass_time(hearing._SURE_S)
    assert not store.is_elected
    await store.close()


@pytest.mark.usefixtures("silent")
async def test_the_database_ends_the_session_of_one_that_asks_for_nothing(
    monkeypatch: pytest.MonkeyPatch, lent_url: str, clock: MsClock
) -> None:
    assert hearing._SETTINGS["idle_session_timeout"] == f"{hearing._SILENT_S}s"
    monkeypatch.setitem(hearing._SETTINGS, "idle_session_timeout", "50ms")
    store = await opened(lent_url, clock)
    await eventually(lambda: store.is_elected)
    await eventually(lambda: not store.is_elected)
    await store.close()


# What goes by it


class Receiver:
    """Answers none but with `status`."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.status = 200

    async def __call__(self, delivery: Delivery, _: Headers, __: bytes) -> int:
        self.sent.append(delivery.event_id)
        return self.status

    def beside(self, store: PostgresStore) -> Deliveries:
        return Deliveries(
            store, self, operator_secrets=[], now_ms=store.now_ms, random=Random(1), count=lambda *_: None
        )


async def add_events(store: PostgresStore, events: Sequence[str]) -> None:
    await store.write(changing("INSERT INTO webhooks VALUES (?, 'https://op.example/', 0)", (OPERATOR,)))
    for event in events:
        await store.write(changing("INSERT INTO webhook_outbox VALUES (?, ?, '{}', 0, 0)", (OPERATOR, event)))


async def is_sent(deliveries: Deliveries) -> None:
    await deliveries.work._look_once()
    await eventually(lambda: not deliveries.work.tasks)


async def test_nothing_falls_due_at_one_that_is_not_elected(
    both: tuple[PostgresStore, PostgresStore], monkeypatch: pytest.MonkeyPatch, clock: MsClock
) -> None:
    _, store = both
    asked: list[object] = []

    async def is_idle() -> None:
        """As it tells others that it lives, which is no work."""

    monkeypatch.setattr(store, "flushed", is_idle)
    monkeypatch.setattr(store, "read", lambda read: asked.append(read))
    monkeypatch.setattr(store, "write", lambda write, **_: asked.append(write))
    ledger = Ledger(store)
    deliveries = Receiver().beside(store)
    watches = (
        ledger.watch_grants,
        Leases(store, ledger).watch,
        Closing(store, clock).watch,
        Retention(store, clock, requests_keep_days=1).watch,
        deliveries.watch,
    )
    loops = [asyncio.ensure_future(watch()) for watch in watches]
    for _ in range(2):
        await settled()
        pass_time(120.0)
    await settled()
    assert (asked, [loop.done() for loop in loops]) == ([], [False] * len(loops))
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)


@pytest.mark.usefixtures("quick")
async def test_an_event_is_sent_once_by_whoever_is_elected(both: tuple[PostgresStore, PostgresStore]) -> None:
    one, two = both
    receiver, other = Receiver(), Receiver()
    await add_events(one, ["evt_1", "evt_2"])
    first, second = receiver.beside(one), other.beside(two)
    await is_sent(second)
    await is_sent(first)
    assert (receiver.sent, other.sent) == (["evt_1"], [])
    await one.close()
    await eventually(lambda: two.is_elected)
    await is_sent(second)
    assert (receiver.sent, other.sent) == (["evt_1"], ["evt_2"])


@pytest.mark.usefixtures("silent")
async def test_one_that_is_elected_no_more_begins_nothing_of_what_it_has_read(
    both: tuple[PostgresStore, PostgresStore],
) -> None:
    one, _ = both
    receiver = Receiver()
    await add_events(one, ["evt_1"])
    deliveries = receiver.beside(one)
    pass_time(hearing._SURE_S)
    await deliveries.start_due()
    assert (receiver.sent, deliveries.work.tasks) == ([], {})


async def test_a_try_that_another_has_followed_is_not_noted(both: tuple[PostgresStore, PostgresStore]) -> None:
    """Of one that was frozen in its midst."""
    one, two = both
    await add_events(one, ["evt_1"])
    put_off = partial(PutOffDelivery, OPERATOR, "evt_1", 0)
    await two.write(put_off(7))
    await one.write(put_off(3))
    rows = await one.read(Query("SELECT tries, due_at_ms FROM webhook_outbox"))
    assert [tuple(row) for row in rows] == [(1, 7)]
