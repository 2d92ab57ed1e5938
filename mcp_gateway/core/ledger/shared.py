"""The wallet of each account where several replicas serve: holds are in memory, of what is allotted to this replica.

Where that covers a hold or a raise, nothing else is asked. Else the replica draws: one write, for all draws of a moment
one commit, allots it what is free. Where others are allotted what is missing, they are asked for what they do not hold
of it before anybody is refused. What is not needed goes back; what a dead replica has is taken from it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, cast

from mcp_gateway.core.engine import DatabaseError, Engine, unavailable
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.allotments import (
    PAID,
    AllAllotted,
    AllMoneyOf,
    Allotted,
    Amounts,
    AskForMoney,
    BudgetsMoved,
    Draw,
    Drawn,
    MoneyReturned,
    MoneyWanted,
    ReturnAllotted,
    StartedAnew,
    TakeFromDead,
)
from mcp_gateway.core.ledger.allotted_purse import AllottedPurse, WholePurse
from mcp_gateway.core.ledger.budget_book import Holders, Spender
from mcp_gateway.core.ledger.budgets import BudgetsChanged, BudgetSpent, PocketLeft
from mcp_gateway.core.ledger.entries import HeldOf, WalletState
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.purse import Hold, Purse, Purses
from mcp_gateway.core.ledger.wait_list import WaitList
from mcp_gateway.core.record import EndedBy, RequestRecord

logger = logging.getLogger(__name__)

_ANSWER_S = 0.5
"""How long others are waited for that are asked for money; who is silent for longer holds it."""
_WANTED_S = 2.0
"""For how long after others asked for an account's money it goes back as soon as it comes free."""
_IDLE_S = 1.0
"""How often it is looked for what nothing was held of meanwhile."""
_DEAD_EVERY_S = 5.0
_MOST_RETURNED_AT_ONCE = 500
_SILENT_S = 2.0
"""For how long nobody waits for one that did not answer."""
_MOST_DRAWS = 20
"""For one hold, however often budgets change meanwhile."""


class _Asked:
    """The others, for an account's money."""

    def __init__(self) -> None:
        self.answered = asyncio.get_running_loop().create_future()
        self._who: set[int] | None = None
        self._heard: set[int] = set()

    @property
    def silent(self) -> set[int]:
        """Who has not answered."""
        return set() if self._who is None else self._who - self._heard

    def wait_for(self, replicas: set[int]) -> None:
        """Those who are to answer, some of whom may have done so."""
        self._who = replicas
        self._look()

    def hear(self, replica: int) -> None:
        self._heard.add(replica)
        self._look()

    def _look(self) -> None:
        if self._who is not None and not self.silent and not self.answered.done():
            self.answered.set_result(None)


