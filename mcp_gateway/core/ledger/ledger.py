"""The wallet of each account: integers in nano-USD, append-only facts, every decision in the writer's transaction.

A hold counts against the balance at once. Granted credit is used before what was paid, that which expires first before
the rest; a hold fixes which grants it draws on. Settling and voiding end a hold once, whoever asks again.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.ledger import grants
from mcp_gateway.core.ledger.checks import CHECKS
from mcp_gateway.core.ledger.journal import Journal, OpenHold
from mcp_gateway.core.ledger.patience import Patience, TooLong
from mcp_gateway.core.money import MAX_NANO, OutsideKind, PaidKind, format_usd
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.wallet import WalletObject

logger = logging.getLogger(__name__)

_EXPIRY_INTERVAL_S = 10.0
_SWEEP_INTERVAL_S = 60.0
_KINDS_OF_A_REQUEST = ("kind = 'hold'", "kind IN ('settle', 'void')", "kind = 'refund_of_request'")
"""Of the transactions that bear a request's id; each in the words by which SQLite knows that an index serves."""
_KINDS_FROM_OUTSIDE = "kind = 'credit' OR kind = 'grant' OR kind = 'refund' OR kind = 'dispute' OR kind = 'adjustment'"
"""Which apply once, in the words of their index."""
_FROM_OUTSIDE = f"FROM ledger_transactions WHERE kind = ? AND reference = ? AND ({_KINDS_FROM_OUTSIDE})"


class Applied(NamedTuple):
    """An entry that brought money in or took it back."""

    account_id: str
    amount_nano: int


class Hold(NamedTuple):
    """What is set aside for a request."""

    request_id: str
    account_id: str
    amount_nano: int


class _Ask(NamedTuple):
    """A hold that is asked for."""

    request_id: str
    account_id: str
    minimum_nano: int
    maximum_nano: int


class End(NamedTuple):
    """A settlement or a void, and the record of the request, which goes into the same transaction.

    Where `may_exceed`, what the cost is above the hold is taken from what the wallet has free.
    """

    request_id: str
    kind: Literal["settle", "void"]
    cost_nano: int
    record: RequestRecord | None
    may_exceed: bool = False


class GiveBack(NamedTuple):
    """What a request was charged, to be returned, since its answer was refused; `record` says so in its log."""

    request_id: str
    account_id: str
    record: RequestRecord


class Departure(NamedTuple):
    """A client that left while its answer was settled, which it pays; `record` says in the request log that it left."""

    request_id: str
    record: RequestRecord


Entry = End | GiveBack | Departure
"""What is carried out in the end, whatever lies between."""


class SettlementPending(Exception):
    """A settlement has not reached the disk in time. It is carried out as soon as that can be, unless taken back."""

    def __init__(self, hold: Hold, written: "asyncio.Future[Any]") -> None:
        super().__init__()
        self.hold = hold
        self.written = written


@dataclass(frozen=True, slots=True)
class Balance:
    """Nano-USD of an account: spendable are `paid_nano` and `granted_nano`; `held_nano` is set aside already."""

    paid_nano: int = 0
    granted_nano: int = 0
    held_nano: int = 0

    @property
    def spendable_nano(self) -> int:
        return self.paid_nano + self.granted_nano

    def as_object(self) -> WalletObject:
        """What both doors tell of a wallet."""
        return WalletObject(
            currency="USD",
            balance_usd=format_usd(self.spendable_nano),
            granted_usd=format_usd(self.granted_nano),
            held_usd=format_usd(self.held_nano),
        )


