"""A database of the last release that had a row for each hold: what was held comes back, and what was charged stays."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_gateway
from mcp_gateway.core.ledger.checkpoint import verify_since_checkpoint
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.months import Earned, Month, Months
from mcp_gateway.core.ledger.pending import PENDING, PendingFile
from mcp_gateway.core.ledger.statement import Statement
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.database import DATABASE
from mcp_gateway.core.store.sqlite.restore import restore
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import record
from tests.databases import Query, of_version, open_store

LAST_WITH_HOLDS = 19
ANN, BOB, CID = "acc_ann", "acc_bob", "acc_cid"
NOW_MS = MsClock().now_ms
OPEN = "openly held", "held of paid money", "all that Bob has"


class OldBooks:
    """What that release wrote, by its own rules: amounts in nano-USD, `drawn` is how much of which grant."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(of_version(LAST_WITH_HOLDS))
        self.connection = sqlite3.connect(path, isolation_level=None)
        for name in (ANN, BOB, CID):
            self.connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES (?, ?, 1)", (name, name))

    def post(self, account_id: str, kind: str, reference: str, **books: int) -> None:
        paid, granted, held = (books.get(name, 0) for name in ("paid", "granted", "held"))
        rest = [books.get(name, 0) for name in ("revenue", "grant_source", "clearing")]
        row = (account_id, kind, reference, paid, granted, held, *rest, NOW_MS)
        self.connection.execute(f"INSERT INTO ledger_transactions VALUES (NULL, {', '.join('?' * len(row))})", row)
        self.connection.execute(
            "INSERT INTO wallets VALUES (?, ?, MAX(?, 0), MAX(?, 0)) ON CONFLICT (account_id) DO UPDATE SET "
            "paid_nano = paid_nano + ?2, granted_nano = granted_nano + ?5, held_nano = held_nano + ?6",
            (account_id, paid, granted, held, granted, held),
        )

    def credit(self, account_id: str, amount: int) -> None:
        self.post(account_id, "credit", f"paid by {account_id}", paid=amount, clearing=-amount)

    def grant(self, account_id: str, amount: int, expires_at_ms: int | None) -> int:
        self.post(account_id, "grant", f"gift until {expires_at_ms}", granted=amount, grant_source=-amount)
        sql = "INSERT INTO grants (account_id, remaining_nano, expires_at_ms, created_at_ms) VALUES (?, ?, ?, ?)"
        number = self.connection.execute(sql, (account_id, amount, expires_at_ms, NOW_MS)).lastrowid
        assert number is not None
        return number

    def hold(self, account_id: str, request_id: str, paid: int, drawn: dict[int, int]) -> None:
        granted = sum(drawn.values())
        self.post(account_id, "hold", request_id, paid=-paid, granted=-granted, held=paid + granted)
        self.connection.execute("INSERT INTO holds VALUES (?, ?, ?, ?, ?)", (request_id, account_id, paid, granted, 1))
        for grant_id, amount in drawn.items():
            self.connection.execute("INSERT INTO hold_grants VALUES (?, ?, ?)", (request_id, grant_id, amount))
            self._give(grant_id, -amount)

    def end(self, request_id: str, kind: str, paid: int, returned: dict[int, int]) -> None:
        """Return so much of paid money, and to which grants; what a settlement does not return is earned."""
        sql = "SELECT account_id, paid_nano + granted_nano FROM holds WHERE request_id = ?"
        account_id, held = self.connection.execute(sql, (request_id,)).fetchone()
        granted = sum(returned.values())
        books = {"paid": paid, "granted": granted, "held": -held, "revenue": held - paid - granted}
        self.post(account_id, kind, request_id, **books)
        for grant_id, amount in returned.items():
            self._give(grant_id, amount)
        for table in ("holds", "hold_grants"):
            self.connection.execute(f"DELETE FROM {table} WHERE request_id = ?", (request_id,))

    def check_point(self) -> None:
        """As each start does."""
        self.connection.execute("INSERT INTO ledger_checkpoint SELECT * FROM wallets")
        last = "SELECT MAX(id) FROM ledger_transactions"
        self.connection.execute(f"UPDATE ledger_checkpoint_position SET transaction_id = ({last})")

    def _give(self, grant_id: int, amount: int) -> None:
        sql = "UPDATE grants SET remaining_nano = remaining_nano + ? WHERE id = ?"
        self.connection.execute(sql, (amount, grant_id))


