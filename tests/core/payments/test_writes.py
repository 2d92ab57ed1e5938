"""What is noted of payments: the ledger is brought to what all notes amount to, in any order."""

from itertools import permutations

import pytest

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.payments.facts import Fact, Paid, Reversal, Uncredited
from mcp_gateway.core.payments.payments import CustomerOf, NoteCustomer, NoteEvent
from mcp_gateway.core.store.sqlite.store import Store


async def noted(store: Store, event_id: str, fact: Fact) -> Uncredited | None:
    return await store.write(NoteEvent(event_id, "any", fact, 1))


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_the_order_of_events_and_their_repetition_change_nothing(store: Store, order: tuple[int, ...]) -> None:
    account = (await Accounts(store, new_id=new_id, now_ms=now_ms).create("Ann")).id
    facts: list[Fact] = [
        Paid("cs_1", "pi_1", account, 100),
        Reversal("re_1", "refund", "pi_1", 30),
        Reversal("du_1", "dispute", "pi_1", 70),
    ]
    for number in (*order, *order):
        assert await noted(store, f"evt_{number}", facts[number]) is None
    assert await Ledger(store).balance(account) == Balance()
    await noted(store, "evt_won", Reversal("du_1", "dispute", "pi_1", 70, is_returned=True))
    assert await Ledger(store).balance(account) == Balance(paid_nano=70)
    assert await Ledger(store).check() == []


@pytest.mark.parametrize("account_id", ["acc_none", GUEST_ACCOUNT_ID])
async def test_what_is_paid_for_nobody_credits_nobody_and_is_told_once(store: Store, account_id: str) -> None:
    paid = Paid("cs_1", "pi_1", account_id, 100)
    assert await noted(store, "evt_1", paid) == Uncredited("cs_1", "account")
    assert await noted(store, "evt_1", paid) is None
    assert await noted(store, "evt_2", Uncredited("cs_2", "currency")) == Uncredited("cs_2", "currency")
    assert await Ledger(store).balance(account_id) == Balance()


async def test_an_account_has_one_customer_the_last_that_was_made_in_place_of_another(store: Store) -> None:
    account = (await Accounts(store, new_id=new_id, now_ms=now_ms).create("Ann")).id
    assert await store.read(CustomerOf(account)) is None
    assert await store.write(NoteCustomer(account, "cus_1", None)) == "cus_1"
    assert await store.write(NoteCustomer(account, "cus_2", None)) == "cus_1"  # who asked did not know of it
    assert await store.write(NoteCustomer(account, "cus_3", "cus_1")) == "cus_3"
    assert await store.write(NoteCustomer(account, "cus_4", "cus_1")) == "cus_3"
    assert await store.read(CustomerOf(account)) == "cus_3"
