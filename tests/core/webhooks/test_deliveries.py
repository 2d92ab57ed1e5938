"""What becomes of what waits in the outbox: signed, sent until it is taken, put off, given up."""

import asyncio
import hmac
from base64 import b64decode, b64encode
from collections import Counter
from hashlib import sha256
from random import Random
from typing import Any

import orjson
import pytest

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.due_work import wait_s
from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.transaction import Rows
from mcp_gateway.core.webhook_secret import key_of, new_secret
from mcp_gateway.core.webhooks.deliveries import MOST_TRIES, Deliveries, Headers
from mcp_gateway.core.webhooks.outbox import (
    OPERATOR,
    Delivery,
    DueDeliveries,
    EventsDropped,
    PutWebhook,
    RotateSecret,
)
from mcp_gateway.core.webhooks.signature import signed_headers
from tests.cases import each
from tests.clocks import MsClock
from tests.databases import Query, Work, changing
from tests.patience import eventually

OPERATORS = "whsec_b3BlcmF0b3Igb2YgdGhlIGdhdGV3YXksIGFsd2F5cw=="


class Receivers:
    """Notes what it is sent, and answers by `status`; waits before that while it is `held`."""

    def __init__(self) -> None:
        self.sent: list[tuple[Delivery, dict[str, str], bytes]] = []
        self.status: int | None = 200
        self.fault: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, delivery: Delivery, headers: Headers, body: bytes) -> int | None:
        self.sent.append((delivery, {name.decode(): value.decode() for name, value in headers}, body))
        await self.go_on.wait()
        if self.fault is not None:
            raise self.fault
        return self.status

    @property
    def ids(self) -> list[str]:
        return [delivery.event_id for delivery, *_ in self.sent]


class Outbox:
    """A loop of deliveries over a store, moved on by hand."""

    def __init__(self, store: Store, clock: MsClock) -> None:
        self.store, self.clock, self.receivers = store, clock, Receivers()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.deliveries = self.started()

    def started(self) -> Deliveries:
        """As after a start of the gateway."""
        return Deliveries(
            self.store,
            self.receivers,
            operator_secrets=[OPERATORS],
            now_ms=self.clock,
            random=Random(1),
            count=lambda *labels: self.outcomes.update([labels]),
        )

    async def pass_once(self) -> None:
        """One look at what is due, and all that it sends."""
        await self.deliveries.start_due()
        await eventually(lambda: not self.deliveries.work.tasks)

    async def add(self, event_id: str, receiver: str) -> None:
        row = (receiver, event_id, orjson.dumps({"id": event_id}).decode(), self.clock())
        await self.store.write(changing("INSERT INTO webhook_outbox VALUES (?, ?, ?, 0, ?)", row))

    async def waiting(self) -> list[Any]:
        return [tuple(row) for row in await self.store.read(Query("SELECT event_id, tries FROM webhook_outbox"))]


@pytest.fixture
async def outbox(store: Store, clock: MsClock) -> Outbox:
    return Outbox(store, clock)


