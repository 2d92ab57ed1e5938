"""Batches in one statement: they write and tell what steps do, go side by side, and happen once if answers are lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_gateway.core.engine import Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Account, CreateAccount
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.ledger.allotments import Allotted, Fund
from mcp_gateway.core.ledger.budgets import BudgetSpent
from mcp_gateway.core.ledger.entries import Ended, GiveBack, LeaveUncharged, Settle, WalletState
from mcp_gateway.core.ledger.rules import Amount, GrantLeft
from mcp_gateway.core.record import AddRecord, RequestRecord
from mcp_gateway.core.store.postgres.batches import RequestBatch
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.link import PostgresLink, Where
from mcp_gateway.core.store.postgres.session import LOCKS, WRITING, WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.store.sql.executors import EXECUTORS as IN_STEPS
from mcp_gateway.core.store.transaction import Executors, Transaction
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import record
from tests.core.store.contract.trying import told
from tests.patience import eventually
from tests.postgres_server import Outside, postgres_server

pytestmark = pytest.mark.engines

ACCOUNTS = ("acc_a", "acc_b", "acc_c")
CLIENT_IDS = [
    None,
    "mine",
    "\u00e9",
    "nu\x00l",
    "",
    "NULL",
    "null",
    'a "word"',
    "a\\b\n",
    "\\u0000",
    "{a,b}",
    "'",
    "\x7f\x1f",
]
HOUR_MS = 3_600_000
MUCH = 10**12
UNLIMITED = OwnLimits(None, None, None, None)
_MADE = """
INSERT INTO accounts (id, name, created_at_ms) SELECT one, one, 0 FROM unnest(ARRAY['acc_a', 'acc_b', 'acc_c']) AS one;
INSERT INTO webhooks (receiver, url, secret, set_at_ms) VALUES ('acc_a', 'https://hooks.test', 'secret', 0);
INSERT INTO budgets (id, account_id, holder, amount_nano, "window", made_at_ms) VALUES
    ('bud_1', 'acc_a', 'acc_a', 400, 'total', 0), ('bud_2', 'acc_b', 'acc_b', 1000000000, 'total', 0);
INSERT INTO writers (batch) VALUES (0);
"""
_ANEW = """
ROLLBACK; SET session_replication_role = replica;
DELETE FROM wallets; DELETE FROM grants; DELETE FROM low_balances; DELETE FROM auto_payments; DELETE FROM auto_topups;
DELETE FROM budget_windows; DELETE FROM told_thresholds; DELETE FROM webhook_outbox; DELETE FROM ledger_rows;
DELETE FROM request_rows; DELETE FROM request_counts; DELETE FROM hourly_usage; DELETE FROM hourly_parts;
SET session_replication_role = origin;
INSERT INTO wallets VALUES ('acc_a', 1000, 600, 0), ('acc_b', 1000000000, 0, 0);
INSERT INTO grants (id, account_id, remaining_nano, expires_at_ms, created_at_ms) VALUES
    (1, 'acc_a', 100, NULL, 0), (2, 'acc_a', 500, 5000, 0);