def left_behind(path: Path) -> Path:
    """The database of a server that was killed: requests that were charged, refused, given back, and three that ran."""
    books = OldBooks(path)
    books.credit(ANN, 1000)
    soon, lasting = books.grant(ANN, 300, NOW_MS + 1000), books.grant(ANN, 200, None)
    books.hold(ANN, "charged", 0, {soon: 100})
    books.end("charged", "settle", 0, {soon: 40})
    books.hold(ANN, OPEN[0], 150, {soon: 140, lasting: 120})
    books.check_point()  # while something is held
    books.hold(ANN, "refused", 70, {lasting: 80})
    books.end("refused", "void", 70, {lasting: 80})
    books.hold(ANN, "given back", 30, {})
    books.end("given back", "settle", 10, {})
    books.post(ANN, "refund_of_request", "given back", paid=20, revenue=-20)
    books.hold(ANN, OPEN[1], 50, {})
    books.credit(BOB, 500)
    books.hold(BOB, OPEN[2], 500, {})
    books.credit(CID, 7)
    books.connection.close()
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return left_behind(tmp_path / DATABASE)


@asynccontextmanager
async def opened(path: Path, clock: MsClock) -> AsyncIterator[tuple[Store, Ledger]]:
    store = await open_store(path, now_ms=clock)
    yield store, Ledger(store)
    await store.close()


async def remaining(store: Store) -> list[int]:
    return [left for (left,) in await store.read(Query("SELECT remaining_nano FROM grants ORDER BY id"))]


async def test_what_was_held_comes_back_to_where_it_came_from(old: Path, clock: MsClock) -> None:
    async with opened(old, clock) as (store, ledger):
        assert await ledger.balance(ANN) == Balance(1000, 240 + 200)
        assert await remaining(store) == [240, 200]
        assert await ledger.balance(BOB) == Balance(500)
        assert await ledger.balance(CID) == Balance(7)
        assert (await ledger.hold("req_new", ANN, 1440, 1440)).parts.grants == ((1, 240), (2, 200))


async def test_its_books_agree_and_the_checkpoint_from_before_still_serves(old: Path, clock: MsClock) -> None:
    async with opened(old, clock) as (store, ledger):
        assert await ledger.check() == []
        await verify_since_checkpoint(store)
        await ledger.settle(await ledger.hold("req_new", ANN, 1, 500), 450, record("req_new", ANN, cost_nano=450))
        await verify_since_checkpoint(store)
        assert await ledger.check() == []
        assert await ledger.balance(ANN) == Balance(1000 - 10, 0)


async def test_a_start_after_the_first_changes_nothing(old: Path, clock: MsClock) -> None:
    facts = Query("SELECT * FROM ledger_transactions ORDER BY id")
    async with opened(old, clock) as (store, _):
        before = await store.read(facts)
    async with opened(old, clock) as (store, ledger):
        assert await store.read(facts) == before
        assert await ledger.balance(BOB) == Balance(500)


async def test_rows_of_earlier_holds_stay_readable_and_each_of_them_has_its_end(old: Path, clock: MsClock) -> None:
    async with opened(old, clock) as (store, _):
        page = await Statement(store).page(ANN, before=None, limit=100)
        told = [(row.kind, row.reference) for row in reversed(page)]
        assert told[3:] == [
            ("hold", "charged"), ("settle", "charged"), ("hold", OPEN[0]), ("hold", "refused"), ("void", "refused"),
            ("hold", "given back"), ("settle", "given back"), ("refund_of_request", "given back"), ("hold", OPEN[1]),
            ("void", OPEN[1]), ("void", OPEN[0]),
        ]  # fmt: skip
        moves = await Statement(store).page(ANN, before=None, limit=100, only_moves=True)
        assert [row.amount_nano for row in reversed(moves)] == [1000, 300, 200, -60, -20, 20]
        assert sum(row.amount_nano for row in page) == 1440


