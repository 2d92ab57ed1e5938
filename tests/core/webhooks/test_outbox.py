"""Which events a change of money writes, in its own transaction: each threshold once, and for those who are told."""

import asyncio
import re
from itertools import count
from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import Budget, BudgetWindow, MakeBudgets
from mcp_gateway.core.ledger.entries import GiveBack
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store.sql import webhooks
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.webhooks.outbox import (
    OPERATOR,
    EventsDropped,
    PutWebhook,
    RemoveWebhook,
    SetLowBalance,
    SetOperatorWebhook,
    WebhookOf,
    WebhookStanding,
)
from tests.core.ledger.test_bursts import traced
from tests.core.ledger.test_ledger import checked, record
from tests.databases import Query, changing

__all__ = ["checked"]

KEY = frozenset({"key_one"})
SECRET = "whsec_c2VjcmV0"


@pytest.fixture
async def told(store: Store, account: str) -> str:
    """An account that has a webhook, with which nothing waits yet."""
    await store.write(PutWebhook(account, "https://hooks.example/", SECRET))
    return account


async def events(store: Store, receiver: str) -> list[dict[str, Any]]:
    sql = "SELECT body FROM webhook_outbox WHERE receiver = ? ORDER BY due_at_ms, event_id"
    return [orjson.loads(body) for (body,) in await store.read(Query(sql, (receiver,)))]


async def percents(store: Store, receiver: str) -> list[int]:
    found = await events(store, receiver)
    return sorted(event["data"]["percent"] for event in found if event["type"] == "budget.threshold")


async def budget(
    ledger: Ledger, account: str, amount_nano: int, window: BudgetWindow = "total", holder: str | None = None
) -> str:
    made = Budget(f"bud_{amount_nano}_{window}", account, holder or account, amount_nano, window)
    await ledger._store.write(MakeBudgets((made,)))
    return made.id


async def spend(ledger: Ledger, account: str, amount_nano: int, request_id: str) -> None:
    await ledger.settle(await ledger.hold(request_id, account, 1, amount_nano), amount_nano, None)


@pytest.mark.parametrize(
    ("spent", "percents_told"),
    [
        ([49], []),
        ([50], [50]),
        ([49, 1], [50]),
        ([79], [50]),
        ([80], [50, 80]),
        ([30, 30, 30], [50, 80]),
        ([100], [50, 80, 100]),
        ([99, 1], [50, 80, 100]),
        ([1] * 60, [50]),
    ],
)
async def test_each_threshold_of_a_budget_is_told_once(
    ledger: Ledger, store: Store, told: str, spent: list[int], percents_told: list[int]
) -> None:
    await ledger.credit(told, 1000, "p")
    await budget(ledger, told, 100)
    for number, amount_nano in enumerate(spent):
        await spend(ledger, told, amount_nano, f"req_{number}")
    assert await percents(store, told) == percents_told


async def test_requests_that_end_together_tell_each_threshold_once(ledger: Ledger, store: Store, told: str) -> None:
    await ledger.credit(told, 1000, "p")
    await budget(ledger, told, 100)
    await asyncio.gather(*(spend(ledger, told, 5, f"req_{number}") for number in range(20)))
    assert await percents(store, told) == [50, 80, 100]


async def test_each_budget_tells_of_its_own(ledger: Ledger, store: Store, told: str) -> None:
    await ledger.credit(told, 1000, "p")
    small, large = await budget(ledger, told, 100, "day"), await budget(ledger, told, 190, "total")
    await spend(ledger, told, 95, "req")
    found = {(event["data"]["budget"]["id"], event["data"]["percent"]) for event in await events(store, told)}
    assert found == {(small, 50), (small, 80), (large, 50)}


async def test_what_was_given_back_is_not_told_again_when_it_is_spent(ledger: Ledger, store: Store, told: str) -> None:
    await ledger.credit(told, 1000, "p")
    await budget(ledger, told, 100)
    hold = await ledger.hold("req_1", told, 1, 60)
    await ledger.settle(hold, 60, record("req_1", told, cost_nano=60))
    await store.write(GiveBack("req_1", told, record("req_1", told), hold.windows))
    await spend(ledger, told, 60, "req_2")
    assert await percents(store, told) == [50]


async def test_an_event_says_what_happened_by_ids_and_amounts_alone(ledger: Ledger, store: Store, told: str) -> None:
    await ledger.credit(told, 10**9, "p")
    budget_id = await budget(ledger, told, 10**8)
    await spend(ledger, told, 6 * 10**7, "req")
    (event,) = await events(store, told)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("timestamp"))
    assert event == {
        "type": "budget.threshold",
        "data": {
            "account_id": told,
            "percent": 50,
            "spent_usd": "0.06",
            "budget": {"id": budget_id, "holder": told, "window": "total", "amount_usd": "0.10"},
            "window_started_at": 0,
        },
    }