INSERT INTO low_balances VALUES ('acc_a', 1500, 0);
INSERT INTO auto_topups VALUES ('acc_a', 1400, 10, 100, NULL, NULL);
"""
_TABLES = {
    "ledger_transactions": "account_id, kind, reference, paid_nano, granted_nano, revenue_nano, created_at_ms",
    "wallets": "*", "grants": "*", "budget_windows": "*", "hourly_usage": "*", "hourly_parts": "*",
    "requests": "*", "request_counts": "*", "low_balances": "*", "told_thresholds": "*",
    "auto_payments": "account_id, state, tries, due_at_ms", "webhook_outbox": "receiver, tries",
}  # fmt: skip
_numbers = count(1)


class Books:
    """A database with some accounts, and one connection that writes to it."""

    def __init__(self, executors: Executors) -> None:
        self.url = postgres_server().make()
        self.link = PostgresLink(Where(self.url, 60.0, {}))
        self.link.connect()
        self.link.script(_MADE)
        self.transaction = Transaction(self.link, executors, lambda: 77)
        self._executors = executors

    def begin_anew(self) -> None:
        self.link.script(_ANEW)
        self.transaction.take_told()

    def write(self, writes: Sequence[Write[Any]]) -> Sequence[Any]:
        """In a transaction."""
        self.link.script("BEGIN")
        outcomes = self._executors.together[type(writes[0])](self.transaction, writes)
        self.link.script("COMMIT")
        return outcomes

    def write_alone(self, writes: Sequence[Any]) -> Sequence[Any]:
        """As one, if that can be."""
        batch = RequestBatch(self.transaction, writes)
        facts = batch.run_alone(1, next(_numbers), is_durable=True)
        if facts is None:
            return self.write(writes)
        for fact in facts:
            self.transaction.tell(fact)
        return batch.outcomes

    def rows(self) -> dict[str, list[Any]]:
        return {
            table: sorted(map(repr, self.link.execute(f"SELECT {columns} FROM {table}").fetchall()))
            for table, columns in _TABLES.items()
        }

    def facts(self) -> object:
        """The last word on each, which is all that counts of what one commit tells."""
        wallets: dict[str, object] = {}
        spent: dict[object, int] = {}
        ended: list[str] = []
        for fact in self.transaction.take_told():
            match fact:
                case WalletState(account_id, paid_nano, left):
                    wallets[account_id] = paid_nano, left
                case BudgetSpent(account_id, window, spent_nano):
                    spent[account_id, window] = spent_nano
                case Ended(ids):
                    ended += ids
        return wallets, spent, ended

    def end(self) -> None:
        self.link.close()
        postgres_server().give_back(self.url)


@pytest.fixture(scope="module")
def books() -> Iterator[tuple[Books, Books, Books]]:
    """Such as are written in steps, by the statement within transactions, and by it alone."""
    made = (Books(IN_STEPS), Books(EXECUTORS), Books(EXECUTORS))
    yield made
    for one in made:
        one.end()


def of(account_id: str, number: int, cost_nano: int, drawn: int) -> Amount:
    """What it is charged, of its grants first where it has some."""
    if account_id != "acc_a" or not drawn:
        return Amount(cost_nano)
    return Amount(cost_nano, ((2, drawn), (1, 1)) if number % 2 else ((2, drawn),))


@st.composite
def plain(draw: st.DrawFn) -> Write[Any]:
    number = next(_numbers)
    request_id = f"req_{number:08}"
    account_id = draw(st.sampled_from(ACCOUNTS))
    if draw(st.integers(0, 9)) == 0:
        return LeaveUncharged(request_id)
    cost_nano = 0 if account_id == "acc_c" else draw(st.integers(0, 60))
    known: RequestRecord | None = record(
        request_id, account_id, key_id=draw(st.sampled_from(["key_1", "key_2", None])), cost_nano=cost_nano
    )._replace(
        client_request_id=draw(st.sampled_from(CLIENT_IDS)),
        http_status=draw(st.sampled_from([200, 200, 200, 502])),
        surface=draw(st.sampled_from(["chat", "chat", "embeddings"])),
        started_at_ms=draw(st.sampled_from([1, HOUR_MS, 2 * HOUR_MS])),
        cached_tokens=draw(st.sampled_from([None, 3, -2])),
        images=draw(st.sampled_from([0, 0, 0, 2])),
    )
    if known is not None and draw(st.integers(0, 4)) == 0:
        return AddRecord(known)
    if draw(st.integers(0, 4)) == 0:
        known = None
    budget = {"acc_a": "bud_1", "acc_b": "bud_2"}.get(account_id)
    windows = () if budget is None or draw(st.booleans()) else ((budget, draw(st.sampled_from([0, 10]))),)
    return Settle(request_id, account_id, of(account_id, number, cost_nano, draw(st.integers(0, 4))), known, windows)


def runs(writes: Sequence[Any]) -> Iterator[list[Any]]:
    """As a writer would: records without a charge are carried out by somebody else."""
    run: list[Any] = []
    for one in writes:
        if run and isinstance(one, AddRecord) != isinstance(run[-1], AddRecord):
            yield run
            run = []
        run.append(one)
    yield run


def can_be_alone(one: Any) -> bool:
    known = getattr(one, "record", None)
    return known is None or not known.images


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(plain(), min_size=1, max_size=12), min_size=1, max_size=4))
def test_one_statement_writes_and_tells_what_steps_do(
    books: tuple[Books, Books, Books], batches: list[list[Any]]
) -> None:
    steps, within, alone = books
    for one in books:
        one.begin_anew()
    for batch in batches:
        for run in runs(batch):
            outcomes = list(steps.write(run))
            assert list(within.write(run)) == outcomes
            write_alone = alone.write_alone if all(map(can_be_alone, run)) else alone.write
            assert list(write_alone(run)) == outcomes
        facts = steps.facts()
        assert within.facts() == facts
        assert alone.facts() == facts
    rows = steps.rows()
    assert within.rows() == rows
    assert alone.rows() == rows


@pytest.fixture
def url() -> Iterator[str]:
    server = postgres_server()
    url = server.make()
    with Outside(url) as outside:
        outside.run(_MADE)
        outside.run(_ANEW)
    yield url
    server.give_back(url)


class LosingSession(WriterSession):
    """One that loses the answers of batches that are their whole transaction, after they have happened or before."""

    lost: list[bool]

    def run_alone(self, batch: RequestBatch, *, is_durable: bool) -> Sequence[object] | None:
        if not self.lost:
            return super().run_alone(batch, is_durable=is_durable)
        if self.lost.pop():
            assert super().run_alone(batch, is_durable=is_durable) is not None
        else:
            self._batch += 1
        raise ConnectionResetError("lost")


@contextlib.asynccontextmanager
async def opened(url: str, session: WriterSession | None = None) -> AsyncIterator[PostgresStore]:
    session = session or WriterSession(url, is_server=False)
    store = await PostgresStore.open(url, EXECUTORS, session=session, now_ms=MsClock())
    yield store
    await store.close()


def settled(number: int, account_id: str = "acc_b", cost_nano: int = 1, **more: Any) -> Settle:
    request_id = f"req_{number:08}"
    known = record(request_id, account_id, key_id="key_1", cost_nano=cost_nano)._replace(**more)
    windows = (("bud_2", 0),) if account_id == "acc_b" else ()
    return Settle(request_id, account_id, Amount(cost_nano), known, windows)


def books_of(url: str) -> list[Any]:
    """What is left in both wallets, was charged and recorded, and is summed up."""
    each = "GROUP BY 1 ORDER BY 1"
    with Outside(url) as outside:
        return [
            outside.rows("SELECT account_id, paid_nano FROM wallets ORDER BY 1"),
            outside.rows(
                "SELECT account_id, count(*), sum(revenue_nano) FROM ledger_transactions GROUP BY 1 ORDER BY 1"
            ),
            outside.rows(f"SELECT account_id, sum(requests), sum(cost_nano) FROM hourly_usage {each}"),
            outside.rows(f"SELECT account_id, count(*), sum(cost_nano) FROM requests {each}"),
        ]


async def test_two_writers_settle_what_both_have_and_neither_waits_for_the_other_in_vain(url: str) -> None:
    accounts = ("acc_a", "acc_b")
    async with opened(url) as one, opened(url) as other:
        for first in range(0, 2000, 200):
            written = []
            for number in range(first, first + 200):
                account_id = accounts[number // 2 % 2]
                written.append((one, other)[number % 2].write(settled(number, account_id, model=f"m{number % 7}")))
            await asyncio.gather(*written)
    charged = [("acc_a", 1000, 1000), ("acc_b", 1000, 1000)]
    assert books_of(url) == [[("acc_a", 0), ("acc_b", 10**9 - 1000)], charged, charged, charged]
    with Outside(url) as outside:
        assert outside.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


async def test_batches_go_side_by_side_and_whoever_takes_steps_waits_for_them(url: str) -> None:
    async with opened(url) as store:
        await store.write(settled(1))
        with Outside(url) as outside:
            outside.run(f"BEGIN; SELECT pg_advisory_xact_lock_shared({LOCKS}, {WRITING})")
            outside.run("SELECT 1 FROM wallets WHERE account_id = 'acc_a' FOR UPDATE")
            assert await store.write(settled(2)) == 1
            refused = store.write(GiveBack("req_00000002", "acc_b", record("req_00000002", "acc_b")))
            assert told((await asyncio.gather(refused, return_exceptions=True))[0]) == "ledger_unavailable"


@pytest.mark.parametrize("has_happened", [True, False])
async def test_an_answer_that_is_lost_is_asked_for_and_its_facts_are_read(url: str, has_happened: bool) -> None:
    session = LosingSession(url, is_server=False)
    session.lost = []
    async with opened(url, session) as store:
        await store.write(settled(1))
        facts: list[Any] = []
        for kind in (WalletState, BudgetSpent, Ended):
            store.listen(kind, facts.append)
        session.lost = [has_happened]
        waiting, refused = store.write(settled(2), in_outage="wait"), store.write(settled(3))
        drawn = store.write(
            Settle("req_00000004", "acc_a", Amount(30, ((2, 10),)), None, (("bud_2", 7),)), in_outage="wait"
        )
        assert await waiting == 1
        assert await drawn == 40
        assert told((await asyncio.gather(refused, return_exceptions=True))[0]) == "ledger_unavailable"
    left = 10**9 - 2 - has_happened
    grants = GrantLeft(2, 490, 5000), GrantLeft(1, 100, None)
    version = facts[0].version
    assert facts == [
        WalletState("acc_a", 970, grants, version),
        WalletState("acc_b", left, (), version),
        BudgetSpent("acc_b", ("bud_2", 0), 2 + has_happened),
        BudgetSpent("acc_a", ("bud_2", 7), 40),
        Ended(("req_00000002", *(["req_00000003"] if has_happened else []), "req_00000004")),
    ]
    assert books_of(url)[0] == [("acc_a", 970), ("acc_b", left)]


class ReplicaSession(LosingSession):
    """A replica's, that counts the batches that take steps."""

    stepped = 0

    def __init__(self, url: str) -> None:
        super().__init__(url, is_server=True, is_shared=True)
        self.lost = []

    def begin(self, *, is_durable: bool) -> None:
        self.stepped += 1
        super().begin(is_durable=is_durable)


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_replica_s_batch_takes_from_what_it_is_allotted_where_that_is_enough(url: str, is_lost: bool) -> None:
    session = ReplicaSession(url)
    async with opened(url, session) as store:
        with Outside(url) as outside:
            allotted = [
                ("acc_b", "wallet", "", 0, 100), ("acc_b", "window", "bud_2", 0, 100),
                ("acc_a", "wallet", "", 0, 5), ("acc_a", "wallet", "", 2, 20), ("acc_c", "wallet", "", 0, 1),
            ]  # fmt: skip
            outside.run("INSERT INTO wallets VALUES ('acc_c', 1, 0, 0)")
            outside.add(
                "INSERT INTO allotments VALUES (?, ?, ?, ?, ?, ?)", [(session.replica, *row) for row in allotted]
            )
        facts: list[Any] = []
        for kind in (Allotted, WalletState):
            store.listen(kind, facts.append)
        stepped = session.stepped
        session.lost = [True] if is_lost else []
        drawn = Settle("req_00000002", "acc_a", Amount(5, ((2, 8),)), None)
        nothing = settled(4, "acc_c", 0)
        written = [store.write(one, in_outage="wait") for one in (settled(1, cost_nano=30), drawn, nothing)]
        assert list(await asyncio.gather(*written)) == [30, 13, 0]
        assert session.stepped == stepped
        version = facts[-1].version
        assert {fact[0]: fact for fact in facts if isinstance(fact, Allotted)} == {
            "acc_a": Allotted("acc_a", {Fund("wallet", "", 2): 12}, {2: 5000}),
            "acc_b": Allotted("acc_b", {Fund("wallet"): 70, Fund("window", "bud_2"): 70}, {}),
        }
        grants = GrantLeft(2, 492, 5000), GrantLeft(1, 100, None)
        left = WalletState("acc_a", 995, grants, version), WalletState("acc_b", 10**9 - 30, (), version)
        assert facts[-3:-1] == list(left)
        assert await store.write(settled(3, cost_nano=71)) == 71
        assert session.stepped == stepped + 1