async def test_an_answer_of_before_can_be_given_back(old: Path, clock: MsClock) -> None:
    async with opened(old, clock) as (store, ledger):
        hold = await ledger.hold("charged", ANN, 1, 1)  # the same id; nothing of that hold is known any more
        assert await ledger.give_back(hold, record("charged", ANN)) == 60
        assert await ledger.give_back(hold, record("charged", ANN)) == 0
        assert await remaining(store) == [300, 200]
        assert await ledger.check() == []


def test_the_table_of_holds_is_left_empty_and_a_wallet_says_that_nothing_is_held(old: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        migrations.migrate(connection)
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert not names & {"hold_grants", "a_hold_ends_once"}
        assert connection.execute("SELECT COUNT(*) FROM holds").fetchone() == (0,)
        assert connection.execute("SELECT DISTINCT held_nano FROM wallets").fetchall() == [(0,)]
        columns = [row[1] for row in connection.execute("PRAGMA table_info(ledger_checkpoint)")]
        assert columns == ["account_id", "paid_nano", "granted_nano"]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_request_is_settled_once_and_may_have_been_voided_before(old: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        migrations.migrate(connection)
        sql = "INSERT INTO ledger_transactions VALUES (NULL, ?, 'settle', ?, -1, 0, 0, 1, 0, 0, 1)"
        connection.execute(sql, (BOB, OPEN[2]))
        for reference in (OPEN[2], "charged"):
            with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
                connection.execute(sql, (BOB, reference))


# What it could not write


def settlement(request_id: str, account_id: str, cost_nano: int, *, may_exceed: bool = False) -> dict[str, Any]:
    """As that release wrote it into its file."""
    made = record(request_id, account_id, cost_nano=cost_nano)._asdict()
    named = {"request_id": request_id, "kind": "settle", "cost_nano": cost_nano}
    return named | {"record": made, "may_exceed": may_exceed}


def left_in_file(database: Path, identity: str, *entries: dict[str, Any]) -> PendingFile:
    lines = [{"database": identity}, *entries]
    (database.parent / PENDING).write_text("\n".join(map(json.dumps, lines)))
    return PendingFile(database.parent, identity)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("entry", "charged_nano", "balances"),
    [
        (settlement(OPEN[0], ANN, 60), 60, (Balance(1000, 380), Balance(500))),
        (settlement(OPEN[0], ANN, 410), 410, (Balance(1000, 30), Balance(500))),
        (settlement(OPEN[0], ANN, 411), 410, (Balance(1000, 30), Balance(500))),
        (settlement(OPEN[0], ANN, 500, may_exceed=True), 500, (Balance(940, 0), Balance(500))),
        (settlement(OPEN[1], ANN, 10**12, may_exceed=True), 1440, (Balance(), Balance(500))),
        (settlement(OPEN[2], BOB, 501, may_exceed=True), 500, (Balance(1000, 440), Balance())),
        (settlement(OPEN[2], BOB, 0), 0, (Balance(1000, 440), Balance(500))),
        (settlement(OPEN[2], BOB, 1) | {"record": None}, 1, (Balance(1000, 440), Balance(499))),
    ],
)
async def test_a_settlement_that_it_left_is_charged_once_and_no_more_than_was_held_unless_it_may(
    old: Path, clock: MsClock, entry: dict[str, Any], charged_nano: int, balances: tuple[Balance, Balance], times: int
) -> None:
    async with opened(old, clock) as (store, ledger):
        pending = left_in_file(old, await store.identity(), entry)
        for _ in range(times):  # the second time as after a crash between the commit and the removal
            await ledger.catch_up(pending.read())
        assert (await ledger.balance(ANN), await ledger.balance(BOB)) == balances
        assert await ledger.check() == []
        recorded = await store.read(Query("SELECT id, cost_nano FROM requests"))
        assert recorded == ([(entry["request_id"], charged_nano)] if entry["record"] else [])
        facts = Query("SELECT revenue_nano FROM ledger_transactions WHERE kind = 'settle' AND reference = ?")
        assert await store.read(Query(facts.sql, (entry["request_id"],))) == [(charged_nano,)]
        await verify_since_checkpoint(store)


async def test_of_two_that_it_left_for_one_wallet_the_second_gets_what_the_first_did_not_take(
    old: Path, clock: MsClock
) -> None:
    async with opened(old, clock) as (store, ledger):
        left = settlement(OPEN[0], ANN, 10**12, may_exceed=True), settlement(OPEN[1], ANN, 50)
        await ledger.catch_up(left_in_file(old, await store.identity(), *left).read())
        assert await ledger.balance(ANN) == Balance()
        costs = await store.read(Query("SELECT cost_nano FROM requests ORDER BY cost_nano"))
        assert costs == [(0,), (1440,)]
        assert await ledger.check() == []


@pytest.mark.parametrize("may_exceed", [False, True])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_settlement_whose_hold_a_power_failure_took_is_recorded_and_costs_nothing(
    old: Path, clock: MsClock, may_exceed: bool, times: int
) -> None:
    """Holds were not synced, and the file was."""
    async with opened(old, clock) as (store, ledger):
        lost = settlement("never held", ANN, 5, may_exceed=may_exceed)
        others = settlement("nobody's", "acc_gone", 5), settlement(OPEN[2], BOB, 3)
        pending = left_in_file(old, await store.identity(), lost, *others)
        for _ in range(times):
            await ledger.catch_up(pending.read())
        assert (await ledger.balance(ANN), await ledger.balance(BOB)) == (Balance(1000, 440), Balance(497))
        costs = await store.read(Query("SELECT id, cost_nano FROM requests ORDER BY id"))
        assert costs == [(OPEN[2], 3), ("never held", 0), ("nobody's", 0)]
        assert await ledger.check() == []


async def test_what_it_settled_before_it_was_cut_off_is_not_charged_again(old: Path, clock: MsClock) -> None:
    async with opened(old, clock) as (store, ledger):
        await ledger.catch_up(left_in_file(old, await store.identity(), settlement("charged", ANN, 60)).read())
        assert await ledger.balance(ANN) == Balance(1000, 440)
        assert await ledger.check() == []


async def test_what_was_earned_by_a_settlement_that_it_left_is_told_with_what_was_granted_of_it(
    old: Path, clock: MsClock
) -> None:
    async with opened(old, clock) as (store, ledger):
        await ledger.catch_up(left_in_file(old, await store.identity(), settlement(OPEN[0], ANN, 450)).read())
        assert await Months(store).earned(Month.at(NOW_MS)) == (
            Earned(ANN, "m", 1, 410, 410), Earned(ANN, None, 1, 60, 60),
        )  # fmt: skip


async def test_a_gateway_opens_it_with_its_file_and_goes_on(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        ((identity,),) = connection.execute("SELECT id FROM database_identity")
    left_in_file(old, identity, settlement(OPEN[2], BOB, 5), record("free", BOB)._asdict() | {"kind": "record"})
    async with open_gateway(Settings.model_validate({"data_dir": old.parent})) as gateway:
        assert await gateway.ledger.check() == []
        assert await gateway.ledger.balance(BOB) == Balance(495)
        assert (await gateway.ledger.hold("req_new", BOB, 495, 495)).amount_nano == 495
    assert not old.with_name(PENDING).exists()


# What was put by


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "backup.sqlite3"
    with (
        closing(sqlite3.connect(left_behind(tmp_path / "source.sqlite3"))) as source,
        closing(sqlite3.connect(path)) as target,
    ):
        source.backup(target)
    return path


async def test_a_backup_of_that_release_is_restored_and_is_of_this_one_then(
    backup: Path, tmp_path: Path, clock: MsClock
) -> None:
    database = tmp_path / "restored" / DATABASE
    database.parent.mkdir()
    last = restore(database, backup, tmp_path / "aside", [])
    async with opened(database, clock) as (store, ledger):
        assert await store.read(Query("SELECT MAX(id) FROM ledger_transactions")) == [(last.id,)]
        assert await ledger.balance(ANN) == Balance(1000, 440)
        assert await ledger.check() == []
        await verify_since_checkpoint(store)
