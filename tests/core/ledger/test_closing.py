"""Months are closed into sums that say what their entries said, and settlements taken out: balances, statements and
checks are as before, whatever is killed in between.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from mcp_gateway.cli.commands import app
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger import archive as archive_module
from mcp_gateway.core.ledger import closing as closing_module
from mcp_gateway.core.ledger.archive import BeginArchive, LedgerArchive, RemoveEntries
from mcp_gateway.core.ledger.checkpoint import LedgerBroken, verify_since_checkpoint
from mcp_gateway.core.ledger.closing import (
    CloseMonth,
    Closing,
    EntriesPassed,
    KeepSums,
    MoveCheckpoint,
    PassedEntries,
)
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.months import Month, Months
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.ledger.statement import LedgerTransaction, Statement
from mcp_gateway.core.observe.retention import Retention
from mcp_gateway.core.store.sqlite.database import DATABASE
from mcp_gateway.core.store.sqlite.store import Store
from tests import databases
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import TAMPERINGS, record
from tests.databases import Query, changing, environ_at, migrated, open_store
from tests.loop_clock import pass_time
from tests.patience import eventually, settled

MONTHS = [Month.named(f"2026-{number:02}") for number in range(1, 13)]


def closing_of(store: Store, clock: MsClock) -> Closing:
    return Closing(store, clock, rest_s=0)


async def work_a_month(ledger: Ledger, account: str, month: Month, clock: MsClock, requests: int = 6) -> None:
    """Money in, a grant that is used and expires, requests of two models, the fourth given back, a correction."""
    clock.now_ms = month.since_ms
    await ledger.credit(account, 1000, f"{account} {month.name}")
    await ledger.grant(account, 50, f"{account} {month.name}", expires_at_ms=month.since_ms + 20 * DAY_MS)
    for number in range(requests):
        clock.now_ms = month.since_ms + number * DAY_MS
        name = f"req_{clock.now_ms:012x}{account[-6:]}{number}"
        hold = await ledger.hold(name, account, 1, 60)
        plain = record(name, account)
        one = plain._replace(cost_nano=20 + number, model=f"m{number % 2}", started_at_ms=clock.now_ms)
        await ledger.settle(hold, 20 + number, None if number == 4 else one)
        if number == 3:
            await ledger.give_back(hold, one._replace(cost_nano=0))
    clock.now_ms = month.until_ms - 1
    await ledger.expire_grants()
    await ledger.adjust(account, -3, f"{account} {month.name}")


async def told(store: Store, ledger: Ledger, account: str) -> list[Any]:
    """All that readers of the books are told, but for whether a month is archived."""
    months = Months(store)
    statements = [replace(await months.statement(account, month), is_archived=False) for month in MONTHS]
    earned = [sorted(map(str, await months.earned(month))) for month in MONTHS]
    return [await ledger.balance(account), statements, earned]


async def listed(store: Store, account: str, limit: int = 4) -> list[LedgerTransaction]:
    """All transactions, a page after the other: each in its place, adding up to what the account owns."""
    statement, rows = Statement(store), list[LedgerTransaction]()
    while page := await statement.page(account, before=rows[-1].place if rows else None, limit=limit):
        rows += page
    assert rows == sorted(rows, key=lambda row: row.place, reverse=True)
    assert len({row.place for row in rows}) == len(rows)
    return rows


def added_up(rows: Sequence[LedgerTransaction]) -> list[int]:
    return [
        sum(row.paid_nano for row in rows),
        sum(row.granted_nano for row in rows),
        sum(row.held_nano for row in rows),
    ]


async def count(store: Store, what: str) -> int:
    [(number,)] = await store.read(Query(f"SELECT COUNT(*) FROM {what}"))
    return int(number)


async def take_out(archive: LedgerArchive, before: str | None = None) -> tuple[int, int]:
    """As the command does, without its file."""
    taken = [one async for some in archive.entries(before) for one in some]
    return len(taken), await archive.remove(before, taken[-1].id) if taken else 0


async def test_a_year_in_fast_motion_ends_with_right_sums_and_few_rows(
    store: Store, clock: MsClock, ledger: Ledger, accounts: Accounts
) -> None:
    names = [(await accounts.create(f"account {number}")).id for number in range(2)]
    closing, retention = closing_of(store, clock), Retention(store, clock, requests_keep_days=40, rest_s=0)
    archive = LedgerArchive(store, closing, rest_s=0)
    opening_nano = 0
    for number, month in enumerate(MONTHS):
        for name in names:
            await work_a_month(ledger, name, month, clock)
        before = await told(store, ledger, names[0])
        assert await closing.close_due() == ([MONTHS[number - 1].name] if number else [])
        await closing.move_checkpoint()
        if number % 4 == 3:
            taken, removed = await take_out(archive)
            assert taken == removed > 0
        assert await told(store, ledger, names[0]) == before
        balance = await ledger.balance(names[0])
        for limit in (1, 7, 1000):
            assert added_up(await listed(store, names[0], limit)) == [balance.paid_nano, balance.granted_nano, 0]
        assert await ledger.check() == await ledger.check(of_all_entries=True) == []
        await verify_since_checkpoint(store)
        statement = await Months(store).statement(names[0], month)
        assert statement.opening_nano == opening_nano
        opening_nano = statement.closing_nano
        await retention.tidy()
    balance = await ledger.balance(names[0])
    assert balance.paid_nano + balance.granted_nano == opening_nano == 12 * (1000 + 50 - 3 - 20 - 21 - 22 - 24 - 25)
    assert await count(store, "ledger_transactions WHERE kind = 'settle'") == 2 * (11 + 6)  # given back, and December's
    assert await count(store, "requests") == 2 * 5
    assert await count(store, "closed_months") == 11


async def test_a_month_is_closed_a_day_after_its_end_and_an_empty_ledger_has_none(
    store: Store, clock: MsClock, ledger: Ledger, account: str
) -> None:
    closing = closing_of(store, clock)
    assert await closing.close_due() == []
    await work_a_month(ledger, account, MONTHS[0], clock)
    clock.now_ms = MONTHS[0].until_ms + DAY_MS - 1
    assert await closing.close_due() == []
    clock.now_ms += 1
    assert await closing.close_due() == ["2026-01"]
    clock.now_ms = MONTHS[3].since_ms + DAY_MS
    assert await closing.close_due() == ["2026-02", "2026-03"]
    assert await ledger.check() == []


async def test_what_is_posted_by_a_clock_that_was_set_back_counts_in_the_next_month_that_is_closed(
    store: Store, clock: MsClock, ledger: Ledger, account: str
) -> None:
    closing = closing_of(store, clock)
    await work_a_month(ledger, account, MONTHS[0], clock)
    clock.now_ms = MONTHS[1].since_ms + DAY_MS
    assert await closing.close_due() == ["2026-01"]
    clock.now_ms = MONTHS[0].since_ms
    await ledger.credit(account, 7, "late")
    assert await ledger.check() == []
    clock.now_ms = MONTHS[2].since_ms + DAY_MS
    assert await closing.close_due() == ["2026-02"]
    statement = await Months(store).statement(account, MONTHS[1])
    assert statement.closing_nano - statement.opening_nano == 7
    assert await ledger.check() == await ledger.check(of_all_entries=True) == []


@pytest.mark.parametrize("sql", TAMPERINGS.values(), ids=list(TAMPERINGS))
async def test_a_month_whose_books_differ_is_not_closed(
    store: Store, clock: MsClock, ledger: Ledger, account: str, sql: str, caplog: pytest.LogCaptureFixture
) -> None:
    await work_a_month(ledger, account, MONTHS[0], clock, 2)
    clock.now_ms = MONTHS[1].since_ms + DAY_MS
    await store.write(changing(sql))
    assert await closing_of(store, clock).close_due() == []
    assert "2026-01 is not closed" in caplog.text


@pytest.mark.parametrize("sql", [*TAMPERINGS.values(), "of an entry"], ids=[*TAMPERINGS, "an entry"])
async def test_the_check_of_all_entries_notices_faults_in_closed_months(
    store: Store, clock: MsClock, ledger: Ledger, account: str, sql: str
) -> None:
    await work_a_month(ledger, account, MONTHS[0], clock, 2)
    clock.now_ms = MONTHS[1].since_ms + DAY_MS
    assert await closing_of(store, clock).close_due() == ["2026-01"]
    if sql == "of an entry":
        of_table = " ON ledger_rows" if databases.is_on_postgres else ""
        await store.write(changing(f"DROP TRIGGER ledger_facts_stay{of_table}"))
        sql = "UPDATE ledger_rows SET paid_nano = 7, clearing_nano = -7 WHERE kind = 'credit'"
    await store.write(changing(sql))
    assert await ledger.check(of_all_entries=True) != []
    if "cost_nano" not in sql and "clearing_nano" not in sql:  # of entries in closed months the sums alone are read
        assert await ledger.check() != []


async def test_sums_and_months_stay_and_settlements_alone_may_go_of_archived_months(
    store: Store, clock: MsClock, ledger: Ledger, account: str
) -> None:
    await work_a_month(ledger, account, MONTHS[0], clock)
    clock.now_ms = MONTHS[1].since_ms + DAY_MS
    [(first,)] = await store.read(Query("SELECT MIN(id) FROM ledger_transactions WHERE kind = 'settle'"))
    for prepare in (ledger.check, closing_of(store, clock).close_due):
        await prepare()
        with pytest.raises(DatabaseError, match="append-only"):
            await store.write(RemoveEntries((first,)))
    await store.write(BeginArchive(first))
    assert await store.write(RemoveEntries((first,))) == 1
    for sql in (
        "DELETE FROM ledger_transactions WHERE kind = 'credit'",
        "DELETE FROM ledger_transactions WHERE kind = 'refund_of_request'",
        "UPDATE month_sums SET entries = 1",
        "DELETE FROM month_sums",
        "DELETE FROM closed_months",
    ):
        with pytest.raises(DatabaseError, match=r"append-only|sums of|stays closed"):
            await store.write(changing(sql))
    assert (await Months(store).statement(account, MONTHS[0])).is_archived


async def test_what_was_archived_of_a_month_is_listed_as_its_sum_beside_what_still_stands(
    store: Store, clock: MsClock, ledger: Ledger, accounts: Accounts, account: str
) -> None:
    other = (await accounts.create("without requests")).id
    await ledger.credit(other, 5, "other")
    for month in MONTHS[:2]:
        await work_a_month(ledger, account, month, clock)
    clock.now_ms = MONTHS[2].since_ms + DAY_MS
    await ledger.credit(account, 1, "now")
    before = await listed(store, account)
    archive = LedgerArchive(store, closing_of(store, clock), rest_s=0)
    taken = [one async for some in archive.entries(None) for one in some]
    for through in (3, len(taken)):  # as where it was killed after three, and then went on
        await archive.remove(None, taken[through - 1].id)
        gone = taken[:through]
        rows = await listed(store, account)
        sums = {row.reference: row for row in rows if row.kind == "archived"}
        assert [row for row in rows if row.kind != "archived"] == [
            row for row in before if row.id not in {one.id for one in gone}
        ]
        assert added_up(rows) == added_up(before)
        for month in MONTHS[:2]:
            of_month = [one for one in gone if Month.at(one.created_at_ms) == month]
            assert (month.name in sums) == bool(of_month)
            if of_month:
                row = sums[month.name]
                assert row.amount_nano == sum(one.paid_nano + one.granted_nano for one in of_month)
                assert row.created_at_ms == month.until_ms - 1
    assert [row.kind for row in await listed(store, other)] == ["credit"]


async def test_the_sum_of_an_archived_month_has_no_note_of_the_entry_behind_it(
    store: Store, clock: MsClock, ledger: Ledger, account: str
) -> None:
    await work_a_month(ledger, account, MONTHS[0], clock)
    await ledger.adjust(account, -1, "noted", note="the last of its month")
    clock.now_ms = MONTHS[1].since_ms + DAY_MS
    await take_out(LedgerArchive(store, closing_of(store, clock), rest_s=0))
    archived, last, *_ = rows = await listed(store, account)
    assert (archived.id, archived.kind, last.kind) == (last.id, "archived", "adjustment")
    assert await Statement(store).notes(rows) == {last: "the last of its month"}


class Killed(Exception):
    pass


_STEPS = CloseMonth | KeepSums | MoveCheckpoint | BeginArchive | RemoveEntries


@pytest.mark.parametrize("dies_at", range(1, 9))
async def test_whatever_is_killed_in_a_closing_or_an_archive_the_next_goes_on(
    fresh: Path, clock: MsClock, dies_at: int
) -> None:
    """Whatever was committed before stands, as after a kill; the process that goes on opens the database anew."""
    steps = 0
    with patch.multiple(closing_module, _SUMS_AT_ONCE=4), patch.multiple(archive_module, _REMOVED_AT_ONCE=2):
        store = await open_store(migrated(fresh), now_ms=clock)
        account = (await Accounts(store, new_id=new_id, now_ms=clock).create("Ann")).id
        ledger, write = Ledger(store), store.write
        await work_a_month(ledger, account, MONTHS[0], clock, 4)
        await work_a_month(ledger, account, MONTHS[1], clock, 2)
        before = await told(store, ledger, account)

        def dying(one: Any, **how: Any) -> Any:
            nonlocal steps
            steps += isinstance(one, _STEPS)
            if steps == dies_at:
                raise Killed
            return write(one, **how)

        store.write = dying  # type: ignore[method-assign, assignment]
        with suppress(Killed):
            await take_out(LedgerArchive(store, closing_of(store, clock), rest_s=0))
        store.write = write  # type: ignore[method-assign]
        await store.close()
        store = await open_store(fresh, now_ms=clock)
        ledger = Ledger(store)
        await verify_since_checkpoint(store)
        assert await ledger.check() == []
        await take_out(LedgerArchive(store, closing_of(store, clock), rest_s=0))
        assert await told(store, ledger, account) == before
        assert await ledger.check() == await ledger.check(of_all_entries=True) == []
        assert await count(store, "ledger_transactions WHERE kind = 'settle'") == 1 + 2
        await verify_since_checkpoint(store)
        await store.close()


async def test_the_checkpoint_moves_while_the_server_runs_and_a_start_finds_faults_as_before(
    store: Store, ledger: Ledger, account: str, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing_module, "_ENTRIES_AT_ONCE", 2)
    for number in range(5):
        await ledger.credit(account, 10, f"{number}")
    await closing_of(store, clock).move_checkpoint()
    kept = Query("SELECT paid_nano FROM ledger_checkpoint")
    assert await store.read(kept) == [(50,)]
    assert await store.read(EntriesPassed(2)) == PassedEntries(5, 5, 0, ())
    await store.write(MoveCheckpoint(PassedEntries(3, 9, 2, ((account, 1, 1),))))  # of another's look, before it moved
    assert await store.read(kept) == [(50,)]
    await store.write(changing("UPDATE wallets SET paid_nano = 49"))
    with pytest.raises(LedgerBroken):
        await verify_since_checkpoint(store)


async def test_sums_that_were_not_kept_as_they_are_close_no_month(
    store: Store, clock: MsClock, ledger: Ledger, account: str, caplog: pytest.LogCaptureFixture
) -> None:
    await work_a_month(ledger, account, MONTHS[0], clock, 2)
    clock.now_ms = MONTHS[1].since_ms + DAY_MS
    write = store.write

    def losing(one: Any, **how: Any) -> Any:
        return write(replace(one, sums=one.sums[1:]) if isinstance(one, KeepSums) else one, **how)

    store.write = losing  # type: ignore[method-assign, assignment]
    assert await closing_of(store, clock).close_due() == []
    assert "were not kept" in caplog.text
    store.write = write  # type: ignore[method-assign]
    assert await closing_of(store, clock).close_due() == ["2026-01"]


async def test_the_loop_begins_a_while_after_the_start_and_comes_again(
    store: Store, clock: MsClock, ledger: Ledger, account: str
) -> None:
    class Counted(Closing):
        """Its rounds that are over: none is under way when time passes."""

        rounds = 0

        async def move_checkpoint(self) -> None:
            await super().move_checkpoint()
            self.rounds += 1

    one = Counted(store, clock, rest_s=0)
    watching = asyncio.create_task(one.watch())
    await settled()
    for number, wait_s in enumerate((closing_module._FIRST_S, closing_module._INTERVAL_S)):
        await work_a_month(ledger, account, MONTHS[number], clock, 2)
        clock.now_ms = MONTHS[number + 1].since_ms + DAY_MS
        pass_time(wait_s)
        names = [month.name for month in MONTHS[: number + 1]]
        await eventually(lambda number=number: one.rounds > number)  # type: ignore[misc]
        assert _are(names, await store.read(Query("SELECT month FROM closed_months")))
    watching.cancel()


def _are(names: list[str], rows: list[tuple[str]]) -> bool:
    return [name for (name,) in rows] == names


async def test_the_command_writes_a_private_file_before_anything_goes(tmp_path: Path, clock: MsClock) -> None:
    path = migrated(tmp_path / DATABASE)
    store = await open_store(path, now_ms=clock)
    account = (await Accounts(store, new_id=new_id, now_ms=clock).create("Ann")).id
    ledger, file = Ledger(store), tmp_path / "archive.jsonl"
    await work_a_month(ledger, account, MONTHS[0], clock, 4)
    await work_a_month(ledger, account, MONTHS[1], clock, 2)

    async def run(*arguments: str) -> Any:
        command = ["ledger", *arguments, "--data-dir", str(tmp_path)]
        return await asyncio.to_thread(CliRunner(env=environ_at(path)).invoke, app, command)

    assert (await run("archive", str(file), "--before", "2026")).exit_code == 2
    none = await run("archive", str(file), "--before", "2026-01")
    assert (none.exit_code, none.stdout, file.exists()) == (0, "nothing to archive\n", False)
    done = await run("archive", str(file), "--before", "2026-02", "--json")
    assert json.loads(done.stdout) == {"file": str(file), "written": 3, "removed": 3}
    assert file.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(one["account_id"], one["revenue_nano"]) for one in lines] == [(account, n) for n in (20, 21, 22)]
    assert "exists already" in (await run("archive", str(file))).stderr
    assert (await run("check", "--all")).exit_code == 0
    (tmp_path / PENDING).write_text("x")
    assert "start the server once" in (await run("archive", "other")).stderr
    (tmp_path / PENDING).unlink()
    await store.close()
