"""Auto top-ups: a low balance is one payment, whatever happens to us or to Stripe, and a failed one is the last."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core import due_work
from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.due_work import wait_s
from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Accounts, SetAccountActive
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.money import NANO_PER_USD
from mcp_gateway.core.payments import auto_payments
from mcp_gateway.core.payments.auto_payments import AutoPayments
from mcp_gateway.core.payments.auto_topups import (
    MOST_PAYMENTS_A_DAY,
    AskAutoPayment,
    AutoPayment,
    AutoTopUps,
    AutoTopUpStanding,
    AutoTopUpTerms,
    DropAutoPayment,
    DueAutoPayment,
    DueAutoPayments,
    EndAutoPayment,
    PutOffAutoPayment,
    SetAutoTopUp,
)
from mcp_gateway.core.payments.checkout import Pages
from mcp_gateway.core.payments.facts import AutoFailed
from mcp_gateway.core.payments.payments import Payments
from mcp_gateway.core.payments.stripe_api import StripeApi
from mcp_gateway.core.payments.topup_terms import TopupTerms
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.webhooks.outbox import PutWebhook, SetLowBalance
from tests.clocks import MsClock
from tests.databases import Query, changing
from tests.fake_stripe import (
    SECRET_KEY,
    WEBHOOK_SECRET,
    FakeStripe,
    dispute,
    event,
    intent,
    refunded_charge,
    saving_intent,
    signed,
)
from tests.patience import becomes

USD = NANO_PER_USD
TERMS = AutoTopUpTerms(5 * USD, 20 * USD, 60 * USD)
INTENTS = "/v1/payment_intents"
_customers = count(1)


@dataclass
class Rig:
    """An account with 10 USD and a saved payment method, and what makes its payments."""

    store: Store
    ledger: Ledger
    payments: Payments
    auto_topups: AutoTopUps
    api: StripeApi
    clock: MsClock
    account: str
    customer: str
    counted: Counter[str] = field(default_factory=Counter)
    _requests: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.auto = self.restarted()

    def restarted(self, *, most_usd: int = 1000) -> AutoPayments:
        """What makes payments, as it is after a start: it remembers nothing."""
        terms = TopupTerms(5 * USD, most_usd * USD, Pages("https://app.test/", "https://app.test/"), 1000 * USD)
        self.auto = AutoPayments(
            self.store, self.api, terms, now_ms=self.clock, random=Random(1), count=lambda it: self.counted.update([it])
        )
        return self.auto

    async def spend(self, usd: float) -> None:
        nano = int(usd * USD)
        hold = await self.ledger.hold(f"req_{next(self._requests)}", self.account, 1, nano)
        await self.ledger.settle(hold, nano, None)

    async def pay(self) -> None:
        """Make what is due, and what is due behind that."""
        for _ in range(9):
            await self.auto.start_due()
            await asyncio.gather(*self.auto.work.tasks.values())
            await asyncio.sleep(0)
        assert await self.due() == ()

    async def due(self) -> tuple[DueAutoPayment, ...]:
        return await self.due_at(self.clock())

    async def due_at(self, now_ms: int) -> tuple[DueAutoPayment, ...]:
        return await self.store.read(DueAutoPayments(now_ms, frozenset(), 9))

    async def send(self, kind: str, stated: dict[str, Any]) -> None:
        body = event(kind, stated)
        await self.payments.receive(body, signed(body))

    async def standing(self) -> AutoTopUpStanding:
        return await self.auto_topups.of(self.account)

    async def usd(self) -> float:
        assert await self.ledger.check() == []
        return (await self.ledger.balance(self.account)).spendable_nano / USD

    async def told(self) -> list[dict[str, Any]]:
        sql = "SELECT body FROM webhook_outbox WHERE receiver = ? ORDER BY event_id"
        return [orjson.loads(body) for (body,) in await self.store.read(Query(sql, (self.account,)))]


@pytest_asyncio.fixture
async def rig(store: Store, clock: MsClock, stripe: FakeStripe) -> AsyncIterator[Rig]:
    api = StripeApi(SECRET_KEY, WEBHOOK_SECRET, base_url=stripe.url, timeout_s=5)
    payments = Payments(store, api, now_ms=clock, on_uncredited=lambda _: None)
    account = (await Accounts(store, new_id=new_id, now_ms=clock).create("Ann")).id
    customer = f"cus_auto_{next(_customers)}"
    stripe.customers.add(customer)
    rig = Rig(store, Ledger(store), payments, AutoTopUps(store, now_ms=clock), api, clock, account, customer)
    await rig.ledger.credit(account, 10 * USD, "start")
    await store.write(PutWebhook(account, "https://hooks.example/", "whsec_c2VjcmV0"))
    await rig.send("payment_intent.succeeded", saving_intent(account, customer=customer, method="pm_1"))
    await rig.auto_topups.put(account, TERMS)
    yield rig
    api.close()


async def test_a_balance_below_the_threshold_is_one_payment_credited_once_by_the_answer_and_its_event(
    rig: Rig, stripe: FakeStripe
) -> None:
    await rig.spend(5)
    assert await rig.due() == ()
    await rig.spend(1)
    assert (await rig.standing()).due_at_ms == rig.clock()
    await rig.pay()
    assert await rig.usd() == 24
    [asked] = stripe.asked_for(INTENTS)
    [made] = stripe.intents.values()
    assert (
        asked.form | {"metadata[gateway_auto_payment_id]": asked.idempotency_key}
        == asked.form
        == {
            "amount": "2000",
            "currency": "usd",
            "customer": rig.customer,
            "payment_method": "pm_1",
            "off_session": "true",
            "confirm": "true",
            "automatic_payment_methods[enabled]": "true",
            "return_url": "https://app.test/",
            "description": "API credit",
            "metadata[gateway_account_id]": rig.account,
            "metadata[gateway_auto_payment_id]": asked.idempotency_key,
        }
    )
    await asyncio.gather(*(rig.send("payment_intent.succeeded", made) for _ in range(3)))
    assert await rig.usd() == 24
    standing = await rig.standing()
    assert (standing.is_on, standing.paid_today_nano, standing.due_at_ms) == (True, 20 * USD, None)
    [told] = await rig.told()
    assert told["type"] == "auto_topup.succeeded"
    assert told["data"] == {"account_id": rig.account, "amount_usd": "20.00", "balance_usd": "24.00"}
    assert rig.counted == {"succeeded": 1}
    await rig.spend(20)
    await rig.pay()
    assert await rig.usd() == 24


async def test_two_hundred_requests_that_race_across_the_threshold_are_one_payment(
    rig: Rig, stripe: FakeStripe
) -> None:
    await rig.spend(4.9)
    await asyncio.gather(*(rig.spend(0.02) for _ in range(200)), rig.auto.start_due())
    await rig.pay()
    assert len(stripe.asked_for(INTENTS)) == len(stripe.intents) == 1
    assert await rig.usd() == pytest.approx(21.1)


async def test_a_balance_that_stays_low_is_paid_for_again_within_the_day_s_most_and_then_the_next_day(
    rig: Rig, stripe: FakeStripe
) -> None:
    await rig.auto_topups.put(rig.account, AutoTopUpTerms(50 * USD, 20 * USD, 50 * USD))
    await rig.pay()
    assert (await rig.usd(), len(stripe.intents)) == (50, 2)
    await rig.spend(1)
    await rig.pay()
    midnight_ms = (rig.clock() // DAY_MS + 1) * DAY_MS
    assert (await rig.standing()).due_at_ms == midnight_ms
    rig.clock.now_ms = midnight_ms
    await rig.pay()
    assert (await rig.usd(), (await rig.standing()).paid_today_nano) == (69, 20 * USD)


async def test_money_that_comes_in_before_stripe_is_asked_makes_a_payment_needless(
    rig: Rig, stripe: FakeStripe
) -> None:
    await rig.spend(6)
    await rig.ledger.credit(rig.account, 10 * USD, "by hand")
    await rig.pay()
    assert (stripe.intents, (await rig.standing()).due_at_ms) == ({}, None)


# Between the row, the call and the answer


async def test_what_is_taken_away_by_hand_or_expires_is_not_charged_and_what_is_spent_behind_it_is(
    rig: Rig, stripe: FakeStripe
) -> None:
    """Whoever is paid out, or leaves a gift unused, is not charged for that."""
    await rig.ledger.adjust(rig.account, -8 * USD, "paid out")
    await rig.pay()
    await rig.ledger.grant(rig.account, 10 * USD, "a gift", expires_at_ms=rig.clock() + HOUR_MS)
    rig.clock.now_ms += HOUR_MS
    assert await rig.ledger.expire_grants() == 10 * USD
    await rig.pay()
    assert (stripe.intents, await rig.usd(), (await rig.standing()).is_on) == ({}, 2, True)
    await rig.spend(1)
    await rig.pay()
    assert await rig.usd() == 21


async def test_a_process_that_is_killed_between_the_row_and_the_call_pays_at_its_next_start(
    rig: Rig, stripe: FakeStripe
) -> None:
    await rig.spend(6)
    [due] = await rig.due()
    asked = await rig.store.write(AskAutoPayment(due.id, 1000 * USD, 1000 * USD, rig.clock()))
    assert asked is not None
    rig.restarted()
    await rig.pay()
    assert [one.idempotency_key for one in stripe.asked_for(INTENTS)] == [asked.id]
    assert await rig.usd() == 24


async def test_a_process_that_is_killed_between_the_call_and_the_answer_finds_its_payment(
    rig: Rig, stripe: FakeStripe
) -> None:
    await rig.spend(6)
    [due] = await rig.due()
    asked = await rig.store.write(AskAutoPayment(due.id, 1000 * USD, 1000 * USD, rig.clock()))
    assert asked is not None
    await rig.api.make_payment(asked, "https://app.test/")
    stripe.methods["pm_1"] = "card_declined"  # would be the end, were it asked anew
    rig.restarted()
    await rig.pay()
    assert (await rig.usd(), len(stripe.intents)) == (24, 1)


async def test_an_answer_that_is_lost_is_asked_after_and_the_payment_made_once(rig: Rig, stripe: FakeStripe) -> None:
    stripe.loses_answers = True
    await rig.spend(6)
    await rig.pay()
    assert (await rig.usd(), rig.counted["put_off"]) == (4, 1)
    stripe.loses_answers = False
    rig.clock.now_ms += 5000
    await rig.pay()
    assert (await rig.usd(), len(stripe.intents)) == (24, 1)


async def test_an_event_that_comes_before_the_answer_credits_and_the_answer_changes_nothing(
    rig: Rig, stripe: FakeStripe
) -> None:
    stripe.loses_answers = True
    await rig.spend(6)
    await rig.pay()
    stripe.loses_answers = False
    [made] = stripe.intents.values()
    await rig.send("payment_intent.succeeded", made)
    rig.clock.now_ms += HOUR_MS
    await rig.pay()
    assert (await rig.usd(), rig.counted["succeeded"]) == (24, 1)


async def test_a_stripe_that_is_away_is_asked_again_by_the_same_key_for_less_than_a_day(
    rig: Rig, stripe: FakeStripe, caplog: pytest.LogCaptureFixture
) -> None:
    stripe.failure = 503, {"error": {"type": "api_error", "message": "MARK"}}
    await rig.spend(6)
    started_ms = rig.clock()
    while (due_at_ms := (await rig.standing()).due_at_ms) is not None and rig.clock() - started_ms < 19 * HOUR_MS:
        rig.clock.now_ms = due_at_ms
        await rig.pay()
    stripe.failure = None
    rig.clock.now_ms = started_ms + 21 * HOUR_MS
    await rig.pay()
    assert stripe.intents == {}
    assert len({one.idempotency_key for one in stripe.asked_for(INTENTS)}) == 1
    assert (await rig.standing()).off_reason == "payments_unavailable"
    assert "MARK" not in caplog.text


async def test_what_was_asked_for_in_vain_is_not_asked_for_again_once_nobody_wants_it(
    rig: Rig, stripe: FakeStripe
) -> None:
    stripe.failure = 500, {"error": {"type": "api_error"}}
    await rig.spend(6)
    await rig.pay()
    await rig.auto_topups.remove(rig.account)
    stripe.failure = None
    rig.clock.now_ms += HOUR_MS
    await rig.pay()
    assert (stripe.intents, await rig.usd(), (await rig.standing()).due_at_ms) == ({}, 4, None)


async def test_what_stripe_never_got_is_not_charged_once_the_balance_is_low_no_more(
    rig: Rig, stripe: FakeStripe
) -> None:
    stripe.failure = 503, {"error": {"type": "api_error"}}
    await rig.spend(6)
    await rig.pay()
    await rig.ledger.credit(rig.account, 10 * USD, "by hand, since Stripe was away")
    stripe.failure = None
    rig.clock.now_ms += HOUR_MS
    await rig.pay()
    assert (stripe.intents, await rig.usd()) == ({}, 14)
    assert ((await rig.standing()).is_on, await rig.told()) == (True, [])
    await rig.spend(10)
    await rig.pay()
    assert await rig.usd() == 24


async def test_an_account_that_was_switched_off_while_stripe_was_away_is_charged_once_it_is_on_again(
    rig: Rig, stripe: FakeStripe
) -> None:
    stripe.failure = 503, {"error": {"type": "api_error"}}
    await rig.spend(6)
    await rig.pay()
    await rig.store.write(SetAccountActive(rig.account, is_active=False))
    stripe.failure = None
    rig.clock.now_ms += HOUR_MS
    await rig.pay()
    assert (stripe.intents, (await rig.standing()).is_on) == ({}, True)
    await rig.store.write(SetAccountActive(rig.account, is_active=True))
    await rig.pay()
    assert (await rig.usd(), len(stripe.intents)) == (24, 1)


async def test_who_switches_it_on_again_meanwhile_has_it_on(rig: Rig, stripe: FakeStripe) -> None:
    stripe.failure = 503, {"error": {"type": "api_error"}}
    await rig.spend(6)
    await rig.pay()
    [due] = await rig.due_at(rig.clock() + HOUR_MS)
    await rig.auto_topups.remove(rig.account)
    await rig.auto_topups.put(rig.account, TERMS)
    stripe.failure = None
    await rig.store.write(DropAutoPayment(due.id))
    await rig.pay()
    assert (await rig.usd(), (await rig.standing()).is_on, len(stripe.intents)) == (24, True, 1)
    await rig.store.write(DropAutoPayment(due.id))
    assert await rig.due() == ()


# Failures


@pytest.mark.parametrize("code", ["card_declined", "authentication_required", "expired_card"])
async def test_a_payment_that_fails_switches_it_off_says_so_and_is_never_tried_again(
    rig: Rig, stripe: FakeStripe, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    stripe.methods["pm_1"] = code
    await rig.spend(6)
    await rig.pay()
    await rig.spend(1)
    await rig.pay()
    standing = await rig.standing()
    assert (standing.is_on, standing.off_reason, standing.off_at_ms) == (False, code, rig.clock())
    assert (len(stripe.asked_for(INTENTS)), standing.paid_today_nano, await rig.usd()) == (1, 0, 3)
    [made] = stripe.intents.values()
    await rig.send("payment_intent.payment_failed", made)
    [told] = await rig.told()
    assert told["type"] == "auto_topup.failed"
    amounts = {"amount_usd": "20.00", "balance_usd": "4.00"}
    assert told["data"] == {"account_id": rig.account, "reason": code} | amounts
    assert rig.counted == {"failed": 1}
    assert f"{rig.account} failed and is off: {code}" in caplog.text
    assert "MARK" not in caplog.text
    await rig.store.write(SetLowBalance(rig.account, 5 * USD))
    assert (await rig.told())[-1]["data"]["auto_topup"] == {"enabled": False, "off_reason": code}
    assert standing.in_words() == f"auto top-up is off: {code}"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ((400, {"type": "invalid_request_error", "code": "resource_missing", "param": "customer"}), "resource_missing"),
        ((400, {"type": "invalid_request_error", "message": "MARK"}), "declined"),
        ((402, {"type": "card_error", "code": "Not a code!"}), "declined"),
    ],
)
async def test_what_stripe_refuses_for_good_switches_it_off(
    rig: Rig, stripe: FakeStripe, failure: tuple[int, dict[str, Any]], reason: str
) -> None:
    stripe.failure = failure[0], {"error": failure[1]}
    await rig.spend(6)
    await rig.pay()
    assert (await rig.standing()).off_reason == reason


@pytest.mark.parametrize(
    "trouble", [(401, {"type": "invalid_request_error"}), (429, {"code": "rate_limit"}), (409, {}), (200, {})]
)
async def test_what_stripe_says_of_us_or_cannot_be_read_is_no_failure_of_the_account(
    rig: Rig, stripe: FakeStripe, trouble: tuple[int, dict[str, Any]]
) -> None:
    status, error = trouble
    stripe.failure = status, {"error": error} if status > 200 else {"id": "pi_1", "object": "payment_intent"}
    await rig.spend(6)
    await rig.pay()
    stripe.failure = None
    rig.clock.now_ms += 5000
    await rig.pay()
    assert await rig.usd() == 24


@pytest.mark.parametrize(
    ("failure", "is_off"),
    [
        ((400, {"type": "invalid_request_error", "code": "resource_missing", "param": "customer"}), False),
        ((400, {"type": "invalid_request_error", "code": "parameter_invalid_integer"}), False),
    ],
)
async def test_a_list_that_stripe_refuses_ends_nothing(
    rig: Rig, stripe: FakeStripe, failure: tuple[int, dict[str, Any]], is_off: bool
) -> None:
    asked = AutoPayment("atp_1", rig.account, 5 * USD, rig.customer, "pm_1", rig.clock())
    stripe.failure = failure[0], {"error": failure[1]}
    if failure[1]["code"] == "resource_missing":
        assert await rig.api.find_payment(asked) is None
    else:
        with pytest.raises(GatewayError):
            await rig.api.find_payment(asked)
    assert (await rig.standing()).is_on is not is_off


async def test_a_payment_that_takes_days_is_waited_for_and_its_event_ends_it(rig: Rig, stripe: FakeStripe) -> None:
    stripe.methods["pm_1"] = "processing"
    await rig.spend(6)
    await rig.pay()
    rig.clock.now_ms += 30 * HOUR_MS
    await rig.pay()
    assert (await rig.usd(), len(stripe.intents)) == (4, 1)
    [made] = stripe.intents.values()
    for status in ("processing", "requires_confirmation", "requires_payment_method"):  # in no end's state
        await rig.send("payment_intent.payment_failed", made | {"status": status})
    assert (await rig.standing()).is_on
    await rig.send("payment_intent.succeeded", made | {"status": "succeeded", "amount_received": 2000})
    assert await rig.usd() == 24


async def test_a_payment_that_is_canceled_or_wants_its_payer_is_a_failure(rig: Rig, stripe: FakeStripe) -> None:
    stripe.methods["pm_1"] = "requires_action"
    await rig.spend(6)
    await rig.pay()
    assert (await rig.standing()).off_reason == "authentication_required"
    stripe.methods["pm_1"] = "processing"
    await rig.auto_topups.put(rig.account, TERMS)
    await rig.pay()
    made = [*stripe.intents.values()][-1]
    await rig.send("payment_intent.canceled", made | {"status": "canceled"})
    assert (await rig.standing()).off_reason == "canceled"


async def test_one_that_is_switched_on_again_after_each_failure_asks_only_so_often_a_day(
    rig: Rig, stripe: FakeStripe
) -> None:
    stripe.methods["pm_1"] = "card_declined"
    await rig.spend(6)
    for _ in range(MOST_PAYMENTS_A_DAY + 3):
        await rig.auto_topups.put(rig.account, TERMS)
        await rig.pay()
    assert len(stripe.asked_for(INTENTS)) == MOST_PAYMENTS_A_DAY
    assert (await rig.standing()).is_on


# What else switches it off


@pytest.mark.parametrize(
    ("kind", "stated", "reason"),
    [
        ("charge.refunded", refunded_charge(700, payment="pi_first"), "payment_refunded"),
        ("charge.dispute.created", dispute(700, "needs_response", payment="pi_first"), "payment_disputed"),
    ],
)
async def test_money_that_went_back_is_not_charged_again(
    rig: Rig, stripe: FakeStripe, kind: str, stated: dict[str, Any], reason: str
) -> None:
    metadata = {"gateway_account_id": rig.account, "gateway_auto_payment_id": "atp_of_a_backup"}
    await rig.send("payment_intent.succeeded", intent("pi_first", 1000, metadata))
    await rig.spend(14)
    await rig.send(kind, stated)
    await rig.pay()
    assert (stripe.intents, await rig.usd()) == ({}, -1)
    assert (await rig.standing()).off_reason == reason
    assert (await rig.told())[-1]["type"] == "auto_topup.off"
    assert (await rig.told())[-1]["data"] == {"account_id": rig.account, "reason": reason}


async def test_a_method_that_is_removed_at_stripe_is_forgotten(rig: Rig, stripe: FakeStripe) -> None:
    await rig.send("payment_method.detached", {"id": "pm_of_another", "object": "payment_method"})
    assert (await rig.standing()).is_on
    await rig.spend(6)
    await rig.send("payment_method.detached", {"id": "pm_1", "object": "payment_method", "customer": None})
    await rig.pay()
    standing = await rig.standing()
    assert (standing.has_payment_method, standing.off_reason, stripe.intents) == (False, "no_payment_method", {})
    with pytest.raises(GatewayError) as refused:
        await rig.auto_topups.put(rig.account, TERMS)
    assert refused.value.code == "conflict"


async def test_the_method_that_was_saved_last_counts_in_whatever_order_events_come(
    rig: Rig, stripe: FakeStripe
) -> None:
    for method, at_s in (("pm_3", 1_900_000_000), ("pm_2", 1_850_000_000)):
        stated = saving_intent(rig.account, customer=rig.customer, method=method) | {"created": at_s}
        await rig.send("payment_intent.succeeded", stated)
    await rig.spend(6)
    await rig.pay()
    assert stripe.asked_for(INTENTS)[0].form["payment_method"] == "pm_3"


async def test_a_method_that_went_without_a_word_is_found_missing_when_it_is_wanted(
    rig: Rig, stripe: FakeStripe
) -> None:
    await rig.spend(6)
    await rig.store.write(SetAutoTopUp(rig.account, TERMS))
    await rig.store.write(changing("DELETE FROM saved_payment_methods"))
    await rig.pay()
    assert (stripe.intents, (await rig.standing()).off_reason) == ({}, "no_payment_method")


async def test_an_account_that_is_switched_off_is_not_charged_and_is_once_it_is_on_again(
    rig: Rig, stripe: FakeStripe
) -> None:
    await rig.spend(6)
    await rig.store.write(SetAccountActive(rig.account, is_active=False))
    await rig.pay()
    assert (stripe.intents, (await rig.standing()).is_on) == ({}, True)
    await rig.store.write(SetAccountActive(rig.account, is_active=True))
    await rig.pay()
    assert await rig.usd() == 24


async def test_what_the_operator_offers_no_more_is_switched_off(rig: Rig, stripe: FakeStripe) -> None:
    await rig.spend(6)
    rig.restarted(most_usd=10)
    await rig.pay()
    assert (await rig.standing()).off_reason == "not_offered"
    await rig.auto_topups.put(rig.account, TERMS)
    await rig.restarted().begin(are_offered=True)
    assert (await rig.standing()).is_on
    await rig.auto.begin(are_offered=False)
    await rig.pay()
    assert ((await rig.standing()).off_reason, stripe.intents) == ("not_offered", {})
    await rig.auto_topups.put(rig.account, TERMS)
    assert await rig.auto_topups.switch_off(rig.account)
    assert not await rig.auto_topups.switch_off(rig.account)
    assert (await rig.standing()).off_reason == "operator"
    await rig.auto_topups.remove(rig.account)
    with pytest.raises(GatewayError):
        await rig.auto_topups.remove(rig.account)
    assert (await rig.standing()).in_words() == "no auto top-up is set"


# Events


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": None},
        {"metadata": {}},
        {"status": "requires_action"},
        {"setup_future_usage": "on_session"},
        {"metadata": {"gateway_account_id": "acc_of_another_gateway"}},
    ],
)
async def test_a_payment_that_saves_nothing_for_us_changes_nothing(rig: Rig, change: dict[str, Any]) -> None:
    stated = saving_intent(rig.account, customer="cus_2", method="pm_2") | {"created": 1_900_000_000}
    await rig.send("payment_intent.succeeded", stated | change)
    assert await rig.store.read(Query("SELECT method_id FROM saved_payment_methods")) == [("pm_1",)]


@pytest.mark.parametrize("change", [{"created": -1}, {"created": "1"}, {"customer": None}, {"payment_method": 5}])
async def test_a_payment_that_saves_something_odd_is_refused(rig: Rig, change: dict[str, Any]) -> None:
    stated = saving_intent(rig.account, customer="cus_2", method="pm_2")
    with pytest.raises(GatewayError):
        await rig.send("payment_intent.succeeded", stated | change)


@pytest.mark.parametrize(
    "change", [{"currency": "eur"}, {"metadata": {"gateway_auto_payment_id": "a", "gateway_account_id": "acc_x"}}]
)
async def test_a_payment_for_nobody_here_is_told(
    rig: Rig, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    metadata = {"gateway_account_id": rig.account, "gateway_auto_payment_id": "a"}
    await rig.send("payment_intent.succeeded", intent("pi_odd", 1000, metadata) | change)
    assert "pi_odd was paid at Stripe and credits nothing" in caplog.text
    assert await rig.usd() == 10


async def test_a_payment_that_somebody_renamed_at_stripe_to_nobody_here_is_asked_after_once(
    rig: Rig, stripe: FakeStripe
) -> None:
    """Its event tells the operator; without an end it would be asked after without a rest."""
    stripe.loses_answers = True
    await rig.spend(6)
    await rig.pay()
    stripe.loses_answers = False
    [made] = stripe.intents.values()
    made["metadata"]["gateway_account_id"] = "acc_nobody"
    rig.clock.now_ms += HOUR_MS
    await rig.auto.start_due()
    await asyncio.gather(*rig.auto.work.tasks.values())
    assert await rig.due() == ()
    assert await rig.usd() == 4


async def test_an_answer_in_another_currency_is_not_believed(rig: Rig, stripe: FakeStripe) -> None:
    await rig.spend(6)
    [due] = await rig.due()
    metadata = {"gateway_account_id": rig.account, "gateway_auto_payment_id": due.id}
    stripe.failure = 200, intent("pi_odd", 2000, metadata) | {"currency": "eur"}
    await rig.pay()
    assert (await rig.usd(), rig.counted) == (4, {"put_off": 1})


async def test_payments_of_others_are_passed_over_in_a_list(rig: Rig, stripe: FakeStripe) -> None:
    for number, metadata in enumerate(
        (None, {}, {"gateway_account_id": rig.account, "gateway_auto_payment_id": "atp_0"})
    ):
        stripe.intents[f"pi_{number}"] = intent(f"pi_{number}", 1, {}) | {
            "customer": rig.customer,
            "metadata": metadata,
        }
    asked = AutoPayment("atp_1", rig.account, 5 * USD, rig.customer, "pm_1", rig.clock())
    assert await rig.api.find_payment(asked) is None
    assert await rig.api.find_payment(asked._replace(id="atp_0")) is not None


# The loop


async def test_the_loop_is_woken_by_what_begins_and_outlives_what_fails(
    rig: Rig, stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(due_work, "LOOK_S", 0.001)
    read, write, failing = rig.store.read, rig.store.write, {"read", "odd", "outage"}

    async def sometimes_read(one: Any) -> Any:
        if isinstance(one, DueAutoPayments) and "read" in failing:
            failing.remove("read")
            raise DatabaseError("MARK")
        return await read(one)

    def sometimes_write(one: Any, **how: Any) -> Any:
        if isinstance(one, AskAutoPayment) and "odd" in failing:
            failing.remove("odd")
            raise RuntimeError("MARK")
        if isinstance(one, EndAutoPayment) and "outage" in failing:
            failing.remove("outage")
            raise GatewayError("ledger_unavailable", "MARK")
        return write(one, **how)

    monkeypatch.setattr(rig.store, "read", sometimes_read)
    monkeypatch.setattr(rig.store, "write", sometimes_write)
    watching = asyncio.create_task(rig.auto.watch())
    with caplog.at_level(logging.ERROR):
        await rig.spend(6)
        await becomes(rig.usd, lambda usd: usd == 24)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert (failing, len(stripe.intents)) == (set(), 1)


async def test_a_loop_that_ends_leaves_what_runs_to_the_next(rig: Rig, stripe: FakeStripe) -> None:
    stripe.gate.clear()
    stripe.has_arrived.clear()
    watching = asyncio.create_task(rig.auto.watch())
    await rig.spend(6)
    await asyncio.to_thread(stripe.has_arrived.wait)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    stripe.gate.set()
    rig.restarted()
    await rig.pay()
    assert (await rig.usd(), len(stripe.intents)) == (24, 1)


async def test_only_so_many_are_asked_for_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_payments, "_MOST_AT_ONCE", 0)
    await rig.spend(6)
    await rig.auto.start_due()
    assert rig.auto.work.tasks == {}


async def test_a_stripe_that_hangs_keeps_neither_the_threads_of_others_nor_its_own_callers(
    rig: Rig, stripe: FakeStripe
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    stripe.gate.clear()
    hanging = [asyncio.create_task(rig.api.create_customer(rig.account)) for _ in range(auto_payments._MOST_AT_ONCE)]
    await becomes(lambda: asyncio.sleep(0, len(stripe.asked)), lambda asked: asked == len(hanging))
    assert await asyncio.to_thread(int) == 0
    asking = asyncio.create_task(rig.api.create_customer(rig.account))
    await becomes(lambda: asyncio.sleep(0, len(stripe.asked)), lambda asked: asked > len(hanging))
    stripe.gate.set()
    assert len({*await asyncio.gather(asking, *hanging)}) == len(hanging) + 1


def test_waits_grow_to_an_hour() -> None:
    assert [wait_s(failures, 1, 3600) for failures in (1, 2, 3, 99)] == [5, 20, 80, 3600]
    assert wait_s(99, 0, 3600) == 1800


async def test_what_has_ended_is_not_put_off_or_failed_any_more(rig: Rig, stripe: FakeStripe) -> None:
    await rig.spend(6)
    [due] = await rig.due()
    await rig.pay()
    await rig.store.write(PutOffAutoPayment(due.id, 1))
    await rig.store.write(EndAutoPayment(AutoFailed(due.id, "card_declined")))
    assert (await rig.store.write(AskAutoPayment(due.id, 1, 1, 1)), (await rig.standing()).is_on) == (None, True)