async def test_a_number_that_no_column_has_costs_its_own_record_alone(url: str) -> None:
    async with opened(url) as store:
        wrong = store.write(settled(1, prompt_tokens=2**70), in_outage="wait")
        assert list(await asyncio.gather(wrong, store.write(settled(2)))) == [1, 1]
        assert store.is_available
    assert books_of(url)[1:3] == [[("acc_b", 2, 2)], [("acc_b", 1, 1)]]


async def test_a_request_that_is_settled_twice_costs_nobody_else(url: str) -> None:
    async with opened(url) as store:
        await store.write(settled(1))
        again, other = store.write(settled(1)), store.write(settled(2))
        assert list(await asyncio.gather(again, other)) == [0, 1]
    assert books_of(url)[1:3] == [[("acc_b", 2, 2)], [("acc_b", 2, 2)]]


async def test_the_request_that_is_recorded_first_is_the_one(url: str) -> None:
    async with opened(url) as store:
        written = [store.write(AddRecord(record("req_1", "acc_b", cost_nano=cost_nano))) for cost_nano in (1, 2)]
        await asyncio.gather(*written)
    assert books_of(url)[3] == [("acc_b", 1, 1)]


async def test_the_time_of_each_commit_is_told_that_is_answered_once_it_is_on_the_disk(url: str) -> None:
    took_s: list[float] = []
    session = WriterSession(url, is_server=False, fsynced=took_s.append)
    async with opened(url, session) as store:
        await store.write(settled(1))
        assert len(took_s) == 1
        await store.write(CreateAccount(Account("acc_d", "Dee", 0, True, UNLIMITED)))
        assert len(took_s) == 2
        await store.write(settled(2), is_durable=False)
        await store.write(CreateAccount(Account("acc_e", "Eve", 0, True, UNLIMITED)), is_durable=False)
        assert len(took_s) == 2
    assert all(one_s > 0 for one_s in took_s)