async def account_of(outbox: Outbox, name: str, secret: str = OPERATORS) -> str:
    await outbox.store.write(PutWebhook(name, f"https://{name}.example/", secret))
    return name


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As the specification has a receiver check it."""
    said = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    key = b64decode(secret.removeprefix("whsec_"))
    signature = "v1," + b64encode(hmac.new(key, said, sha256).digest()).decode()
    return signature in headers["webhook-signature"].split(" ")


def test_a_signature_is_that_of_the_specification() -> None:
    """By the example of the reference libraries."""
    headers = signed_headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert dict(headers)[b"webhook-signature"] == b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@each(
    "secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_" + "?" * 40, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_ü" * 9]
)
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="random bytes in base64"):
        key_of(secret)


def test_secrets_made_here_are_good_and_differ() -> None:
    secrets = {new_secret() for _ in range(10)}
    assert {len(key_of(secret)) for secret in secrets} == {32}
    assert len(secrets) == 10


async def test_an_event_is_sent_signed_and_leaves_once_it_is_taken(outbox: Outbox) -> None:
    secret = new_secret()
    await outbox.add("evt_1", await account_of(outbox, "acc", secret))
    await outbox.pass_once()
    ((delivery, headers, body),) = outbox.receivers.sent
    assert (delivery.url, body, headers["webhook-id"]) == ("https://acc.example/", b'{"id":"evt_1"}', "evt_1")
    assert int(headers["webhook-timestamp"]) == outbox.clock() // 1000
    assert is_signed(secret, headers, body)
    assert not is_signed(new_secret(), headers, body)
    assert await outbox.waiting() == []
    await outbox.pass_once()
    assert (len(outbox.receivers.sent), dict(outbox.outcomes)) == (1, {("account", "delivered"): 1})


async def test_the_operators_are_signed_by_the_secret_of_the_settings(outbox: Outbox) -> None:
    await outbox.deliveries.begin("https://operator.example/hook")
    await outbox.add("evt_1", OPERATOR)
    await outbox.pass_once()
    ((delivery, headers, body),) = outbox.receivers.sent
    assert (delivery.url, is_signed(OPERATORS, headers, body)) == ("https://operator.example/hook", True)
    assert dict(outbox.outcomes) == {("operator", "delivered"): 1}


async def test_after_a_rotation_both_secrets_sign_until_the_former_ones_end(outbox: Outbox) -> None:
    old, new = new_secret(), new_secret()
    account = await account_of(outbox, "acc", old)
    await outbox.store.write(RotateSecret(account, new, outbox.clock() + 1000))
    for number, by_old in enumerate((True, False)):
        await outbox.add(f"evt_{number}", account)
        await outbox.pass_once()
        _, headers, body = outbox.receivers.sent[-1]
        assert (is_signed(new, headers, body), is_signed(old, headers, body)) == (True, by_old)
        outbox.clock.now_ms += 1000


async def test_a_secret_that_signs_no_more_is_kept_no_longer(outbox: Outbox) -> None:
    account = await account_of(outbox, "acc", old := new_secret())
    kept = Query("SELECT former_secret FROM webhooks WHERE receiver = 'acc'")
    await outbox.store.write(RotateSecret(account, new_secret(), outbox.clock() + 2 * HOUR_MS))
    for passed_ms, former in ((0, old), (HOUR_MS, old), (HOUR_MS - 1, old), (HOUR_MS, None)):
        outbox.clock.now_ms += passed_ms
        await outbox.deliveries.forget_former_secrets()
        assert [tuple(row) for row in await outbox.store.read(kept)] == [(former,)]


@pytest.mark.parametrize("status", [None, 100, 199, 300, 302, 400, 404, 410, 429, 500, 503])
async def test_what_is_not_taken_is_put_off(outbox: Outbox, status: int | None) -> None:
    await outbox.add("evt_1", await account_of(outbox, "acc"))
    outbox.receivers.status = status
    await outbox.pass_once()
    await outbox.pass_once()
    assert (await outbox.waiting(), len(outbox.receivers.sent)) == ([("evt_1", 1)], 1)
    outbox.clock.now_ms += 5000
    outbox.receivers.status = 204
    await outbox.pass_once()
    assert (await outbox.waiting(), outbox.receivers.ids) == ([], ["evt_1", "evt_1"])


def test_waits_grow_up_to_a_day_and_are_never_all_alike() -> None:
    longest = [wait_s(tries, 1, 86_400) for tries in range(1, MOST_TRIES)]
    assert longest[:3] == [5, 20, 80]
    assert longest == sorted(longest)
    assert longest[-1] == 86_400
    assert [wait_s(tries, 0, 86_400) for tries in range(1, MOST_TRIES)] == [wait / 2 for wait in longest]


async def test_it_is_given_up_after_the_last_try_and_says_so(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    await outbox.add("evt_1", await account_of(outbox, "acc"))
    outbox.receivers.status = 500
    for _ in range(MOST_TRIES + 3):
        await outbox.pass_once()
        outbox.clock.now_ms += 86_400_000
    assert (await outbox.waiting(), len(outbox.receivers.sent)) == ([], MOST_TRIES)
    assert dict(outbox.outcomes) == {("account", "failed"): MOST_TRIES - 1, ("account", "given_up"): 1}
    assert "event evt_1 is not delivered to acc: given up after 12 tries" in caplog.text
    assert "acc.example" not in caplog.text


async def test_a_receiver_is_sent_one_at_a_time_and_a_slow_one_keeps_nobody_waiting(outbox: Outbox) -> None:
    slow, quick = await account_of(outbox, "slow"), await account_of(outbox, "quick")
    await outbox.add("evt_slow_1", slow)
    await outbox.add("evt_slow_2", slow)
    outbox.receivers.go_on.clear()
    await outbox.deliveries.start_due()
    await eventually(lambda: len(outbox.receivers.sent) == 1)
    await outbox.add("evt_quick", quick)
    await outbox.deliveries.start_due()
    await eventually(lambda: len(outbox.receivers.sent) == 2)
    assert outbox.receivers.ids == ["evt_slow_1", "evt_quick"]
    outbox.receivers.go_on.set()
    await eventually(lambda: not outbox.deliveries.work.tasks)
    await outbox.pass_once()
    assert (outbox.receivers.ids[2:], await outbox.waiting()) == (["evt_slow_2"], [])


async def test_what_was_sent_and_not_noted_is_sent_again_by_the_same_id(outbox: Outbox) -> None:
    """As after a kill between the receiver's answer and its note."""
    await outbox.add("evt_1", await account_of(outbox, "acc"))
    outbox.receivers.go_on.clear()
    watching = asyncio.create_task(outbox.deliveries.watch())
    await eventually(lambda: len(outbox.receivers.sent) == 1)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert await outbox.waiting() == [("evt_1", 0)]
    outbox.receivers.go_on.set()
    outbox.deliveries = outbox.started()
    await outbox.pass_once()
    assert (outbox.receivers.ids, await outbox.waiting()) == (["evt_1", "evt_1"], [])


