"""Makes the payments that low balances began: Stripe is asked for each, and asked after it until its end is known.

A payment's id is Stripe's idempotency key, and it is written that it is asked for before it is: whatever happens in
between, Stripe is first asked whether it has this payment already.
"""

import logging
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Literal

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.due_work import DueWork, wait_s
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import GatewayError
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
_LONGEST_WAIT_S = 3600.0
_ASKED_AGAIN_FOR_MS = 20 * HOUR_MS
"""Stripe may forget an idempotency key after 24 hours: what it does not know by then is not asked for again."""


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
        self.work = DueWork(self.start_due, lambda: store.is_elected)
        self.watch = self.work.watch
        store.listen(AutoPaymentBegun, lambda _: self.work.wake())
        store.listen(AutoPaymentEnded, self._ended)

    async def begin(self, *, are_offered: bool) -> None:
        """Switch all auto top-ups off where they are not offered any more."""
        if not are_offered and (number := await self._store.write(SwitchOffAllAutoTopUps("not_offered"))):
            logger.warning("stripe.auto_topup is off: %d accounts are not topped up by themselves any more", number)

    async def start_due(self) -> None:
        """Begin to ask for what is due."""
        busy = frozenset(self.work.tasks)
        if (room := _MOST_AT_ONCE - len(busy)) <= 0:
            return
        for due in await self._store.read(DueAutoPayments(self._now_ms(), busy, room)):
            self.work.begin(due.id, partial(self._try, due))

    def _ended(self, ended: AutoPaymentEnded) -> None:
        self._count("succeeded" if ended.off_reason is None else "failed")
        if ended.off_reason is not None:
            logger.warning("auto top-up of %s failed and is off: %s", ended.account_id, ended.off_reason)

    async def _try(self, due: DueAutoPayment) -> None:
        await self.work.noted(self._pursue(due), f"auto top-up {due.id}")

    async def _pursue(self, due: DueAutoPayment) -> None:
        """One try, and a note of what came of it."""
        asked = due.asked or await self._decided(due)
        if asked is None:
            return
        outcome = await self._outcome(due, asked)
        if outcome is None:
            await self._store.write(DropAutoPayment(due.id))
        elif isinstance(outcome, AutoPending):
            wait_ms = int(wait_s(due.tries + 1, self._random.random(), _LONGEST_WAIT_S) * 1000)
            await self._store.write(PutOffAutoPayment(due.id, self._now_ms() + wait_ms))
            self._count("put_off")
        else:
            await self._store.write(EndAutoPayment(outcome))

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