async def outcome(written: "asyncio.Future[Any]") -> object:
    try:
        return await written
    except GatewayError as error:
        return told(error)


async def test_a_wallet_that_somebody_keeps_locked_holds_up_nobody_else(url: str) -> None:
    session = WriterSession(url, is_server=False, lock_timeout_ms=50)
    async with opened(url, session) as store:
        await store.write(settled(1))
        with Outside(url) as outside:
            outside.run("BEGIN")
            outside.run("SELECT 1 FROM wallets WHERE account_id = 'acc_a' FOR UPDATE")
            waiting = store.write(settled(2, "acc_a"), in_outage="wait")
            refused, kept = store.write(settled(3, "acc_a")), store.write(settled(4, "acc_a"), in_outage="keep")
            assert await store.write(settled(5)) == 1
            assert await outcome(refused) == await outcome(kept) == "ledger_unavailable"
            assert await outcome(store.write(settled(6, "acc_a"))) == "ledger_unavailable"
            back = GiveBack("req_00000002", "acc_a", record("req_00000002", "acc_a"))
            given_back = store.write(back, in_outage="wait")
            withdrawn = store.write(settled(7, "acc_a"), in_outage="wait")
            assert await store.write(settled(8)) == 1
            assert store.withdraw(withdrawn)
            assert not store.withdraw(refused)
            assert store.is_available
            assert store.waiting == 3
            outside.run("ROLLBACK")
        assert await waiting == 1
        assert await given_back == 1
    assert books_of(url)[1] == [("acc_a", 3, 1), ("acc_b", 3, 3)]