@pytest.mark.usefixtures("of_sqlite")
async def test_an_event_is_written_in_the_transaction_of_what_caused_it_or_not_at_all(
    ledger: Ledger, store: Store, told: str
) -> None:
    await ledger.credit(told, 1000, "p")
    await budget(ledger, told, 100)
    hold = await ledger.hold("req", told, 1, 60)
    statements = await traced(store)
    await ledger.settle(hold, 60, None)
    begun = statements.index("BEGIN IMMEDIATE")
    committed = statements.index("COMMIT", begun)
    added, *_ = [n for n, sql in enumerate(statements) if sql.lstrip().startswith("INSERT INTO webhook_outbox")]
    (settled,) = [n for n, sql in enumerate(statements) if sql.lstrip().startswith("INSERT INTO ledger_rows")]
    assert begun < settled < added < committed


# A low balance


async def low(store: Store, receiver: str) -> list[str]:
    return [event["data"]["balance_usd"] for event in await events(store, receiver) if event["type"] == "balance.low"]


async def test_a_low_balance_is_told_once_until_money_comes_in(ledger: Ledger, store: Store, told: str) -> None:
    await ledger.credit(told, 1000, "p1")
    await store.write(SetLowBalance(told, 500))
    await spend(ledger, told, 500, "req_1")
    assert await low(store, told) == []
    await spend(ledger, told, 1, "req_2")
    await spend(ledger, told, 100, "req_3")
    assert await low(store, told) == ["0.000000499"]
    await ledger.credit(told, 50, "too little")
    await spend(ledger, told, 1, "req_4")
    assert len(await low(store, told)) == 1
    await ledger.grant(told, 500, "enough")
    await spend(ledger, told, 449, "req_5")
    assert await low(store, told) == ["0.000000499", "0.000000499"]


async def test_what_a_request_gets_back_does_not_have_it_told_again(ledger: Ledger, store: Store, told: str) -> None:
    await ledger.credit(told, 1000, "p")
    await store.write(SetLowBalance(told, 500))
    hold = await ledger.hold("req_1", told, 1, 600)
    await ledger.settle(hold, 600, record("req_1", told, cost_nano=600))
    await store.write(GiveBack("req_1", told, record("req_1", told)))
    await spend(ledger, told, 600, "req_2")
    assert len(await low(store, told)) == 1


async def test_money_that_is_taken_back_from_outside_is_told_of_too(ledger: Ledger, store: Store, told: str) -> None:
    await ledger.credit(told, 1000, "p")
    await store.write(SetLowBalance(told, 500))
    await ledger.adjust(told, -700, "correction")
    assert await low(store, told) == ["0.0000003"]


async def test_a_mark_above_the_balance_is_told_at_once_and_a_new_mark_anew(
    ledger: Ledger, store: Store, told: str
) -> None:
    await store.write(SetLowBalance(told, 500))
    await ledger.credit(told, 1000, "p")
    await store.write(SetLowBalance(told, 2000))
    assert len(await low(store, told)) == 2
    await store.write(SetLowBalance(told, None))
    await spend(ledger, told, 1000, "req")
    assert len(await low(store, told)) == 2
    assert (await store.read(WebhookOf(told, 0))).low_balance_nano is None


@pytest.mark.usefixtures("of_sqlite")
async def test_a_wallet_is_still_read_once_and_nothing_more_is_asked_where_nothing_is_near(
    ledger: Ledger, store: Store, told: str
) -> None:
    await ledger.credit(told, 1000, "p")
    await budget(ledger, told, 500)
    await store.write(SetLowBalance(told, 100))
    hold = await ledger.hold("req", told, 1, 10)
    statements = await traced(store)
    await ledger.settle(hold, 10, None)
    words = ("webhook", "told_thresholds", "UPDATE low_balances")
    assert [sql for sql in statements if any(word in sql for word in words)] == []
    assert sum("low_balances" in sql for sql in statements) == 1  # with the wallet


async def marks(store: Store, account: str, *marks_nano: int | None) -> None:
    for mark_nano in marks_nano:
        await store.write(SetLowBalance(account, mark_nano))


@pytest.mark.parametrize(
    ("marks_nano", "told_times"),
    [
        ([2000, 2000, 2000], 1),
        ([2000, 3000, 1500, 9000], 1),
        ([2000, None, 2000, None, None, 2000], 1),
        ([2000, None, 3000], 1),
        ([500, 1000], 0),
        ([500, None, 1000], 0),
        ([2000, 1000, 2000], 2),
        ([1001, 1001], 1),
    ],
)
async def test_to_set_marks_above_the_balance_tells_the_account_once_and_the_operator_never(
    ledger: Ledger, store: Store, told: str, marks_nano: list[int | None], told_times: int
) -> None:
    await store.write(SetOperatorWebhook("http://127.0.0.1:9/"))
    await ledger.credit(told, 1000, "p")
    await marks(store, told, *marks_nano)
    assert (await low(store, told), await low(store, OPERATOR)) == (["0.000001"] * told_times, [])