class Ledger:
    """All wallets."""

    def __init__(
        self,
        store: Engine,
        *,
        now_ms: Callable[[], int],
        minimum_balance_nano: int = 0,
        settle_wait_s: float = 30.0,
        longest_hold_s: float = 86_400.0,
        topup_url: str | None = None,
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._minimum_balance_nano = minimum_balance_nano
        self._patience = Patience(settle_wait_s)
        self._longest_hold_s = longest_hold_s
        self._topup = {} if topup_url is None else {"topup_url": topup_url}
        self._group = self._hold_and_end

    async def hold(self, request_id: str, account_id: str, minimum_nano: int, maximum_nano: int) -> Hold:
        """Set aside up to `maximum_nano`, at least `minimum_nano`, for a request; asked again, the same hold.

        Raises GatewayError `insufficient_balance` or `below_minimum_balance` (402), `ledger_unavailable` (503).
        Not durable: a hold dies with the process that made it.
        """
        ask = _Ask(request_id, account_id, minimum_nano, maximum_nano)
        return cast(Hold, await self._store.write_grouped(self._group, ask, is_durable=False))

    async def settle(
        self, hold: Hold, cost_nano: int, record: RequestRecord | None, *, may_exceed: bool = False
    ) -> int:
        """End a hold by charging `cost_nano`; returns what was charged, 0 if it had ended before.

        At most what is held is charged, or where the cost `may_exceed` that, also what the wallet has free just then.
        `record` is written with it, with what was charged as its cost. Returns once it is on the disk. Raises
        SettlementPending where that takes longer than `settle_wait_s`.
        """
        end = End(hold.request_id, "settle", cost_nano, record, may_exceed)
        written = self._store.write_grouped(self._group, end, in_outage="wait", instead=_instead)
        try:
            return cast(int, await self._patience.wait_for(written))
        except TooLong:
            raise SettlementPending(hold, written) from None

    def take_back(self, pending: SettlementPending, record: RequestRecord) -> None:
        """Charge nothing after all, since the answer is refused; `record` says so in the request log.

        Certain from this call on: a settlement that still waits is withdrawn, one that is committed is given back by an
        entry of its own, which is queued behind it.
        """
        if self._store.withdraw(pending.written):
            self._keep(End(pending.hold.request_id, "void", 0, record))
        else:
            self.give_back(pending.hold, record)

    def give_back(self, hold: Hold, record: RequestRecord) -> "asyncio.Future[int]":
        """Return what a request was charged, if anything, once; `record` says why in the request log."""
        return self._keep(GiveBack(hold.request_id, hold.account_id, record))

    def note_departure(self, record: RequestRecord) -> "asyncio.Future[int]":
        """Have the request log say that the client had left, whose settlement or void was queued before."""
        return self._keep(Departure(record.id, record), is_durable=False)

    async def void(self, request_id: str, record: RequestRecord | None) -> None:
        """End a request's hold, if there is one, by giving all of it back.

        Raises GatewayError `ledger_unavailable` where that takes longer; it is still carried out.
        """
        await self._keep(End(request_id, "void", 0, record), is_durable=False)

    async def credit(self, account_id: str, amount_nano: int, reference: str, *, note: str | None = None) -> bool:
        """Add paid money from outside; False if `reference` was applied before.

        `note` is a line for the operator. Raises GatewayError: `conflict` for the guests' account, which pays for
        nothing, `invalid_value` for more than a wallet can hold.
        """
        if amount_nano <= 0:
            raise ValueError("a credit is more than nothing")
        return await self._move_by_hand(account_id, "credit", amount_nano, reference, note)

    async def adjust(self, account_id: str, amount_nano: int, reference: str, *, note: str | None = None) -> bool:
        """Correct what was paid by hand, up or down, below nothing too. Returns and raises as `credit`."""
        return await self._move_by_hand(account_id, "adjustment", amount_nano, reference, note)

    async def _move_by_hand(
        self, account_id: str, kind: PaidKind, amount_nano: int, reference: str, note: str | None
    ) -> bool:
        _check_can_own(account_id)

        def work(connection: sqlite3.Connection) -> bool:
            is_new = self.move(connection, account_id, kind, amount_nano, reference)
            if is_new:
                _note(connection, kind, reference, note)
            return is_new

        return await self._store.write(work)

    async def grant(
        self,
        account_id: str,
        amount_nano: int,
        reference: str,
        *,
        expires_at_ms: int | None = None,
        note: str | None = None,
    ) -> bool:
        """Give credit that nobody paid for; False if `reference` was applied before. Raises as `credit`."""
        if amount_nano <= 0:
            raise ValueError("a grant is more than nothing")
        _check_can_own(account_id)

        def work(connection: sqlite3.Connection) -> bool:
            if _is_applied(connection, "grant", reference):
                return False
            journal = self._journal(connection)
            journal.post(account_id, "grant", reference, granted=amount_nano, grant_source=-amount_nano)
            _check_fits(journal, account_id)
            journal.write()
            _note(connection, "grant", reference, note)
            row = (account_id, amount_nano, expires_at_ms, journal.now_ms)
            connection.execute(
                "INSERT INTO grants (account_id, remaining_nano, expires_at_ms, created_at_ms) VALUES (?, ?, ?, ?)", row
            )
            return True

        return await self._store.write(work)

    async def applied(self, kind: OutsideKind, reference: str) -> Applied | None:
        """The entry from outside that has this reference; None where there is none."""
        sql = f"SELECT account_id, paid_nano + granted_nano {_FROM_OUTSIDE}"
        row = await self._store.fetch_one(sql, (kind, reference))
        return None if row is None else Applied(*row)

    async def balance(self, account_id: str) -> Balance:
        """The account's wallet as of the last commit; empty for an account without one."""
        sql = "SELECT paid_nano, granted_nano, held_nano FROM wallets WHERE account_id = ?"
        row = await self._store.fetch_one(sql, (account_id,))
        return Balance(*row) if row else Balance()

    async def catch_up(self, entries: Iterable[Entry | RequestRecord]) -> None:
        """Carry out what an earlier process could not; what it had carried out is not done again. Durable."""

        def work(connection: sqlite3.Connection) -> None:
            for entry in entries:
                request_id = entry.id if isinstance(entry, RequestRecord) else entry.request_id
                journal = Journal(connection, self._now_ms(), [request_id])
                if isinstance(entry, RequestRecord):
                    journal.record(entry)
                else:
                    self._outcome(journal, entry)
                journal.write()

        await self._store.write(work)

    async def void_open_holds(self) -> int:
        """Void every hold there is; right only at start, before this process has made one. Returns how many."""
        return await self._void_holds_before(None)

    async def void_stale_holds(self) -> int:
        """Void the holds that are older than any request can be, and so nobody's. Returns how many."""
        return await self._void_holds_before(self._now_ms() - int(self._longest_hold_s * 1000))

    async def open_holds(self) -> tuple[int, int, float]:
        """Of the last commit: how many requests hold money, how many nano-USD, and for how many seconds the oldest."""
        now_ms = self._now_ms()
        row = await self._store.fetch_one(
            "SELECT COUNT(*), COALESCE(SUM(paid_nano + granted_nano), 0), MIN(created_at_ms) FROM holds"
        )
        assert row is not None
        count, held_nano, since_ms = row
        return count, held_nano, 0.0 if since_ms is None else (now_ms - since_ms) / 1000

    async def expire_grants(self) -> int:
        """Take back what is left, and not held, of every grant whose time is over; returns nano-USD."""
        sql = "SELECT DISTINCT account_id FROM grants WHERE remaining_nano > 0 AND expires_at_ms <= ?"
        rows = await self._store.fetch_all(sql, (self._now_ms(),))

        def work(connection: sqlite3.Connection) -> int:
            journal = self._journal(connection)
            taken_nano = sum(grants.expire(journal, account_id) for (account_id,) in rows)
            journal.write()
            return taken_nano

        return await self._store.write(work) if rows else 0

    @property
    def is_writable(self) -> bool:
        """Whether holds and settlements go through now."""
        return self._store.is_available

    def backlog(self) -> tuple[int, int]:
        """How many writes wait for the database, and the bytes of its log. Raises OSError."""
        return self._store.waiting, self._store.log_bytes

    async def watch_grants(self) -> None:
        """Expire grants as their time comes, until cancelled; a hold does not wait for this."""
        while True:
            with suppress(GatewayError):  # the database cannot be written: the next round does it
                await self.expire_grants()
            await asyncio.sleep(_EXPIRY_INTERVAL_S)

    async def watch_holds(self) -> None:
        """Void stale holds now and then, until cancelled: a bug must not keep a customer's money until a restart."""
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            with suppress(GatewayError):
                if count := await self.void_stale_holds():
                    logger.critical("voided %d holds that no request can still have", count)

    async def check(self) -> list[str]:
        """Every discrepancy between the facts and what is derived from them, in words; empty is good."""
        return [
            f"{what}: {', '.join(map(str, row))}"
            for what, sql in CHECKS.items()
            for row in await self._store.fetch_all(sql)
        ]

    # Inside the writer's transaction

    def move(
        self, connection: sqlite3.Connection, account_id: str, kind: PaidKind, amount_nano: int, reference: str
    ) -> bool:
        """Add paid money from outside, or take it back where `amount_nano` is negative: for a write of someone else's.

        False if its `reference` was applied before. May leave less
        than nothing. Raises GatewayError `invalid_value` for more than a wallet can hold.
        """
        if _is_applied(connection, kind, reference):
            return False
        journal = self._journal(connection)
        journal.post(account_id, kind, reference, paid=amount_nano, clearing=-amount_nano)
        _check_fits(journal, account_id)
        journal.write()
        return True

    def _hold_and_end(
        self, connection: sqlite3.Connection, wanted: Sequence[_Ask | Entry]
    ) -> list[Hold | int | GatewayError]:
        """The store's group for what a request costs: decided in order, read and written together."""
        request_ids = [one.request_id for one in wanted]
        journal = Journal(connection, self._now_ms(), request_ids)
        outcomes: list[Hold | int | GatewayError] = []
        for one in wanted:
            if isinstance(one, GiveBack):  # it reads what those before it have written
                journal.write()
                journal = Journal(connection, self._now_ms(), request_ids)
            try:
                outcomes.append(self._outcome(journal, one))
            except GatewayError as refusal:
                outcomes.append(refusal)
        journal.write()
        return outcomes

    def _outcome(self, journal: Journal, one: _Ask | Entry) -> Hold | int:
        if isinstance(one, _Ask):
            return self._hold(journal, one)
        if isinstance(one, Departure):
            journal.correct(one.record, keeps_cost=True)
            return 0
        return _end(journal, one) if isinstance(one, End) else _give_back(journal, one)

    def _hold(self, journal: Journal, ask: _Ask) -> Hold:
        request_id, account_id, minimum_nano, maximum_nano = ask
        if (before := journal.hold_of(request_id)) is not None:
            return Hold(request_id, account_id, before.amount_nano)
        wallet = journal.wallet(account_id)
        if wallet.granted_nano:
            grants.expire(journal, account_id)
        spendable_nano = wallet.paid_nano + wallet.granted_nano
        self._check_affordable(spendable_nano, minimum_nano)
        amount_nano = min(maximum_nano, spendable_nano)
        from_grants_nano = min(wallet.granted_nano, amount_nano)
        if from_grants_nano:
            grants.draw(journal.connection, request_id, account_id, from_grants_nano)
        journal.open(request_id, OpenHold(account_id, amount_nano - from_grants_nano, from_grants_nano))
        return Hold(request_id, account_id, amount_nano)

    def _check_affordable(self, spendable_nano: int, minimum_nano: int) -> None:
        if spendable_nano < minimum_nano:
            code: Code = "insufficient_balance"
            message = (
                f"The balance of {format_usd(spendable_nano)} USD does not cover this request, "
                f"which may cost at least {format_usd(minimum_nano)} USD."
            )
        elif spendable_nano < self._minimum_balance_nano:
            code = "below_minimum_balance"
            message = f"Requests need a balance of {format_usd(self._minimum_balance_nano)} USD."
        else:
            return
        details = {"balance_usd": format_usd(spendable_nano), **self._topup}
        raise GatewayError(code, message, details=details)

    async def _void_holds_before(self, created_before_ms: int | None) -> int:
        def work(connection: sqlite3.Connection) -> int:
            journal = Journal.of_all_holds(connection, self._now_ms(), created_before_ms)
            requests = journal.open_requests
            for request_id in requests:
                _end(journal, End(request_id, "void", 0, None))
            journal.write()
            return len(requests)

        return await self._store.write(work)

    def _journal(self, connection: sqlite3.Connection) -> Journal:
        return Journal(connection, self._now_ms())

    def _keep(self, one: Entry, *, is_durable: bool = True) -> "asyncio.Future[Any]":
        """Queue what must be carried out in the end, whoever waits for it."""
        written = self._store.write_grouped(self._group, one, is_durable=is_durable, in_outage="keep", instead=_instead)
        written.add_done_callback(_look_at)
        return written


def _end(journal: Journal, end: End) -> int:
    hold = journal.hold_of(end.request_id)
    charged_nano = 0 if hold is None else _charge(journal, hold, end)
    if (record := end.record) is not None:
        journal.record(record if record.cost_nano == charged_nano else record._replace(cost_nano=charged_nano))
    return charged_nano


def _charge(journal: Journal, hold: OpenHold, end: End) -> int:
    """End the hold; returns what of the cost was charged."""
    excess_nano = end.cost_nano - hold.amount_nano
    if excess_nano > 0 and end.may_exceed:
        granted_nano, paid_nano = _take_free(journal, hold.account_id, excess_nano)
        granted_back_nano, paid_back_nano = -granted_nano, -paid_nano
    else:
        charged_nano = min(end.cost_nano, hold.amount_nano)
        granted_back_nano = max(hold.granted_nano - charged_nano, 0)
        paid_back_nano = hold.amount_nano - charged_nano - granted_back_nano
    if hold.granted_nano:
        grants.give_back(journal.connection, end.request_id, max(granted_back_nano, 0))
    journal.end(end.request_id, end.kind, paid_back=paid_back_nano, granted_back=granted_back_nano)
    return hold.amount_nano - paid_back_nano - granted_back_nano


def _take_free(journal: Journal, account_id: str, amount_nano: int) -> tuple[int, int]:
    """What of `amount_nano` the wallet has free, beyond all holds: (granted, paid). Takes it from the grants."""
    wallet = journal.wallet(account_id)
    if wallet.granted_nano:
        grants.expire(journal, account_id)
    granted_nano = min(amount_nano, wallet.granted_nano)
    if granted_nano:
        grants.take(journal.connection, account_id, granted_nano)
    return granted_nano, min(amount_nano - granted_nano, max(wallet.paid_nano, 0))


def _give_back(journal: Journal, back: GiveBack) -> int:
    """Return all that a request was charged, once, and correct its record; returns how much."""
    parts = (f"SELECT * FROM ledger_transactions WHERE reference = :id AND {kinds}" for kinds in _KINDS_OF_A_REQUEST)
    sql = f"SELECT -SUM(paid_nano), -SUM(granted_nano), SUM(revenue_nano) FROM ({' UNION ALL '.join(parts)})"
    paid_nano, granted_nano, revenue_nano = journal.connection.execute(sql, {"id": back.request_id}).fetchone()
    journal.correct(back.record)
    if not revenue_nano:
        return 0
    if granted_nano:
        grants.return_charged(journal, back.account_id, granted_nano)
    journal.post(
        back.account_id, "refund_of_request", back.request_id,
        paid=paid_nano, granted=granted_nano, revenue=-revenue_nano,
    )  # fmt: skip
    return int(revenue_nano)


def _instead(one: _Ask | Entry) -> End | None:
    """What stands in for an end that fails for an unknown reason: without its record, then a void, so that no hold
    stays for ever.
    """
    if not isinstance(one, End):
        return None
    if one.record is not None:
        return one._replace(record=None)
    if one.kind == "void":
        return None
    logger.critical("the settlement of request %s fails, so that its hold is voided", one.request_id)
    return End(one.request_id, "void", 0, None)


def _check_can_own(account_id: str) -> None:
    if account_id == GUEST_ACCOUNT_ID:
        raise GatewayError("conflict", "Guests have no money: they are served free of charge, or not at all.")


def _check_fits(journal: Journal, account_id: str) -> None:
    """Before anything is written: paid, granted and held money together must fit in a number of the database."""
    wallet = journal.wallet(account_id)
    paid_nano, others_nano = wallet.paid_nano, wallet.granted_nano + wallet.held_nano
    if not -MAX_NANO <= paid_nano <= MAX_NANO - others_nano:
        raise GatewayError("invalid_value", "With this amount the account would have more than the ledger can hold.")


def _note(connection: sqlite3.Connection, kind: OutsideKind, reference: str, note: str | None) -> None:
    """Keep an operator's line with the entry that was just made."""
    if note is not None:
        connection.execute(f"INSERT INTO transaction_notes SELECT id, ? {_FROM_OUTSIDE}", (note, kind, reference))


def _look_at(written: "asyncio.Future[Any]") -> None:
    """So that the failure of what nobody waits for is not reported as forgotten; the store has logged it."""
    if not written.cancelled():
        written.exception()


def _is_applied(connection: sqlite3.Connection, kind: OutsideKind, reference: str) -> bool:
    return connection.execute(f"SELECT 1 {_FROM_OUTSIDE}", (kind, reference)).fetchone() is not None