async def test_what_needs_steps_waits_for_a_locked_wallet_apart_too(url: str) -> None:
    session = WriterSession(url, is_server=False, lock_timeout_ms=50)
    async with opened(url, session) as store:
        await store.write(settled(1, "acc_a"))
        with Outside(url) as outside:
            outside.run("BEGIN")
            outside.run("SELECT 1 FROM wallets WHERE account_id = 'acc_a' FOR UPDATE")
            back = GiveBack("req_00000001", "acc_a", record("req_00000001", "acc_a"))
            given_back = store.write(back, in_outage="wait")
            assert await store.write(settled(2)) == 1
            assert not given_back.done()
            outside.run("ROLLBACK")
        assert await given_back == 1


async def test_what_waits_for_a_locked_wallet_as_the_store_is_closed_is_kept(url: str) -> None:
    session = WriterSession(url, is_server=False, lock_timeout_ms=50)
    store = await PostgresStore.open(url, EXECUTORS, session=session, now_ms=MsClock())
    await store.write(settled(1))
    with Outside(url) as outside:
        outside.run("BEGIN")
        outside.run("SELECT 1 FROM wallets WHERE account_id = 'acc_a' FOR UPDATE")
        late = settled(2, "acc_a")
        waiting = store.write(late, in_outage="wait")
        assert await store.write(settled(3)) == 1
        assert await store.close() == [late]
        assert waiting.cancelled()