async def test_the_loop_delivers_a_backlog_without_a_rest_between(outbox: Outbox) -> None:
    account = await account_of(outbox, "acc")
    for number in range(20):
        await outbox.add(f"evt_{number:02}", account)
    watching = asyncio.create_task(outbox.deliveries.watch())
    await eventually(lambda: len(outbox.receivers.sent) == 20)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert outbox.receivers.ids == [f"evt_{number:02}" for number in range(20)]


async def test_one_odd_delivery_ends_no_other(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    odd, good = await account_of(outbox, "odd", "no secret"), await account_of(outbox, "good")
    await outbox.add("evt_odd", odd)
    await outbox.add("evt_good", good)
    await outbox.pass_once()
    assert (outbox.receivers.ids, await outbox.waiting()) == (["evt_good"], [("evt_odd", 1)])
    assert "the delivery of event evt_odd failed" in caplog.text
    assert "no secret" not in caplog.text


@pytest.mark.parametrize("fault", [RuntimeError(), KeyError("x"), OSError(), GatewayError("overloaded", "Later.")])
async def test_what_cannot_be_sent_for_any_reason_is_a_failed_try_and_given_up_at_last(
    outbox: Outbox, fault: Exception
) -> None:
    outbox.receivers.fault = fault
    await outbox.add("evt_1", await account_of(outbox, "acc"))
    for _ in range(MOST_TRIES):
        await outbox.pass_once()
        outbox.clock.now_ms += 86_400_000
    assert (await outbox.waiting(), outbox.outcomes["account", "given_up"]) == ([], 1)


async def test_what_is_under_way_goes_on_while_the_database_cannot_be_read(
    outbox: Outbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outbox.add("evt_1", await account_of(outbox, "acc"))
    outbox.receivers.go_on.clear()
    watching = asyncio.create_task(outbox.deliveries.watch())
    await eventually(lambda: len(outbox.receivers.sent) == 1)

    async def fails(_: object) -> Any:
        raise DatabaseError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(outbox.store, "read", fails)
        outbox.deliveries.work.wake()
        await eventually(lambda: "what is due was not read" in caplog.text)
    outbox.receivers.go_on.set()
    await eventually(lambda: not outbox.deliveries.work.tasks)
    assert (watching.done(), await outbox.waiting(), outbox.receivers.ids) == (False, [], ["evt_1"])
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def many_waiting(outbox: Outbox, account_count: int) -> None:
    """One event each, and then one for the operator, which falls due last."""
    for number in range(account_count):
        await outbox.add(f"evt_{number}", await account_of(outbox, f"acc_{number}"))
    await outbox.deliveries.begin("https://operator.example/hook")
    outbox.clock.now_ms += 1
    await outbox.add("evt_operator", OPERATOR)


@each("account_count", [30, 31, 32, 40])
async def test_accounts_that_do_not_answer_leave_a_place_for_the_operator(outbox: Outbox, account_count: int) -> None:
    outbox.receivers.go_on.clear()
    await many_waiting(outbox, account_count)
    for _ in range(3):
        await outbox.deliveries.start_due()
    busy = set(outbox.deliveries.work.tasks)
    assert (OPERATOR in busy, len(busy)) == (True, min(account_count, 31) + 1)
    outbox.receivers.go_on.set()
    await eventually(lambda: not outbox.deliveries.work.tasks)
    await outbox.pass_once()
    assert await outbox.waiting() == []


async def test_the_operator_is_sent_what_comes_while_31_accounts_are_slow(outbox: Outbox) -> None:
    outbox.receivers.go_on.clear()
    await outbox.deliveries.begin("https://operator.example/hook")
    for number in range(33):
        await outbox.add(f"evt_{number}", await account_of(outbox, f"acc_{number}"))
    await outbox.deliveries.start_due()
    assert len(outbox.deliveries.work.tasks) == 31
    await outbox.add("evt_operator", OPERATOR)
    await outbox.deliveries.start_due()
    assert (len(outbox.deliveries.work.tasks), OPERATOR in outbox.deliveries.work.tasks) == (32, True)
    outbox.receivers.go_on.set()
    await eventually(lambda: not outbox.deliveries.work.tasks)


@pytest.mark.usefixtures("of_sqlite")
async def test_to_look_for_what_is_due_takes_no_longer_the_more_waits(outbox: Outbox) -> None:
    """Counted in steps of the database's machine."""
    account = await account_of(outbox, "acc")

    async def steps() -> int:
        def count(connection: Any) -> int:
            taken = 0

            def step() -> int:
                nonlocal taken
                taken += 1
                return 0

            connection.set_progress_handler(step, 1)
            EXECUTORS.reads[DueDeliveries](Rows(connection), DueDeliveries(outbox.clock(), frozenset(), 31))
            connection.set_progress_handler(None, 1)
            return taken

        return await outbox.store.write(Work(count))

    await outbox.add("evt_0", account)
    few = await steps()
    for number in range(1, 300):
        await outbox.add(f"evt_{number}", account)
    assert await steps() <= few + 10


async def test_what_is_dropped_for_want_of_room_is_counted_as_given_up(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.deliveries._dropped(EventsDropped("acc", 2))
    outbox.deliveries._dropped(EventsDropped(OPERATOR, 1))
    assert dict(outbox.outcomes) == {("account", "given_up"): 2, ("operator", "given_up"): 1}
    assert "2 events are not delivered to acc: too many wait for it" in caplog.text
