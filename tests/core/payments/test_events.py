"""Stripe's events in any order and number: the wallet ends where the facts say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.money import NANO_PER_CENT
from mcp_gateway.core.payments.payments import Payments
from mcp_gateway.core.payments.stripe_api import StripeApi
from mcp_gateway.core.store.sqlite.store import Store
from tests.databases import Query, migrated, open_store
from tests.examples import examples
from tests.fake_stripe import SECRET_KEY, WEBHOOK_SECRET, dispute, event, refunded_charge, session, signed
from tests.patience import eventually

COMPLETED = "checkout.session.completed"
ASYNC_SUCCEEDED = "checkout.session.async_payment_succeeded"


@dataclass
class Till:
    """An open database with one account, and events that are sent to it."""

    store: Store
    ledger: Ledger
    payments: Payments
    account_id: str
    uncredited: list[str]
    """Why what was paid reached no wallet, each time that this happened."""

    @classmethod
    async def open(cls, path: Path) -> "Till":
        store = await open_store(migrated(path))
        ledger = Ledger(store, hold_wait_s=1000.0, topup_url="https://gateway.test/topup")
        api = StripeApi(SECRET_KEY, WEBHOOK_SECRET, base_url="http://127.0.0.1:9", timeout_s=1)
        uncredited: list[str] = []
        payments = Payments(store, api, now_ms=now_ms, on_uncredited=uncredited.append)
        till = cls(store, ledger, payments, "", uncredited)
        await till.next_account()
        return till

    async def next_account(self) -> None:
        self.account_id = (await Accounts(self.store, new_id=new_id, now_ms=now_ms).create("test")).id

    async def send(self, body: bytes) -> None:
        await self.payments.receive(body, signed(body))

    async def balance_cents(self) -> int:
        assert await self.ledger.check() == []
        balance = await self.ledger.balance(self.account_id)
        assert balance.spendable_nano % NANO_PER_CENT == 0
        return balance.spendable_nano // NANO_PER_CENT

    async def entries(self) -> list[tuple[Any, ...]]:
        sql = "SELECT kind, reference, paid_nano FROM ledger_transactions WHERE account_id = ? ORDER BY id"
        return await self.store.read(Query(sql, (self.account_id,)))


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    opened = await Till.open(tmp_path / "till.sqlite3")
    yield opened
    await opened.store.close()


async def test_a_paid_session_is_credited_by_the_amount_of_the_event(till: Till) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1234)))
    assert await till.entries() == [("credit", "cs_of_pi_1", 12_340_000_000)]


async def test_the_same_event_is_applied_once_whether_sent_again_or_at_once(till: Till) -> None:
    body = event(COMPLETED, session(till.account_id, 1000))
    await till.send(body)
    await asyncio.gather(*(till.send(body) for _ in range(5)))
    assert await till.balance_cents() == 1000


async def test_a_session_is_credited_once_whichever_of_its_two_events_come(till: Till) -> None:
    paid = session(till.account_id, 1000)
    await asyncio.gather(*(till.send(event(kind, paid)) for kind in (ASYNC_SUCCEEDED, COMPLETED, ASYNC_SUCCEEDED)))
    assert await till.balance_cents() == 1000


async def test_a_request_that_waits_for_held_money_goes_on_once_a_session_is_paid(till: Till) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1000)))
    running = await till.ledger.hold("req_1", till.account_id, 1, 1000 * NANO_PER_CENT)
    asking = asyncio.create_task(till.ledger.hold("req_2", till.account_id, 1, 500 * NANO_PER_CENT))
    await eventually(lambda: till.ledger._wait_list)
    await till.send(event(COMPLETED, session(till.account_id, 500, payment="pi_2")))
    assert (await asking).amount_nano == 500 * NANO_PER_CENT
    for hold in (running, await asking):
        till.ledger.release(hold.request_id)


async def test_a_session_that_is_not_paid_yet_waits_for_its_money(till: Till) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1000, status="unpaid")))
    assert await till.entries() == []
    await till.send(event(ASYNC_SUCCEEDED, session(till.account_id, 1000)))
    assert await till.balance_cents() == 1000


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {}},
        {"metadata": None},
        {"metadata": {"gateway_account_id": "acc_of_another_gateway"}},
        {"mode": "subscription"},
        {"currency": "eur"},
        {"payment_status": "no_payment_required"},
        {"payment_intent": None},
    ],
    ids=str,
)
async def test_what_is_not_a_top_up_of_ours_changes_nothing(till: Till, change: dict[str, Any]) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1000) | change))
    assert await till.store.read(Query("SELECT * FROM ledger_transactions")) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadata": {}}, "account"),
        ({"metadata": None}, "account"),
        ({"metadata": {"gateway_account_id": "acc_of_another_gateway"}}, "account"),
        ({"metadata": {"gateway_account_id": "acc_guest"}}, "account"),
        ({"metadata": None, "currency": "eur"}, "account"),
        ({"currency": "eur"}, "currency"),
        ({"currency": "jpy", "payment_intent": None}, "currency"),
        ({"payment_intent": None}, "payment"),
        ({"payment_status": "unpaid", "currency": "eur"}, None),
        ({"mode": "subscription", "metadata": {}}, None),
        ({"mode": "setup", "payment_status": "no_payment_required", "currency": None}, None),
    ],
    ids=str,
)
async def test_money_that_arrived_for_nobody_is_told_once(
    till: Till, caplog: pytest.LogCaptureFixture, change: dict[str, Any], reason: str | None
) -> None:
    body = event(COMPLETED, session(till.account_id, 1000) | change)
    for _ in range(2):
        await till.send(body)
    assert till.uncredited == ([] if reason is None else [reason])
    assert ["cs_of_pi_1" in line.getMessage() for line in caplog.records] == [True] * len(till.uncredited)
    assert await till.store.read(Query("SELECT * FROM ledger_transactions")) == []


async def test_an_event_that_cannot_be_read_is_counted(till: Till) -> None:
    with pytest.raises(GatewayError):
        await till.send(event(COMPLETED, session(till.account_id, 1000) | {"amount_total": None}))
    assert till.uncredited == ["unreadable"]


async def test_what_went_back_in_another_currency_moves_nothing(till: Till) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1000)))
    for kind, stated in (("charge.refunded", refunded_charge(400)), ("charge.dispute.created", dispute(400, "lost"))):
        await till.send(event(kind, stated | {"currency": "eur"}))
    assert (await till.balance_cents(), till.uncredited) == (1000, [])


async def test_events_of_other_kinds_are_taken_and_forgotten(till: Till) -> None:
    await till.send(event("invoice.paid", {"id": "in_1", "object": "invoice"}))
    assert await till.store.read(Query("SELECT * FROM stripe_events")) == []


ODD: list[Any] = [
    None,
    True,
    -1,
    1.5,
    "5",
    "",
    [],
    {},
    2**53,
    2**63,
    2**64 - 1,
    10**10 + 1,
    "x" * 300,
    "a\nb",
    "\u202e",
]
NAMED = {
    "id": "text",
    "payment_intent": "text",
    "amount_total": "number",
    "amount_refunded": "number",
    "amount": "number",
}
STATED = {
    COMPLETED: session("acc", 1000),
    "charge.refunded": refunded_charge(1000),
    "charge.dispute.created": dispute(1000, "needs_response"),
}


@pytest.mark.parametrize("kind", STATED)
async def test_a_signed_event_of_an_odd_shape_is_refused_and_moves_nothing(till: Till, kind: str) -> None:
    for name in STATED[kind].keys() & NAMED.keys():
        for odd in ODD:
            if (NAMED[name], odd) == ("text", "5") or (name == "payment_intent" and not odd):
                continue  # an id; nothing was paid
            metadata = {"gateway_account_id": till.account_id}
            with pytest.raises(GatewayError) as caught:
                await till.send(event(kind, STATED[kind] | {"metadata": metadata, name: odd}))
            assert (name, odd, caught.value.code) == (name, odd, "invalid_value")
    assert await till.entries() == []


@pytest.mark.parametrize(
    "body",
    [b"[]", b"5", b"null", b'"x"', b"{}", b'{"id":5}', b'{"id":"e","type":[]}',
     b'{"id":"e","type":"charge.refunded"}', b'{"id":"e","type":"charge.refunded","data":[]}',
     b'{"id":"e","type":"charge.refunded","data":{"object":[]}}',
     b'{"id":"e","type":"charge.refunded","data":{"object":{}}}',
     b'{"id":5,"type":"charge.refunded","data":{"object":{}}}',
     b'{"id":"e","type":"checkout.session.completed","data":{"object":{"currency":"usd","payment_intent":"p"}}}',
     b'{"id":"e","type":"charge.dispute.created","data":{"object":{"currency":"usd","payment_intent":"p","status":5}}}'],
)  # fmt: skip
async def test_a_signed_body_that_is_no_event_is_refused(till: Till, body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        await till.send(body)
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize("body", [b"", b"{", b"text", b"1e999999999", b"[" * 5000])
async def test_a_signed_body_that_is_no_json_is_refused(till: Till, body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        await till.send(body)
    assert caught.value.code == "invalid_json"


async def test_each_partial_refund_takes_back_the_difference(till: Till) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1000)))
    for in_all in (300, 300, 1000):
        await till.send(event("charge.refunded", refunded_charge(in_all)))
    assert [(kind, nano // NANO_PER_CENT) for kind, _, nano in await till.entries()] == [
        ("credit", 1000),
        ("refund", -300),
        ("refund", -700),
    ]


async def test_a_refund_that_is_heard_of_before_its_payment_waits_for_it(till: Till) -> None:
    await till.send(event("charge.refunded", refunded_charge(400)))
    assert await till.entries() == []
    await till.send(event(COMPLETED, session(till.account_id, 1000)))
    assert await till.balance_cents() == 600


@pytest.mark.parametrize(
    ("stages", "left_cents"),
    [
        ([("created", "warning_needs_response"), ("closed", "warning_closed")], 1000),
        ([("created", "prevented")], 1000),
        ([("created", "needs_response")], 200),
        ([("created", "needs_response"), ("funds_withdrawn", "needs_response"), ("closed", "lost")], 200),
        ([("created", "needs_response"), ("funds_withdrawn", "needs_response"), ("closed", "won")], 1000),
        ([("funds_withdrawn", "needs_response"), ("closed", "won"), ("funds_reinstated", "won")], 1000),
        ([("funds_reinstated", "won"), ("funds_withdrawn", "needs_response")], 1000),
        ([("created", "warning_needs_response"), ("funds_withdrawn", "needs_response")], 200),
    ],
    ids=str,
)
async def test_a_dispute_is_taken_back_once_and_returned_once(
    till: Till, stages: list[tuple[str, str]], left_cents: int
) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1000)))
    for stage, status in stages:
        await till.send(event(f"charge.dispute.{stage}", dispute(800, status)))
    assert await till.balance_cents() == left_cents


async def test_a_dispute_of_spent_money_goes_below_zero_and_holds_are_refused_from_there(till: Till) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1000)))
    hold = await till.ledger.hold("req_1", till.account_id, 1, 700 * NANO_PER_CENT)
    await till.ledger.settle(hold, 700 * NANO_PER_CENT, None)
    await till.send(event("charge.dispute.created", dispute(1000, "needs_response")))
    assert await till.balance_cents() == -700

    with pytest.raises(GatewayError) as refusal:
        await till.ledger.hold("req_2", till.account_id, 1, 1)
    assert refusal.value.code == "insufficient_balance"
    nothing_held = {"held_usd": "0.00", "holding_requests": 0}
    assert refusal.value.details == nothing_held | {"balance_usd": "-7.00", "topup_url": "https://gateway.test/topup"}

    await till.send(event(COMPLETED, session(till.account_id, 800, payment="pi_2")))
    assert (
        await till.ledger.hold("req_3", till.account_id, 1, 1000 * NANO_PER_CENT)
    ).amount_nano == 100 * NANO_PER_CENT


async def test_a_refund_while_a_hold_is_open_leaves_the_hold_alone(till: Till) -> None:
    await till.send(event(COMPLETED, session(till.account_id, 1000)))
    hold = await till.ledger.hold("req_1", till.account_id, 1, 1000 * NANO_PER_CENT)
    await till.send(event("charge.refunded", refunded_charge(1000)))
    assert await till.ledger.settle(hold, 250 * NANO_PER_CENT, None) == 250 * NANO_PER_CENT
    assert await till.balance_cents() == -250


# Any order

_STAGES = {
    "inquiry": [("created", "warning_needs_response"), ("closed", "warning_closed")],
    "open": [("created", "needs_response"), ("funds_withdrawn", "needs_response")],
    "lost": [("created", "needs_response"), ("funds_withdrawn", "needs_response"), ("closed", "lost")],
    "won": [
        ("created", "needs_response"),
        ("funds_withdrawn", "needs_response"),
        ("funds_reinstated", "won"),
        ("closed", "won"),
    ],
}


@dataclass(frozen=True)
class Story:
    """What happened to one payment, in cents."""

    paid: int
    is_late: bool
    refunded_in_all: tuple[int, ...]
    disputes: tuple[tuple[int, str], ...]

    @property
    def left_cents(self) -> int:
        gone = [cents for cents, end in self.disputes if end in ("open", "lost")]
        return self.paid - max(self.refunded_in_all, default=0) - sum(gone)

    def events(self, account_id: str, payment: str) -> list[bytes]:
        paid = session(account_id, self.paid, payment=payment)
        told = [(COMPLETED, paid | {"payment_status": "unpaid" if self.is_late else "paid"})]
        if self.is_late:
            told.append((ASYNC_SUCCEEDED, paid))
        told += [("charge.refunded", refunded_charge(cents, payment=payment)) for cents in self.refunded_in_all]
        for number, (cents, end) in enumerate(self.disputes):
            for stage, status in _STAGES[end]:
                stated = dispute(cents, status, payment=payment, id=f"dp_{payment}_{number}")
                told.append((f"charge.dispute.{stage}", stated))
        return [event(kind, stated) for kind, stated in told]


_cents = st.integers(1, 2000)
_stories = st.builds(
    Story,
    paid=_cents,
    is_late=st.booleans(),
    refunded_in_all=st.lists(_cents, max_size=3, unique=True).map(tuple),
    disputes=st.lists(st.tuples(_cents, st.sampled_from(sorted(_STAGES))), max_size=2).map(tuple),
)


def test_the_order_and_number_of_events_do_not_matter(tmp_path: Path) -> None:
    payment_ids = map("pi_{}".format, count(1))
    with asyncio.Runner() as runner:
        till = runner.run(Till.open(tmp_path / "till.sqlite3"))

        async def tell(stories: list[Story], shuffled: Callable[[list[bytes]], list[bytes]]) -> None:
            await till.next_account()
            told = [body for story in stories for body in story.events(till.account_id, next(payment_ids))]
            await asyncio.gather(*map(till.send, shuffled(told)))
            assert await till.balance_cents() == sum(story.left_cents for story in stories)

        @settings(examples(60), phases=[Phase.explicit, Phase.generate])
        @given(st.lists(_stories, min_size=1, max_size=2), st.data())
        def in_any_order(stories: list[Story], data: st.DataObject) -> None:
            def shuffled(told: list[bytes]) -> list[bytes]:
                again = data.draw(st.lists(st.sampled_from(told), max_size=5))
                return data.draw(st.permutations(told + again))

            runner.run(tell(stories, shuffled))

        try:
            in_any_order()
        finally:
            runner.run(till.store.close())
