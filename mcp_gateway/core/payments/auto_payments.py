"""Makes the payments that low balances began: Stripe is asked for each, and asked after it until its end is known.

A payment's id is Stripe's idempotency key, and it is written that it is asked for before it is: whatever happens in
between, Stripe is first asked whether it has this payment already.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Literal

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.engine import DatabaseError, Engine
from mcp_gateway.core.errors import GatewayError, outline
from mcp_gateway.core.payments.auto_topups import (
    AskAutoPayment,
    AutoPayment,
    AutoPaymentBegun,
    AutoPaymentEnded,
    DropAutoPayment,
    DueAutoPayment,
    DueAutoPayments,
    EndAutoPayment,
    PutOffAutoPayment,
    SwitchOffAllAutoTopUps,
)
from mcp_gateway.core.payments.checkout import Till
from mcp_gateway.core.payments.facts import AutoFailed, AutoPaid, AutoPending
from mcp_gateway.core.payments.topup_terms import TopupTerms

logger = logging.getLogger(__name__)

Counted = Literal["succeeded", "failed", "put_off"]
_MOST_AT_ONCE = 8
_LOOK_S = 5.0
"""How often it is looked for what fell due, or was begun by another process."""
_FIRST_WAIT_S = 5.0
_GROWTH = 4
_LONGEST_WAIT_S = 3600.0
_ASKED_AGAIN_FOR_MS = 20 * HOUR_MS
"""Stripe may forget an idempotency key after 24 hours: what it does not know by then is not asked for again."""


def wait_s(tries: int, chance: float) -> float:
    """Between so many tries and the next one, from half of it to all, as chance between 0 and 1 has it."""
    longest_s: float = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * _GROWTH ** min(tries, 8))
    return longest_s * (1 + chance) / 2


class AutoPayments:
    """The loop that asks; tells `count` of each payment how it ended, and of each time that one was put off."""

    def __init__(
        self,
        store: Engine,
        till: Till,
        terms: TopupTerms,
        *,
        now_ms: Callable[[], int],
        random: Random,
        count: Callable[[Counted], None],
    ) -> None:
        self._store = store
        self._till = till
        self._terms = terms
        self._now_ms = now_ms
        self._random = random
        self._count = count
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        store.listen(AutoPaymentBegun, lambda _: self._woken.set())
        store.listen(AutoPaymentEnded, self._ended)

    async def begin(self, *, are_offered: bool) -> None:
        """Switch all auto top-ups off where they are not offered any more."""
        if not are_offered and (number := await self._store.write(SwitchOffAllAutoTopUps("not_offered"))):
            logger.warning("stripe.auto_topup is off: %d accounts are not topped up by themselves any more", number)

    async def watch(self) -> None:
        """Ask for what is due, until cancelled."""
        try:
            while True:
                self._woken.clear()
                await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._woken.wait()
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def _look(self) -> None:
        try:
            await self.start_due()
        except DatabaseError as error:
            logger.error("which payments are due was not read: %s", outline(error))

    async def start_due(self) -> None:
        """Begin to ask for what is due."""
        if (room := _MOST_AT_ONCE - len(self._busy)) <= 0:
            return
        for due in await self._store.read(DueAutoPayments(self._now_ms(), frozenset(self._busy), room)):
            self._busy[due.id] = task = asyncio.create_task(self._pursue(due))
            task.add_done_callback(partial(self._left, due.id))

    def _left(self, payment_id: str, _: "asyncio.Task[None]") -> None:
        del self._busy[payment_id]
        self._woken.set()

    def _ended(self, ended: AutoPaymentEnded) -> None:
        self._count("succeeded" if ended.off_reason is None else "failed")
        if ended.off_reason is not None:
            logger.warning("auto top-up of %s failed and is off: %s", ended.account_id, ended.off_reason)

    async def _pursue(self, due: DueAutoPayment) -> None:
        """One try, and a note of what came of it; where none is taken, it is due as it was, after a rest."""
        try:
            asked = due.asked or await self._decided(due)
            if asked is None:
                return
            outcome = await self._outcome(due, asked)
            if outcome is None:
                await self._store.write(DropAutoPayment(due.id))
            elif isinstance(outcome, AutoPending):
                wait_ms = int(wait_s(due.tries, self._random.random()) * 1000)
                await self._store.write(PutOffAutoPayment(due.id, self._now_ms() + wait_ms))
                self._count("put_off")
            else:
                await self._store.write(EndAutoPayment(outcome))
        except GatewayError:
            await asyncio.sleep(_LOOK_S)
        except Exception as error:  # noqa: BLE001 - one odd payment must end no other, and not be due again at once
            logger.error("auto top-up %s goes on later: %s", due.id, outline(error))
            await asyncio.sleep(_LOOK_S)

    async def _decided(self, due: DueAutoPayment) -> AutoPayment | None:
        terms = self._terms
        return await self._store.write(
            AskAutoPayment(due.id, terms.maximum_nano, terms.auto_maximum_per_day_nano, self._now_ms())
        )

    async def _outcome(self, due: DueAutoPayment, asked: AutoPayment) -> AutoPaid | AutoFailed | AutoPending | None:
        """What is asked for is asked after first, and again only while Stripe would know it again.

        None where Stripe has not got it, and it is wanted no more.
        """
        try:
            if due.asked is not None:
                found = await self._till.find_payment(asked)
                if found is not None:
                    return found
                if not due.is_wanted:
                    return None
                if self._now_ms() - asked.asked_at_ms > _ASKED_AGAIN_FOR_MS:
                    return AutoFailed(asked.id, "payments_unavailable")
            return await self._till.make_payment(asked, self._terms.pages.success_url)
        except GatewayError:  # Stripe does not do as asked
            return AutoPending(asked.id)
