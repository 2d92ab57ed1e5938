"""Budgets as they are made and end, with what is set aside for leases: decided in memory before anything is written."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import (
    LEASES_ARE_TOTAL,
    ONE_LEASE,
    Budget,
    EndBudget,
    Lease,
    LeasesOver,
    MakeBudgets,
)
from mcp_gateway.core.ledger.ledger import Ledger

T = TypeVar("T")

_INTERVAL_S = 10.0


class Leases:
    """Those of all accounts."""

    def __init__(self, store: Engine, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._now_ms = store.now_ms

    async def make(self, asked: MakeBudgets, write: Callable[[MakeBudgets], Awaitable[T]]) -> T:
        """Have `write` make budgets, with what its leases take set aside at once, and free again where that fails.

        It runs to its end also where whoever asked is gone meanwhile. Raises what it raises; for a lease what
        `Ledger.set_aside` does, and GatewayError `conflict` for two of one holder.
        """
        asked_for = [budget for budget in asked.budgets if budget.lease_ends_at_ms is not None]
        if not asked_for:
            outcome = await write(asked)
            await self._have_heard(asked)
            return outcome
        _check(asked.budgets)
        leases = await self._all_set_aside(asked_for, frozenset(asked.above))
        making = asyncio.ensure_future(write(replace(asked, leases=tuple(leases))))
        making.add_done_callback(lambda _: self._let_go(asked_for))
        outcome = await asyncio.shield(making)
        await self._have_heard(asked)
        return outcome

    async def _have_heard(self, asked: MakeBudgets) -> None:
        for account_id in {budget.account_id for budget in asked.budgets}:
            await self._ledger.have_heard(account_id)

    async def _all_set_aside(self, asked_for: Sequence[Budget], above: frozenset[str]) -> list[Lease]:
        """Or none of them."""
        try:
            return [await self._set_aside(budget, above) for budget in asked_for]
        except BaseException:
            self._let_go(asked_for)
            raise

    async def _set_aside(self, budget: Budget, above: frozenset[str]) -> Lease:
        assert budget.lease_ends_at_ms is not None
        hold = await self._ledger.set_aside(budget, budget.lease_ends_at_ms, above)
        if hold.pocket is not None:
            return Lease(budget.id, hold.windows, hold.pocket)
        return Lease(budget.id, hold.windows, budget.id, hold.parts)

    def _let_go(self, asked_for: Iterable[Budget]) -> None:
        """Nothing where they were made: a commit has ended what was held for them."""
        for budget in asked_for:
            self._ledger.release(budget.id)

    async def end(self, account_id: str, budget_id: str) -> bool:
        """Let a budget bound nothing any more; what is left of a lease returns. False where none such is open."""
        is_ended = await self._store.write(EndBudget(account_id, budget_id, self._now_ms()))
        await self._ledger.return_leases(account_id)
        return is_ended

    async def give_back(self) -> int:
        """What is left of every lease that is over, and that nothing is held of; returns nano-USD."""
        over = defaultdict[str, list[str]](list)
        for account_id, lease_id, is_ended in await self._store.read(LeasesOver(self._now_ms())):
            over[account_id] += [lease_id] if is_ended else []
        return sum([await self._ledger.return_leases(account_id, ended) for account_id, ended in over.items()])

    async def give_back_of(self, account_id: str) -> None:
        """What is left of an account's leases that have just ended; where it cannot be written, `watch` does it."""
        with suppress(GatewayError):
            await self._ledger.return_leases(account_id)

    async def watch(self) -> None:
        """Give back as their time comes, until cancelled; a hold that lacks it does not wait for this."""
        while True:
            with suppress(GatewayError):  # the database cannot be written: the next round does it
                if self._store.is_elected:
                    await self.give_back()
            await asyncio.sleep(_INTERVAL_S)


def _check(budgets: Sequence[Budget]) -> None:
    """Raises GatewayError; whether a holder has a lease already, the database knows."""
    leases = {number: budget for number, budget in enumerate(budgets) if budget.lease_ends_at_ms is not None}
    if len({budget.holder for budget in leases.values()}) < len(leases):
        raise GatewayError("conflict", ONE_LEASE)
    for number, budget in leases.items():
        if budget.window != "total":
            raise GatewayError("invalid_value", LEASES_ARE_TOTAL, param=f"budgets.{number}.window")
        if budget.holder == budget.account_id:
            message = (
                "An account has nothing above it that a lease could be set aside from; give it to a key or a group."
            )
            raise GatewayError("invalid_value", message)