async def test_what_an_account_spends_below_a_mark_set_anew_is_told_to_both(
    ledger: Ledger, store: Store, told: str
) -> None:
    await store.write(SetOperatorWebhook("http://127.0.0.1:9/"))
    await ledger.credit(told, 1000, "p")
    await marks(store, told, 2000, None, 900)
    await spend(ledger, told, 101, "req")
    assert (len(await low(store, told)), await low(store, OPERATOR)) == (2, ["0.000000899"])


async def test_money_that_comes_in_while_no_mark_is_set_has_it_told_again(
    ledger: Ledger, store: Store, told: str
) -> None:
    await ledger.credit(told, 1000, "p1")
    await marks(store, told, 2000, None)
    await ledger.credit(told, 1, "p2")
    await marks(store, told, 2000, None, 2000)
    assert await low(store, told) == ["0.000001", "0.000001001"]


async def test_more_than_may_wait_for_a_receiver_takes_the_place_of_the_oldest(
    ledger: Ledger, store: Store, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MOST_WAITING", 2)
    numbers = count(1)
    monkeypatch.setattr(webhooks, "new_id", lambda kind: f"{kind}_{next(numbers)}")  # in order within a millisecond too
    dropped: list[EventsDropped] = []
    store.listen(EventsDropped, dropped.append)
    await store.write(SetOperatorWebhook("http://127.0.0.1:9/"))
    await ledger.credit(told, 1000, "p")
    await marks(store, told, 2000)  # to the account alone
    await budget(ledger, told, 100)
    await spend(ledger, told, 80, "req")
    assert (await percents(store, told), await percents(store, OPERATOR)) == ([50, 80], [50, 80])
    assert (await low(store, told), dropped) == ([], [EventsDropped(told, 1)])
    await spend(ledger, told, 20, "req_2")
    assert (await percents(store, told), await percents(store, OPERATOR)) == ([80, 100], [80, 100])
    assert dropped == [EventsDropped(told, 1), EventsDropped(told, 1), EventsDropped(OPERATOR, 1)]


# Who is told


async def test_the_operator_is_told_of_every_account_and_an_account_of_itself(
    ledger: Ledger, store: Store, told: str
) -> None:
    await store.write(SetOperatorWebhook("http://127.0.0.1:9/"))
    for account in (told, await other_account(store)):
        await ledger.credit(account, 1000, f"p {account}")
        await budget_of(store, account)
        await spend(ledger, account, 60, f"req {account}")
    assert await percents(store, OPERATOR) == [50, 50]
    assert await percents(store, told) == [50]
    assert {event["data"]["account_id"] for event in await events(store, told)} == {told}


async def other_account(store: Store) -> str:
    await store.write(changing("INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_other', 'other', 0)"))
    return "acc_other"


async def budget_of(store: Store, account: str) -> None:
    await store.write(MakeBudgets((Budget(f"bud_{account}", account, account, 100, "total"),)))


async def test_without_a_webhook_nothing_is_kept(ledger: Ledger, store: Store, account: str) -> None:
    await ledger.credit(account, 1000, "p")
    await budget(ledger, account, 100)
    await store.write(SetLowBalance(account, 950))
    await spend(ledger, account, 100, "req")
    assert await store.read(Query("SELECT * FROM webhook_outbox")) == []


async def test_a_webhook_that_is_removed_takes_what_waits_with_it(ledger: Ledger, store: Store, told: str) -> None:
    await store.write(SetOperatorWebhook("http://127.0.0.1:9/"))
    await ledger.credit(told, 1000, "p")
    await budget(ledger, told, 100)
    await spend(ledger, told, 100, "req")
    assert await store.write(RemoveWebhook(told))
    assert not await store.write(RemoveWebhook(told))
    assert await store.read(WebhookOf(told, 0)) == WebhookStanding(None, None)
    assert (await percents(store, told), await percents(store, OPERATOR)) == ([], [50, 80, 100])
    await store.write(SetOperatorWebhook(None))
    assert await store.read(Query("SELECT * FROM webhook_outbox")) == []


async def test_a_refused_lease_tells_nothing(ledger: Ledger, store: Store, told: str) -> None:
    """What a write changed before it was refused is taken back, its events too."""
    await ledger.credit(told, 1000, "p")
    parent = await budget(ledger, told, 100)
    statement = "INSERT INTO budget_windows VALUES (?, 0, 0)"
    await store.write(changing(statement, (parent,)))
    with pytest.raises(GatewayError):
        await store.write(MakeBudgets((Budget("bud_lost", told, "key_nobody", 100, "total"),)))
    assert await events(store, told) == []
