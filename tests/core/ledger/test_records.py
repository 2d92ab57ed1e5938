"""The records of requests: written once, counted by day."""

from pathlib import Path

from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.observe.records import Records
from mcp_gateway.core.store.sqlite.store import Store
from tests.core.ledger.test_ledger import record
from tests.databases import Query, open_store

DAY_MS = 24 * 3600 * 1000


GUESTS = "acc_guest"
"""The account that every database has."""


def request_id(at_ms: int, number: int) -> str:
    return f"{first_id_at('req', at_ms)}{number:020x}"


async def test_the_requests_of_each_key_and_of_each_account_s_keys_since_midnight_are_counted(store: Store) -> None:
    records = Records(store)
    midnight_ms = 20_000 * DAY_MS
    made = [(midnight_ms - 1, "key_a"), (midnight_ms, "key_a"), (midnight_ms + 5, "key_a"), (midnight_ms + 7, "key_b")]
    for number, (at_ms, key_id) in enumerate([*made, (midnight_ms + 8, None)]):
        records.add(record(request_id(at_ms, number), GUESTS, key_id=key_id)._replace(started_at_ms=at_ms))
    await store.flushed()
    assert await records.requests_today(midnight_ms) == {"key_a": 2, "key_b": 1, GUESTS: 3}


async def test_a_record_added_before_closing_is_there_after_a_restart(store: Store, database: Path) -> None:
    Records(store).add(record(request_id(DAY_MS, 1), GUESTS, key_id="key_a"))
    await store.close()
    reopened = await open_store(database)
    assert await Records(reopened).requests_today(0) == {"key_a": 1, GUESTS: 1}
    await reopened.close()


async def test_a_request_is_recorded_once(store: Store) -> None:
    for cost_nano in (1, 2):
        Records(store).add(record("req_1", GUESTS, cost_nano=cost_nano))
    await store.flushed()
    assert await store.read(Query("SELECT id, cost_nano FROM requests")) == [("req_1", 1)]
