"""What an account's owner reads of its ledger."""

from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.statement import Statement
from mcp_gateway.core.store.sqlite.store import Store


async def test_a_page_is_newest_first_and_the_next_goes_on_where_it_ended(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 7, "g")
    hold = await ledger.hold("req_1", account, 1, 10)
    await ledger.settle(hold, 9, None)
    statement = Statement(store)
    newest = await statement.page(account, before=None, limit=2)
    older = await statement.page(account, before=newest[-1].place, limit=10)
    assert [row.kind for row in newest + older] == ["settle", "grant", "credit"]
    assert [row.amount_nano for row in newest + older] == [-9, 7, 100]
    assert [row.spendable_nano for row in newest + older] == [-9, 7, 100]
    moves = await statement.page(account, before=None, limit=10, only_moves=True)
    assert [row.reference for row in moves] == ["req_1", "g", "p"]


async def test_what_the_operator_noted_of_a_move_is_found_with_it(ledger: Ledger, account: str, store: Store) -> None:
    await ledger.credit(account, 100, "p", note="paid by wire")
    await ledger.adjust(account, -30, "a", note="counted twice")
    await ledger.grant(account, 7, "g")
    statement = Statement(store)
    rows = await statement.page(account, before=None, limit=10)
    notes = await statement.notes(rows)
    assert {row.reference: notes.get(row) for row in rows} == {"p": "paid by wire", "a": "counted twice", "g": None}


async def test_a_balance_is_told_in_usd(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 2_500_000_000, "p")
    await ledger.grant(account, 500_000_000, "g")
    await ledger.hold("req_1", account, 1, 1_000_000_000)
    told = (await ledger.balance(account)).as_object().model_dump()
    assert told == {
        "currency": "USD",
        "balance_usd": "2.00",
        "granted_usd": "0.00",
        "held_usd": "1.00",
        "leased_usd": "0.00",
    }
