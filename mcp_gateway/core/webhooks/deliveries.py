"""Delivers what waits in the outbox: each event at least once, or it is given up after MOST_TRIES.

A receiver is sent one at a time, so that a slow one keeps nobody else waiting. An event leaves the outbox once its
receiver has answered 2xx: after a crash between the two it is sent again, by the same id.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from random import Random

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.engine import DatabaseError, Engine
from mcp_gateway.core.errors import GatewayError, outline
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
_FIRST_WAIT_S = 5.0
_GROWTH = 4
_LONGEST_WAIT_S = 86_400.0
_MOST_AT_ONCE = 32
"""One of them is kept for the operator."""
_TAKEN = range(200, 300)
"""Statuses by which a receiver says that it has the event."""
_LOOK_S = 5.0
"""How often it is looked for what fell due, or was written by another process."""
_FORGETS_MS = HOUR_MS
"""How often secrets are forgotten that sign no more."""


def wait_s(tries: int, chance: float) -> float:
    """Between so many tries that failed and the next one, from half of it to all, as chance between 0 and 1 has it."""
    longest_s: float = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * _GROWTH ** (tries - 1))
    return longest_s * (1 + chance) / 2


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
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._forgets_at_ms = 0
        store.listen(OutboxGrew, lambda _: self._woken.set())
        store.listen(EventsDropped, self._dropped)

    async def begin(self, operator_url: str | None) -> None:
        """Have the operator told at this address from now on, or not at all."""
        await self._store.write(SetOperatorWebhook(operator_url))

    async def watch(self) -> None:
        """Deliver what is due, until cancelled."""
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
        """Whatever keeps it from being read what is due, what is under way goes on."""
        try:
            await self.start_due()
            await self.forget_former_secrets()
        except (DatabaseError, GatewayError) as error:
            logger.error("what is due was not read: %s", outline(error))

    async def start_due(self) -> None:
        """Begin to send what is due to whoever is not sent anything already."""
        most_accounts = _MOST_AT_ONCE - len({OPERATOR, *self._busy})
        if most_accounts <= 0 and OPERATOR in self._busy:
            return
        due = await self._store.read(DueDeliveries(self._now_ms(), frozenset(self._busy), most_accounts))
        for delivery in due:
            self._busy[delivery.receiver] = task = asyncio.create_task(self._deliver(delivery))
            task.add_done_callback(partial(self._ended, delivery.receiver))

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

    def _ended(self, receiver: str, _: "asyncio.Task[None]") -> None:
        del self._busy[receiver]
        self._woken.set()

    async def _deliver(self, delivery: Delivery) -> None:
        """Send it once, and note what came of it; where no note is taken of that, it is due as it was, after a rest."""
        status = await self._status(delivery)
        try:
            await self._note(delivery, status)
        except GatewayError:
            await asyncio.sleep(_LOOK_S)
        except Exception as error:  # noqa: BLE001 - else it would be due again at once, and so on
            logger.error("the delivery of event %s is not noted: %s", delivery.event_id, outline(error))
            await asyncio.sleep(_LOOK_S)

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
            wait_ms = int(wait_s(tries, self._random.random()) * 1000)
            await self._store.write(PutOffDelivery(*named, self._now_ms() + wait_ms), is_durable=False)
            self._count(kind, "failed")