class SharedWaitList(WaitList):
    """Whose money others want is given back as it comes free."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[str, float] = {}
        """Accounts that others have asked for, and until when that counts."""
        self.may_return: Callable[[str], None] = _nobody

    def wake(self, account_id: str) -> None:
        super().wake(account_id)
        if account_id in self.wanted:
            self.may_return(account_id)


def _nobody(_: str) -> None: ...


class SharedLedger(Ledger):
    """All wallets, as far as one replica of several decides about them."""

    def __init__(
        self, store: Engine, replica: Callable[[], int | None], hears_others: Callable[[], bool], **options: Any
    ) -> None:
        """`replica` is which of them this one is by now, `hears_others` whether it hears what they ask for."""
        super().__init__(store, **options)
        self._replica = replica
        self._hears_others = hears_others
        self._numbers = count(1)
        self._asked: dict[str, _Asked] = {}
        self._silent: dict[int, float] = {}
        """Replicas that did not answer, and until when nobody waits for them."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._due: set[str] = set()
        """Accounts whose surplus goes back in the next turn."""
        self._shared_list.may_return = self._return_soon
        store.listen(Allotted, self._allotted)
        store.listen(StartedAnew, self._started_anew)
        store.listen(MoneyWanted, self._money_wanted)
        store.listen(MoneyReturned, self._money_returned)
        store.listen(BudgetsMoved, self._budgets_moved)
        store.on_unheard(self._unheard)

    def _known_nothing(self) -> tuple[Purses, WaitList]:
        self._shared_list = SharedWaitList()
        return Purses(AllottedPurse), self._shared_list

    def _purse(self, account_id: str) -> AllottedPurse:
        return cast(AllottedPurse, self._purses.of(account_id))

    async def hold(
        self,
        request_id: str,
        account_id: str,
        minimum_nano: int,
        maximum_nano: int,
        holders: Holders = frozenset(),
        *,
        waited_s: float = 0.0,
    ) -> Hold:
        """As of any ledger; what is allotted is decided at once where it covers all of it."""
        if not self._store.is_available:
            raise unavailable()
        by = Spender(holders, minimum_nano)
        purse, needed_nano = self._purse(account_id), self._refusals.needed_nano(by)
        if purse.covers(by, max(needed_nano, maximum_nano), self._now_ms()) and (
            hold := self._purses.place(purse, request_id, needed_nano, maximum_nano, self._now_ms(), by)
        ):
            return hold
        return await self._hold_after_reading(request_id, account_id, maximum_nano, by, self._hold_wait_s - waited_s)

    async def hold_if_ample(
        self, request_id: str, account_id: str, most_nano: int, ample_nano: int, holders: Holders = frozenset()
    ) -> Hold | None:
        """As of any ledger: what is ample is allotted, if it is free."""
        if not self._store.is_available:
            raise unavailable()
        by, purse = Spender(holders, ample_nano), self._purse(account_id)
        needed_nano = self._refusals.needed_nano(by)
        if not purse.covers(by, needed_nano, self._now_ms()):
            await self._draw(purse, lambda _: purse.lacks(needed_nano, needed_nano, by, self._now_ms()), needed_nano)
            purse.know_spender(holders)
        return self._purses.place(purse, request_id, needed_nano, most_nano, self._now_ms(), by)

    async def check_balance(self, account_id: str, minimum_nano: int, holders: Holders = frozenset()) -> None:
        by = Spender(holders, minimum_nano)
        if self._purse(account_id).covers(by, self._refusals.needed_nano(by), self._now_ms()):
            return
        if not self._may_come_free(await self._read_returned(account_id), by):
            raise self.refusal(account_id, minimum_nano, holders)

    async def resize(self, hold: Hold, needed_nano: int, most_nano: int) -> bool:
        now_ms, held_nano = self._now_ms(), hold.amount_nano
        if self._purses.resize(hold, most_nano, most_nano, now_ms):
            if hold.amount_nano < held_nano:
                self._wait_list.wake(hold.account_id)
            return True
        purse = self._purse(hold.account_id)
        with suppress(DatabaseError, GatewayError):  # what is allotted already is what there is

            def lacks(_: bool) -> Draw:
                return purse.lacks_of(hold, needed_nano, most_nano, self._now_ms())

            for _ in range(_MOST_DRAWS):
                is_covered = await self._draw_all(purse, lacks)
                if self._purses.resize(hold, needed_nano, most_nano, self._now_ms()):
                    return True
                if not is_covered:
                    return False
        return self._purses.resize(hold, needed_nano, most_nano, self._now_ms())

    async def _draw_all(self, purse: AllottedPurse, lacks: Callable[[bool], Draw], promised_nano: int = 0) -> bool:
        """What others do not hold, too, and what is left of leases that are over; whether what is needed is allotted.

        Others of this replica may hold it before whoever asked does.
        """
        drawn = await self._draw(purse, lacks, promised_nano)
        if await self._ask(purse.account_id, self._others_in(drawn)):
            drawn = await self._draw(purse, lacks, promised_nano)
        if not drawn.is_covered and await self._return_over(purse.account_id):
            drawn = await self._draw(purse, lacks, promised_nano)
        return drawn.is_covered

    async def settle(
        self, hold: Hold, cost_nano: int, record: RequestRecord | None, *, may_exceed: bool = False
    ) -> int:
        """As of any ledger; what exceeds the hold is drawn before it is charged."""
        if may_exceed and hold.state == "open" and cost_nano > hold.amount_nano:
            purse = self._purse(hold.account_id)

            def lacks(_: bool) -> Draw:
                return purse.lacks_of(hold, 0, cost_nano, self._now_ms())

            if self._store.is_available:
                with suppress(DatabaseError, GatewayError):  # what is allotted already is what there is
                    await self._draw_all(purse, lacks, cost_nano - hold.amount_nano)
        return await super().settle(hold, cost_nano, record, may_exceed=may_exceed)

    def what_ends(self, hold: Hold, needed_nano: int) -> EndedBy:
        view = self._seen(hold.account_id)
        return "budget" if view.can_pay(hold, needed_nano, self._now_ms()) else "balance"

    async def _hold_after_reading(
        self, request_id: str, account_id: str, most_nano: int, by: Spender, wait_s: float
    ) -> Hold:
        """Draw what is lacking; where others have it, once they were asked; then whenever money comes free."""
        needed_nano, loop = self._refusals.needed_nano(by), asyncio.get_running_loop()
        until_s, purse, draws = loop.time() + wait_s, self._purse(account_id), 0

        def lacks(beside_others: bool) -> Draw:
            return purse.lacks(needed_nano, most_nano, by, self._now_ms(), beside_others=beside_others)

        while True:
            is_covered = await self._draw_all(purse, lacks, max(needed_nano, most_nano))
            purse.know_spender(by.holders)
            hold = self._purses.place(purse, request_id, needed_nano, most_nano, self._now_ms(), by)
            if hold is not None:
                purse.is_idle = False
                return hold
            draws += 1
            if is_covered and draws < _MOST_DRAWS:  # another one of this replica was quicker
                continue
            view, left_s = self._seen(account_id), until_s - loop.time()
            if left_s <= 0 or not self._may_come_free(view, by):
                raise self._refusals.of(view, by, self._now_ms())
            draws = 0
            freed = self._wait_list.freed(account_id)
            await asyncio.wait({freed}, timeout=left_s)

    async def _return_over(self, account_id: str) -> bool:
        """What is left of leases that are over by now; whether there were any."""
        over = self._seen(account_id).budgets.leases_over(self._now_ms())
        if over:
            await self._return(account_id, over)
        return bool(over)

    async def _draw(self, purse: AllottedPurse, lacks: Callable[[bool], Draw], promised_nano: int = 0) -> Drawn:
        """By the budgets as they are; what is promised to others is asked for, too, unless that is too much.

        Raises GatewayError `ledger_unavailable`.
        """
        if not purse.reads:
            purse.begin_to_draw(self._now_ms())
        purse.reads += 1
        beside_others = True
        try:
            for _ in range(_MOST_DRAWS):
                draw, was_beside = lacks(beside_others), beside_others and purse.promised_nano > 0
                purse.promised_nano += promised_nano
                try:
                    drawn = await self._store.write(draw)
                finally:
                    purse.promised_nano -= promised_nano
                if drawn.whole is not None:
                    purse.know_budgets(drawn.whole)
                    purse.whole = drawn.whole
                if drawn.is_outdated:
                    continue
                if drawn.is_covered or not was_beside:
                    break
                beside_others = False
        finally:
            purse.reads -= 1
        return drawn

    def _others_in(self, drawn: Drawn) -> set[int]:
        """Who else has something of the account, where not all that was wanted was free."""
        if drawn.whole is None:
            return set()
        return {replica for replica, amounts in drawn.whole.allotted.items() if amounts} - {self._replica()}

    async def _ask(self, account_id: str, others: set[int]) -> bool:
        """Have others give back what they do not hold, and wait until they have, or for no longer than a moment.

        Who asks while others of this replica do waits for the same answers. False where nobody is there who answers.
        """
        if not self._waited_for(others):
            return False
        asked = self._asked.get(account_id)
        if asked is None:
            asked = self._asked[account_id] = _Asked()
            self._do(self._ask_all(account_id, asked))
        await asyncio.wait({asked.answered}, timeout=2 * _ANSWER_S)
        return True

    def _waited_for(self, replicas: Iterable[int]) -> set[int]:
        """Without those that have been silent just now."""
        now_s = asyncio.get_running_loop().time()
        return {one for one in replicas if self._silent.get(one, 0.0) <= now_s}

    async def _ask_all(self, account_id: str, asked: _Asked) -> None:
        try:
            with suppress(GatewayError):
                others = await self._store.write(AskForMoney(account_id), is_durable=False)
                asked.wait_for(self._waited_for(others))
                await asyncio.wait({asked.answered}, timeout=_ANSWER_S)
        finally:
            del self._asked[account_id]
            if not asked.answered.done():
                silent_until_s = asyncio.get_running_loop().time() + _SILENT_S
                self._silent.update(dict.fromkeys(asked.silent, silent_until_s))
                asked.answered.set_result(None)

    async def have_heard(self, account_id: str) -> None:
        """Wait until the others know what was committed of an account's budgets, or for no longer than a moment."""
        while (before := self._asked.get(account_id)) is not None:
            await asyncio.wait({before.answered})
            await asyncio.sleep(0)
        asked = self._asked[account_id] = _Asked()
        await self._ask_all(account_id, asked)

    async def _read_wallet(self, account_id: str) -> Purse:
        """All of the account as of the last commit, with what others are allotted as if it were held."""
        purse = self._purse(account_id)
        purse.reads += 1
        try:
            whole = await self._store.read(AllMoneyOf(account_id, self._now_ms()))
        finally:
            purse.reads -= 1
        if purse.left is not None and purse.left.version > whole.wallet.version:
            whole = whole._replace(wallet=purse.left)  # else what was charged meanwhile would be neither held nor gone
        purse.know_budgets(whole)
        purse.whole = whole
        return WholePurse(purse, whole, self._replica())

    async def _known(self, account_id: str) -> Purse:
        return await self._read_wallet(account_id)

    def _seen(self, account_id: str) -> Purse:
        """All of the account as it was seen last, with what is held now."""
        purse = self._purse(account_id)
        return purse if purse.whole is None else WholePurse(purse, purse.whole, self._replica())

    def refusal(self, account_id: str, minimum_nano: int, holders: Holders = frozenset()) -> GatewayError:
        by = Spender(holders, minimum_nano)
        return self._refusals.of(self._seen(account_id), by, self._now_ms())

    async def return_leases(self, account_id: str, ended: Sequence[str] = ()) -> int:
        """As of any ledger; what others are allotted of leases that are over is asked for first."""
        view = cast(WholePurse, await self._read_wallet(account_id))
        await self._ask(account_id, view.others)
        return await super().return_leases(account_id, ended)

    async def held_by_all(self) -> dict[str, HeldOf]:
        """By this replica's requests, and what others are allotted."""
        held, own = self.held_by_account(), self._replica()
        for account_id, by_replica in (await self._store.read(AllAllotted())).items():
            for replica, amounts in by_replica.items():
                if replica != own:
                    held[account_id] = _both(held.get(account_id, HeldOf()), amounts)
        return held

    # What goes back

    async def watch_allotments(self) -> None:
        """Give back what is not needed, and take what the dead have, until cancelled."""
        loop, looked_s = asyncio.get_running_loop(), 0.0
        while True:
            await asyncio.sleep(_IDLE_S)
            with suppress(GatewayError):  # the database cannot be written: the next round does it
                await self.return_idle()
                if loop.time() - looked_s >= _DEAD_EVERY_S:
                    looked_s = loop.time()
                    await self.take_from_dead()

    async def return_idle(self) -> None:
        """What is allotted of accounts of which nothing was held, since it was looked at last.

        Without being asked, where it could not hear that: all that nothing is held of.
        """
        hears_others = self._hears_others()
        now_s = asyncio.get_running_loop().time()
        for account_id, until_s in tuple(self._shared_list.wanted.items()):
            if until_s <= now_s:
                del self._shared_list.wanted[account_id]
        idle = []
        for purse in self._purses:
            assert isinstance(purse, AllottedPurse)
            if purse.promised_nano or (purse.holds and hears_others):
                purse.is_idle = False
            elif purse.is_idle or not hears_others:
                idle.append(purse.account_id)
            else:
                purse.is_idle = True
        await self._return_surplus(idle)

    async def take_from_dead(self) -> int:
        """Give back what dead replicas had; how many there were."""
        return await self._store.write(TakeFromDead(), is_durable=False)

    async def _return_surplus(self, account_ids: Sequence[str]) -> None:
        """Of these accounts; nothing is held of it from this call on."""
        amounts: list[tuple[str, Amounts]] = []
        number = next(self._numbers)
        for account_id in account_ids[:_MOST_RETURNED_AT_ONCE]:
            purse = self._purse(account_id)
            surplus = purse.surplus()
            if surplus:
                purse.give(number, surplus)
                amounts.append((account_id, surplus))
        if amounts:
            await self._store.write(ReturnAllotted(number, tuple(amounts)), is_durable=False, in_outage="wait")

    def _return_soon(self, account_id: str) -> None:
        """In one write for all that comes free in this turn."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._return_due)
        self._due.add(account_id)

    def _return_due(self) -> None:
        due, self._due = self._due, set()
        self._do(self._return_surplus(sorted(due)))

    async def _answer(self, account_id: str, *, yields: bool) -> None:
        """Whoever wants an account's money, also where there is none to give."""
        surplus: Amounts = {}
        number, purse = next(self._numbers), self._purses.known(account_id)
        if isinstance(purse, AllottedPurse) and (surplus := purse.surplus(yields=yields)):
            purse.give(number, surplus)
        await self._store.write(ReturnAllotted(number, ((account_id, surplus),)), is_durable=False, in_outage="wait")

    def _do(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("what is allotted could not be given back: %s", type(error).__name__)

    # What is heard

    def _allotted(self, told: Allotted) -> None:
        self._purse(told.account_id).know(told)

    def _started_anew(self, _: StartedAnew) -> None:
        logger.warning("this replica was taken for dead: it goes on with what is free now")
        for purse in self._purses:
            assert isinstance(purse, AllottedPurse)
            purse.forget_allotted()
            purse.outdate()

    def _money_wanted(self, wanted: MoneyWanted) -> None:
        """Of two that want it, the one that began later gives up what it has for itself."""
        self._shared_list.wanted[wanted.account_id] = asyncio.get_running_loop().time() + _WANTED_S
        own = self._replica() or 0
        self._do(self._answer(wanted.account_id, yields=wanted.replica < own))

    def _money_returned(self, told: MoneyReturned) -> None:
        asked = self._asked.get(told.account_id)
        if asked is not None:
            asked.hear(told.replica)
        WaitList.wake(self._wait_list, told.account_id)

    def _budgets_moved(self, told: BudgetsMoved) -> None:
        purse = self._purses.known(told.account_id)
        if purse is not None:
            cast(AllottedPurse, purse).outdate()

    def _unheard(self) -> None:
        """Whatever others have changed meanwhile; the database may be one that took the place of a later one, too."""
        for purse in self._purses:
            assert isinstance(purse, AllottedPurse)
            purse.outdate()
            purse.left = None

    def _wallet_changed(self, state: WalletState) -> None:
        """A commit of this replica has changed it, for whoever reads or waits; what may be held is told by itself."""
        if (purse := self._purses.known(state.account_id)) is not None:
            cast(AllottedPurse, purse).left = state
        WaitList.wake(self._wait_list, state.account_id)

    def _budgets_changed(self, told: BudgetsChanged) -> None:
        purse = self._purses.known(told.account_id)
        if purse is not None:
            purse.budgets.change(told)
            cast(AllottedPurse, purse).outdate()
            WaitList.wake(self._wait_list, told.account_id)

    def _budget_spent(self, told: BudgetSpent) -> None:
        """What may be held of a window is told by itself."""

    def _pocket_changed(self, told: PocketLeft) -> None:
        WaitList.wake(self._wait_list, told.account_id)


def _both(held: HeldOf, amounts: Amounts) -> HeldOf:
    """What requests hold, and what a replica is allotted."""
    paid_nano, granted_nano, leased_nano = held
    for fund, nano in amounts.items():
        if fund.kind == "pocket":
            leased_nano += nano
        elif fund.kind == "wallet" and fund.part == PAID:
            paid_nano += nano
        elif fund.kind == "wallet":
            granted_nano += nano
    return HeldOf(paid_nano, granted_nano, leased_nano)
