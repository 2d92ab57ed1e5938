"""What an account's owner reads of its ledger."""

from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.statement import Statement
from mcp_gateway.core.store.store import Store


async def test_a_page_is_newest_first_and_the_next_goes_on_where_it_ended(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 7, "g")
    hold = await ledger.hold("req_1", account, 1, 10)
    await ledger.settle(hold, 9, None)
    statement = Statement(store)
    newest = await statement.page(account, before_id=None, limit=2)
    older = await statement.page(account, before_id=newest[-1].id, limit=10)
    assert [row.kind for row in newest + older] == ["settle", "hold", "grant", "credit"]
    assert [row.amount_nano for row in newest + older] == [-9, 0, 7, 100]
    assert [row.spendable_nano for row in newest + older] == [1, -10, 7, 100]
    moves = await statement.page(account, before_id=None, limit=10, only_moves=True)
    assert [row.reference for row in moves] == ["req_1", "g", "p"]
