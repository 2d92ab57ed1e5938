"""The wallet of each account: integers in nano-USD, append-only facts, every decision in the writer's transaction.

A hold counts against the balance at once. Granted credit is used before what was paid, that which expires first before
the rest; a hold fixes which grants it draws on. Settling and voiding end a hold once, whoever asks again.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.ledger.entries import (
    AccountsWithExpiredGrants,
    Applied,
    AppliedBy,
    Balance,
    BalanceOf,
    CatchUp,
    Departure,
    Discrepancies,
    End,
    Entry,
    ExpireGrants,
    GiveBack,
    Grant,
    Hold,
    HoldsOf,
    Move,
    OneHold,
    OpenHolds,
    PlaceHold,
    Short,
    VoidHolds,
)
from mcp_gateway.core.ledger.wait_limit import TooLong, WaitLimit
from mcp_gateway.core.ledger.wait_list import WaitList
from mcp_gateway.core.money import OutsideKind, PaidKind, format_usd
from mcp_gateway.core.record import RequestRecord

logger = logging.getLogger(__name__)

_EXPIRY_INTERVAL_S = 10.0
_SWEEP_INTERVAL_S = 60.0
_LONGEST_RETRY_S = 60
"""Of what a request is told to wait that its account's own requests leave no money for."""


class SettlementPending(Exception):
    """A settlement has not reached the disk in time. It is carried out as soon as that can be, unless taken back."""

    def __init__(self, hold: Hold, written: "asyncio.Future[Any]") -> None:
        super().__init__()
        self.hold = hold
        self.written = written


