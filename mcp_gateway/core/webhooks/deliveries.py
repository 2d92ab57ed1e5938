"""Delivers what waits in the outbox: each event at least once, or it is given up after MOST_TRIES.

A receiver is sent one at a time, so that a slow one keeps nobody else waiting. An event leaves the outbox once its
receiver has answered 2xx: after a crash between the two it is sent again, by the same id.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.due_work import DueWork, wait_s
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import outline
from mcp_gateway.core.webhooks.outbox import (
    OPERATOR,
    Delivery,
    DueDeliveries,
    EndDelivery,
    EventsDropped,
    ForgetFormerSecrets,
    OutboxGrew,
    PutOffDelivery,
    SetOperatorWebhook,
)
from mcp_gateway.core.webhooks.signature import signed_headers

logger = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]
Post = Callable[[Delivery, Headers, bytes], Awaitable[int | None]]
"""Sends a body to a delivery's address; the status of the answer, or None where none came."""

MOST_TRIES = 12
"""Over four days or so."""
_LONGEST_WAIT_S = 86_400.0
_MOST_AT_ONCE = 32
"""One of them is kept for the operator."""
_TAKEN = range(200, 300)
"""Statuses by which a receiver says that it has the event."""
_FORGETS_MS = HOUR_MS
"""How often secrets are forgotten that sign no more."""


def _kind_of(receiver: str) -> str:
    return "operator" if receiver == OPERATOR else "account"


class Deliveries:
    """The loop that delivers; tells `count` of each try: `delivered`, `failed`, or `given_up` after the last."""

    def __init__(
        self,
        store: Engine,
        post: Post,
        *,
        operator_secrets: Sequence[str],
        now_ms: Callable[[], int],
        random: Random,
        count: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._post = post
        self._operator_secrets = operator_secrets
        self._now_ms = now_ms
        self._random = random
        self._count = count
        self.work = DueWork(self._look, lambda: store.is_elected)
        self.watch = self.work.watch
        self._forgets_at_ms = 0
        store.listen(OutboxGrew, lambda _: self.work.wake())
        store.listen(EventsDropped, self._dropped)

    async def begin(self, operator_url: str | None) -> None:
        """Have the operator told at this address from now on, or not at all."""
        await self._store.write(SetOperatorWebhook(operator_url))

    async def _look(self) -> None:
        await self.start_due()
        await self.forget_former_secrets()

    async def start_due(self) -> None:
        """Begin to send what is due to whoever is not sent anything already."""
        busy = frozenset(self.work.tasks)
        most_accounts = _MOST_AT_ONCE - len({OPERATOR, *busy})
        if most_accounts <= 0 and OPERATOR in busy:
            return
        for delivery in await self._store.read(DueDeliveries(self._now_ms(), busy, most_accounts)):
            self.work.begin(delivery.receiver, partial(self._deliver, delivery))

    async def forget_former_secrets(self) -> None:
        """Those that sign no more; once an hour."""
        now_ms = self._now_ms()
        if now_ms >= self._forgets_at_ms:
            await self._store.write(ForgetFormerSecrets(now_ms))
            self._forgets_at_ms = now_ms + _FORGETS_MS

    def _dropped(self, dropped: EventsDropped) -> None:
        receiver, event_count = dropped
        for _ in range(event_count):
            self._count(_kind_of(receiver), "given_up")
        logger.error("%d events are not delivered to %s: too many wait for it", event_count, receiver)

    async def _deliver(self, delivery: Delivery) -> None:
        """Send it once, and note what came of it."""
        status = await self._status(delivery)
        await self.work.noted(self._note(delivery, status), f"the delivery of event {delivery.event_id}")

    async def _status(self, delivery: Delivery) -> int | None:
        """None as well where it cannot be sent for a reason that nobody foresaw: that is a try that failed."""
        try:
            body = delivery.body.encode()
            headers = signed_headers(self._secrets_of(delivery), delivery.event_id, self._now_ms() // 1000, body)
            return await self._post(delivery, headers, body)
        except Exception as error:  # noqa: BLE001 - one odd delivery must end no other
            logger.error("the delivery of event %s failed: %s", delivery.event_id, outline(error))
            return None

    def _secrets_of(self, delivery: Delivery) -> Sequence[str]:
        if delivery.receiver == OPERATOR:
            return self._operator_secrets
        return [secret for secret in (delivery.secret, delivery.former_secret) if secret is not None]

    async def _note(self, delivery: Delivery, status: int | None) -> None:
        kind, tries = _kind_of(delivery.receiver), delivery.tries + 1
        named = delivery.receiver, delivery.event_id
        if status in _TAKEN:
            await self._store.write(EndDelivery(*named), is_durable=False)
            self._count(kind, "delivered")
        elif tries >= MOST_TRIES:
            await self._store.write(EndDelivery(*named), is_durable=False)
            self._count(kind, "given_up")
            logger.error("event %s is not delivered to %s: given up after %d tries", *reversed(named), tries)
        else:
            wait_ms = int(wait_s(tries, self._random.random(), _LONGEST_WAIT_S) * 1000)
            await self._store.write(PutOffDelivery(*named, delivery.tries, self._now_ms() + wait_ms), is_durable=False)
            self._count(kind, "failed")
