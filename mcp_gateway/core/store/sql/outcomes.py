"""How good answers were found: the scores of requests, and the counts that follow them."""

from collections.abc import Iterable

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.prompt_tasks import TASKS
from mcp_gateway.core.routing.outcomes import (
    IMPORTED,
    CellCount,
    CountsOf,
    CountsOfAll,
    ImportOutcomes,
    ImportsSoFar,
    OutcomesMoved,
    ScoreRequest,
)
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction
from mcp_gateway.core.text import shown

_ROUTED = """
SELECT model, task, score, COALESCE(is_test, FALSE) FROM routed_requests JOIN requests USING (account_id, id)
LEFT JOIN keys ON keys.id = key_id WHERE routed_requests.account_id = ? AND routed_requests.id = ?
"""
_SCORE = "UPDATE routed_requests SET score = ? WHERE account_id = ? AND id = ?"
_ADD = """
INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)
ON CONFLICT (account_id, model, task) DO UPDATE SET
    score = outcomes.score + excluded.score, trials = outcomes.trials + excluded.trials
RETURNING account_id, model, task, score, trials
"""
_COUNTS = "SELECT account_id, model, task, score, trials FROM outcomes"


def _score(transaction: Transaction, write: ScoreRequest) -> bool:
    found = transaction.first(_ROUTED, (write.account_id, write.request_id))
    if found is None:
        raise GatewayError("not_found", f"There is no request '{shown(write.request_id)}' that was routed.")
    model, task, before, is_test = found
    if write.is_of_test_key and not is_test:
        return False
    transaction.execute(_SCORE, (write.score, write.account_id, write.request_id))
    if is_test or model is None or task not in TASKS:
        return False
    added = (write.score, 1) if before is None else (write.score - before, 0)
    transaction.tell(_add(transaction, (write.account_id, model, task, *added)))
    transaction.announce(OutcomesMoved(write.account_id))
    return True


def _import(transaction: Transaction, write: ImportOutcomes) -> None:
    if write.in_place:
        transaction.execute("DELETE FROM outcomes WHERE account_id = ?", (IMPORTED,))
    for count in write.counts:
        _add(transaction, count)
    transaction.execute("UPDATE outcome_imports SET number = number + 1")


def _add(transaction: Transaction, count: Row) -> CellCount:
    """What is counted with it from now on."""
    [added] = _counts(transaction.all(_ADD, count))
    return added


def _of_all(rows: Rows, read: CountsOfAll) -> list[CellCount]:
    sql = f"{_COUNTS} ORDER BY account_id <> ?, trials DESC LIMIT ?"
    return _counts(rows.all(sql, (IMPORTED, read.most)))


def _of(rows: Rows, read: CountsOf) -> list[CellCount]:
    return _counts(rows.all(f"{_COUNTS} WHERE account_id = ? ORDER BY model, task", (read.account_id,)))


def _imports(rows: Rows, _: ImportsSoFar) -> int:
    ((number,),) = rows.all("SELECT number FROM outcome_imports")
    return int(number)


def _counts(found: Iterable[Row]) -> list[CellCount]:
    return [CellCount(*row) for row in found]


EXECUTORS = Executors(
    alone={ScoreRequest: _score, ImportOutcomes: _import},
    reads={CountsOfAll: _of_all, CountsOf: _of, ImportsSoFar: _imports},
)