class Ledger:
    """All wallets."""

    def __init__(
        self,
        store: Engine,
        *,
        minimum_balance_nano: int = 0,
        hold_wait_s: float = 0.0,
        settle_wait_s: float = 30.0,
        longest_hold_s: float = 86_400.0,
        topup_url: str | None = None,
    ) -> None:
        self._store = store
        self._now_ms = store.now_ms
        self._minimum_balance_nano = minimum_balance_nano
        self._hold_wait_s = hold_wait_s
        self._wait_list = WaitList()
        self._wait_limit = WaitLimit(settle_wait_s)
        self._longest_hold_s = longest_hold_s
        self._topup = {} if topup_url is None else {"topup_url": topup_url}

    async def hold(self, request_id: str, account_id: str, minimum_nano: int, maximum_nano: int) -> Hold:
        """Set aside up to `maximum_nano`, at least `minimum_nano`, for a request; asked again, the same hold.

        Where the account has the money but its running requests hold it, that is waited for up to `hold_wait_s`.
        Raises GatewayError `insufficient_balance` or `below_minimum_balance` (402), `balance_held` (429),
        `ledger_unavailable` (503). Not durable: a hold dies with the process that made it.
        """
        needed_nano = max(minimum_nano, self._minimum_balance_nano)
        ask = PlaceHold(request_id, account_id, needed_nano, maximum_nano)
        outcome = await self._store.write(ask, is_durable=False)
        if self._hold_wait_s and isinstance(outcome, Short) and _may_come_free(outcome, needed_nano):
            outcome = await self._hold_later(ask)
        if isinstance(outcome, Short):
            raise await self._refusal(outcome, ask, minimum_nano)
        return outcome

    async def _hold_later(self, ask: PlaceHold) -> Hold | Short:
        """Ask again whenever money came free, and a last time at the end: another process may have paid in."""
        loop = asyncio.get_running_loop()
        until_s, is_over = loop.time() + self._hold_wait_s, False
        while True:
            freed = self._wait_list.freed(ask.account_id)  # before it asks, so that nothing is missed between
            outcome = await self._store.write(ask, is_durable=False)
            if is_over or isinstance(outcome, Hold) or not _may_come_free(outcome, ask.needed_nano):
                return outcome
            await asyncio.wait({freed}, timeout=until_s - loop.time())
            is_over = not freed.done()

    async def settle(
        self, hold: Hold, cost_nano: int, record: RequestRecord | None, *, may_exceed: bool = False
    ) -> int:
        """End a hold by charging `cost_nano`; returns what was charged, 0 if it had ended before.

        At most what is held is charged, or where the cost `may_exceed` that, also what the wallet has free just then.
        `record` is written with it, with what was charged as its cost. Returns once it is on the disk. Raises
        SettlementPending where that takes longer than `settle_wait_s`.
        """
        end = End(hold.request_id, "settle", cost_nano, record, may_exceed)
        written = self._store.write(end, in_outage="wait")
        try:
            return cast(int, await self._wait_limit.wait_for(written))
        except TooLong:
            raise SettlementPending(hold, written) from None
        finally:
            self._freed_by(written, hold.account_id)

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
        voided = self._keep(End(request_id, "void", 0, record), is_durable=False)
        if record is not None:
            self._freed_by(voided, record.account_id)
        await voided

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
        is_new = await self._store.write(Move(account_id, kind, amount_nano, reference, note))
        self.wake(account_id)
        return is_new

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
        is_new = await self._store.write(Grant(account_id, amount_nano, reference, expires_at_ms, note))
        self.wake(account_id)
        return is_new

    def wake(self, account_id: str) -> None:
        """Have requests look again that wait for money of this account, which may have some now."""
        self._wait_list.wake(account_id)

    async def applied(self, kind: OutsideKind, reference: str) -> Applied | None:
        """The entry from outside that has this reference; None where there is none."""
        return await self._store.read(AppliedBy(kind, reference))

    async def balance(self, account_id: str) -> Balance:
        """The account's wallet as of the last commit; empty for an account without one."""
        return await self._store.read(BalanceOf(account_id))

    async def catch_up(self, entries: Iterable[Entry | RequestRecord]) -> None:
        """Carry out what an earlier process could not; what it had carried out is not done again. Durable."""
        await self._store.write(CatchUp(tuple(entries)))

    async def void_open_holds(self) -> int:
        """Void every hold there is; right only at start, before this process has made one. Returns how many."""
        return await self._store.write(VoidHolds(None))

    async def void_stale_holds(self) -> int:
        """Void the holds that are older than any request can be, and so nobody's. Returns how many."""
        return await self._store.write(VoidHolds(self._now_ms() - int(self._longest_hold_s * 1000)))

    async def open_holds(self) -> tuple[int, int, float]:
        """Of the last commit: how many requests hold money, how many nano-USD, and for how many seconds the oldest."""
        now_ms = self._now_ms()
        held = await self._store.read(OpenHolds())
        oldest_s = 0.0 if held.since_ms is None else (now_ms - held.since_ms) / 1000
        return held.requests, held.amount_nano, oldest_s

    async def expire_grants(self) -> int:
        """Take back what is left, and not held, of every grant whose time is over; returns nano-USD."""
        account_ids = await self._store.read(AccountsWithExpiredGrants(self._now_ms()))
        return await self._store.write(ExpireGrants(account_ids)) if account_ids else 0

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
        return [f"{what}: {', '.join(map(str, row))}" for what, row in await self._store.read(Discrepancies())]

    async def _refusal(self, short: Short, ask: PlaceHold, minimum_nano: int) -> GatewayError:
        """What a program can tell apart: money is missing, which is final, or the account's own requests hold it."""
        holds = await self._store.read(HoldsOf(ask.account_id)) if short.held_nano else ()
        balance, held = format_usd(short.spendable_nano), format_usd(short.held_nano)
        details = {"balance_usd": balance, "held_usd": held, "holding_requests": len(holds)}
        if _may_come_free(short, ask.needed_nano):
            message = (
                f"The balance of {balance} USD does not cover this request, which needs "
                f"{format_usd(ask.needed_nano)} USD: {held} USD are held for {len(holds)} of your running requests."
            )
            wait_s = _expected_wait_s(holds, ask.needed_nano - short.spendable_nano, self._now_ms())
            return GatewayError("balance_held", message, retry_after_s=wait_s, details=details)
        code: Code
        if short.spendable_nano < minimum_nano:
            code = "insufficient_balance"
            message = (
                f"The balance of {balance} USD does not cover this request, "
                f"which may cost at least {format_usd(minimum_nano)} USD."
            )
        else:
            code = "below_minimum_balance"
            message = f"Requests need a balance of {format_usd(self._minimum_balance_nano)} USD."
        return GatewayError(code, message, details=details | self._topup)

    def _freed_by(self, written: "asyncio.Future[Any]", account_id: str) -> None:
        """Wake who waits for the account's money once this is written."""
        if self._wait_list:
            written.add_done_callback(lambda _: self.wake(account_id))

    def _keep(self, one: Entry, *, is_durable: bool = True) -> "asyncio.Future[Any]":
        """Queue what must be carried out in the end, whoever waits for it."""
        written = self._store.write(one, is_durable=is_durable, in_outage="keep")
        written.add_done_callback(_look_at)
        return written


def _check_can_own(account_id: str) -> None:
    if account_id == GUEST_ACCOUNT_ID:
        raise GatewayError("conflict", "Guests have no money: they are served free of charge, or not at all.")


def _may_come_free(short: Short, needed_nano: int) -> bool:
    return short.spendable_nano + short.held_nano >= needed_nano


def _expected_wait_s(holds: Sequence[OneHold], missing_nano: int, now_ms: int) -> int:
    """1 to 60 s: as long again as those have run that hold what is missing, the latest first.

    Nothing else is known of when a request ends; of times without a scale the rest is expected to equal the age.
    """
    since_ms = now_ms
    for hold in holds:
        since_ms = hold.since_ms
        missing_nano -= hold.amount_nano
        if missing_nano <= 0:
            break
    return min(max(1, (now_ms - since_ms) // 1000), _LONGEST_RETRY_S)


def _look_at(written: "asyncio.Future[Any]") -> None:
    """So that the failure of what nobody waits for is not reported as forgotten; the store has logged it."""
    if not written.cancelled():
        written.exception()
