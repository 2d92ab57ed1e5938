"""What is over goes, beside traffic and in small steps, and nothing else does; the space comes back."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from secrets import token_bytes

import pytest

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.engine import Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import KEPT_MS
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.observe import retention as retention_module
from mcp_gateway.core.observe.history import History, Totals
from mcp_gateway.core.observe.records import NoteFailedAttempt
from mcp_gateway.core.observe.retention import ForgetRequests, Retention, SpaceOf
from mcp_gateway.core.record import Attribution
from mcp_gateway.core.store.sqlite.backup import back_up
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.databases import Query, changing, explained, open_store
from tests.loop_clock import pass_time
from tests.patience import becomes, eventually, settled
from tests.recorded import recorded, write_records


def retention(store: Store, clock: MsClock, days: int = 400) -> Retention:
    return Retention(store, clock, requests_keep_days=days, rest_s=0)


async def ids(store: Store, table: str = "requests") -> list[str]:
    return [one for (one,) in await store.read(Query(f"SELECT id FROM {table} ORDER BY id"))]


async def test_a_request_goes_when_it_is_too_old_with_what_is_noted_of_it_and_its_sums_stay(
    store: Store, clock: MsClock, account: str
) -> None:
    attribution = Attribution("ann", ("red",))
    old = [
        recorded(clock.now_ms - age_ms, account_id=account, surface="score", attribution=attribution)
        for age_ms in (30 * DAY_MS, 3 * DAY_MS + HOUR_MS)
    ]
    kept = recorded(clock.now_ms - 3 * DAY_MS, account_id=account, surface="score", attribution=attribution)
    guest = recorded(clock.now_ms - 4 * DAY_MS, account_id="acc_guest", key_id=None)
    await write_records(store, *old, kept, guest)
    for one in (old[0], kept):
        await store.write(NoteFailedAttempt(account, one.id, 1, "vllm-1", "backend_failed"))
    assert await retention(store, clock, 3).tidy() == 3
    for table in ("requests", "attributed_requests", "failed_attempts"):
        assert await ids(store, table) == [kept.id]
    history = History(store)
    with pytest.raises(GatewayError, match="not_found"):
        await history.get(account, old[0].id)
    sums = await history.totals(account, 0, clock.now_ms, "surface")
    assert sums == {("score",): Totals(3, 30, 12, 0, 17_400)}
    assert await retention(store, clock, 3).tidy() == 0


async def test_a_further_round_that_began_later_than_its_request_stays_as_long_as_it_is_young(
    store: Store, clock: MsClock, account: str
) -> None:
    first = recorded(clock.now_ms - DAY_MS - 1, account_id=account)
    later = first._replace(id=f"{first.id}-2", started_at_ms=clock.now_ms - DAY_MS)
    await write_records(store, first, later)
    await retention(store, clock, 1).tidy()
    assert await ids(store) == [later.id]


async def test_records_stay_for_good_where_that_is_wanted(store: Store, clock: MsClock, account: str) -> None:
    await write_records(store, recorded(0, account_id=account))
    assert await retention(store, clock, 0).tidy() == 0
    assert len(await ids(store)) == 1


async def test_a_step_is_small_and_what_a_pass_did_not_come_to_the_next_finds(
    store: Store, clock: MsClock, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "_AT_ONCE", 3)
    monkeypatch.setattr(retention_module, "_LOOKED_UP", 7)
    await write_records(store, *(recorded(n, account_id=("acc_guest", account)[n % 2]) for n in range(40)))
    steps: list[int] = []
    write = store.write

    def watched(one: Write[object], **how: object) -> object:
        if isinstance(one, ForgetRequests):
            steps.append(len(one.places))
            if len(steps) == 4:
                raise GatewayError("ledger_unavailable", "not now")
        return write(one, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "write", watched)
    with pytest.raises(GatewayError):
        await retention(store, clock).tidy()
    assert len(await ids(store)) == 40 - 3 - 3 - 1
    assert await retention(store, clock).tidy() == 33
    assert max(steps) == 3


async def test_what_was_of_use_for_a_time_goes_a_day_after_it_was_over(
    store: Store, clock: MsClock, account: str
) -> None:
    assert KEPT_MS == DAY_MS  # an answer is over when the day is that it is kept for
    await store.write(
        changing(
            "INSERT INTO users (id, email, is_administrator, created_at_ms) VALUES ('usr_1', 'a@b.test', FALSE, 0)"
        )
    )
    await store.write(
        changing("INSERT INTO keys (id, account_id, sha256, prefix, name, is_test, created_at_ms) "
                 "VALUES ('key_1', ?, ?, 'sk', 'k', FALSE, 0)", (account, token_bytes(32)))
    )  # fmt: skip
    for age_ms in (DAY_MS + 1, DAY_MS, -1):
        over = clock.now_ms - age_ms
        for sql in (
            f"INSERT INTO idempotent_answers VALUES ('{account}', ?1, ?1, 200, '{{}}', {over})",
            f"INSERT INTO replaced_secrets VALUES (?1, 'key_1', {over})",
            "INSERT INTO one_time_secrets (sha256, purpose, expires_at_ms, role, is_administrator) "
            f"VALUES (?1, 'invitation', {over}, 'member', FALSE)",
            "INSERT INTO user_sessions (id, user_id, cookie_sha256, created_at_ms, seen_at_ms, expires_at_ms, agent, "
            f"network) VALUES ('ses_{age_ms}', 'usr_1', ?1, 0, 0, {over}, '', '')",
        ):
            await store.write(changing(sql, (token_bytes(32),)))
    await retention(store, clock, 0).tidy()
    for table in ("idempotent_answers", "replaced_secrets", "one_time_secrets", "user_sessions"):
        assert await store.read(Query(f"SELECT COUNT(*) FROM {table}")) == [(2,)]


@pytest.mark.usefixtures("of_sqlite")
async def test_old_requests_are_found_by_their_place_however_many_there_are(
    store: Store, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = explained(monkeypatch)
    await retention(store, clock).tidy()
    assert any("SEARCH requests USING PRIMARY KEY (account_number=? AND id<?)" in step for step in steps)
    assert not any("SCAN requests" in step or "TEMP B-TREE" in step for step in steps)


@pytest.mark.usefixtures("of_sqlite")
async def test_the_space_of_what_went_is_given_back_and_little_of_it_is_kept_for_what_comes(
    store: Store, clock: MsClock, account: str, ledger: Ledger, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "_WORTH_PAGES", 8)
    await ledger.credit(account, 5, "paid")
    await write_records(store, *(recorded(n, account_id=account, error_code="x" * 400) for n in range(2000)))
    full = await store.read(SpaceOf())
    await retention(store, clock).tidy()
    left = await store.read(SpaceOf())
    assert full.can_shrink
    assert full.pages > 200 + left.pages
    assert left.free_pages <= max(8, left.pages // 4)
    assert await ledger.check() == []
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.usefixtures("of_sqlite")
async def test_a_database_that_cannot_shrink_uses_its_space_again_and_its_copy_can(
    tmp_path: Path, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "_WORTH_PAGES", 8)
    path, copy = tmp_path / "old.sqlite3", tmp_path / "copy.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")  # made before databases could
    store = await open_store(path, now_ms=clock)
    await write_records(store, *(recorded(n, account_id="acc_guest", error_code="x" * 400) for n in range(500)))
    full = await store.read(SpaceOf())
    assert await retention(store, clock).tidy() == 500
    left = await store.read(SpaceOf())
    assert (left.pages, left.can_shrink) == (full.pages, False)
    await write_records(store, *(recorded(n, account_id="acc_guest", error_code="x" * 400) for n in range(500)))
    assert (await store.read(SpaceOf())).pages <= full.pages + 8
    await store.close()
    back_up(path, copy)
    copied = await open_store(copy, now_ms=clock)
    assert (await copied.read(SpaceOf())).can_shrink
    await copied.close()


async def test_the_loop_begins_a_while_after_the_start_and_comes_again(
    store: Store, clock: MsClock, account: str
) -> None:
    class Counted(Retention):
        rounds = 0

        async def tidy(self) -> int:
            forgotten = await super().tidy()
            self.rounds += 1
            return forgotten

    one = Counted(store, clock, requests_keep_days=1, rest_s=0)
    watching = asyncio.create_task(one.watch())
    await settled()
    for rounds, wait_s in enumerate((retention_module._FIRST_S, retention_module._INTERVAL_S), 1):
        await write_records(store, recorded(clock.now_ms - 2 * DAY_MS, account_id=account))
        await settled()
        assert len(await ids(store)) == 1
        pass_time(wait_s)
        await eventually(lambda rounds=rounds: one.rounds == rounds)  # type: ignore[misc]
        assert not await ids(store)
    watching.cancel()


async def test_a_rest_is_longer_than_the_step_before_it(store: Store, clock: MsClock, account: str) -> None:
    await write_records(store, recorded(0, account_id=account))
    tidying = asyncio.create_task(Retention(store, clock, requests_keep_days=1).tidy())
    await becomes(lambda: ids(store), lambda left: not left)
    assert not tidying.done()
    pass_time(60)
    assert await tidying == 1