async def test_one_locked_wallet_after_the_other(url: str) -> None:
    async with opened(url, WriterSession(url, is_server=False, lock_timeout_ms=50)) as store:
        with Outside(url) as outside:
            outside.run("BEGIN")
            written = []
            for number, account_id in enumerate(("acc_a", "acc_b")):
                outside.rows("SELECT 1 FROM wallets WHERE account_id = ? FOR UPDATE", account_id)
                written.append(store.write(settled(number, account_id), in_outage="wait"))
                await store.write(AddRecord(record(f"req_of_{number}", "acc_c")))
            store._writer._look_soon()
            await eventually(lambda: store._writer._working is not None)
            store._writer._look_soon()
            outside.run("ROLLBACK")
        assert list(await asyncio.gather(*written)) == [1, 1]


class BlindSession(WriterSession):
    """One whose connection is lost as it is asked which wallets are locked, once."""

    is_lost = False

    def locked_wallets(self, accounts: Iterable[str]) -> frozenset[str]:
        if not self.is_lost:
            self.is_lost = True
            raise ConnectionResetError("lost")
        return super().locked_wallets(accounts)


async def test_a_connection_that_is_lost_as_locks_are_looked_for_puts_all_off(url: str) -> None:
    async with opened(url, BlindSession(url, is_server=False, lock_timeout_ms=50)) as store:
        with Outside(url) as outside:
            outside.run("BEGIN")
            outside.run("SELECT 1 FROM wallets WHERE account_id = 'acc_a' FOR UPDATE")
            waiting, refused = store.write(settled(1, "acc_a"), in_outage="wait"), store.write(settled(2))
            assert await outcome(refused) == "ledger_unavailable"
            outside.run("ROLLBACK")
        assert await waiting == 1
