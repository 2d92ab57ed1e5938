"""What outcomes say of models: scores are counted once each, move whom the settings say, and imports are seen."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.optimization import MovedByFeedback
from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.record import SCORE_WHOLE, RoutingFacts
from mcp_gateway.core.routing.classifier.classifier import PromptReading
from mcp_gateway.core.routing.outcome_book import OutcomeBook
from mcp_gateway.core.routing.outcomes import IMPORTED, CellCount
from mcp_gateway.core.routing.quality import Outcomes, QualityTable
from mcp_gateway.core.store.sqlite.store import Store
from tests.cases import each
from tests.databases import Query, changing, migrated, open_store
from tests.recorded import recorded, write_records

CODE = PromptReading("code", 1.0, "simple", 0.1)
PRIORS: dict[str, dict[PromptTask, float]] = {"priced/tiny": {"code": 0.6}}


async def begun(store: Store, feedback: MovedByFeedback = "own", **options: Any) -> OutcomeBook:
    book = OutcomeBook(store, PRIORS, feedback, **options)
    await book.begin()
    return book


async def routed(
    store: Store, account_id: str = "acc_1", task: PromptTask | Literal["unknown"] = "code", **fields: Any
) -> str:
    """A request of this account that named no model."""
    record = recorded(1_000, account_id=account_id, routing=RoutingFacts(task, "simple", 0.9), **fields)
    await write_records(store, record)
    return record.id


async def scored(book: OutcomeBook, store: Store, scores: Sequence[float], account_id: str = "acc_1") -> None:
    for score in scores:
        request_id = await routed(store, account_id)
        assert await book.score(account_id, request_id, score, is_of_test_key=False)


def expected(table: QualityTable, model_id: str = "priced/tiny") -> tuple[float, int]:
    rate, outcomes = table.expected(CODE)[model_id]
    return round(rate, 6), outcomes


def drawn(score: float, trials: int, prior: float = 0.6) -> tuple[float, int]:
    return round((score + 20 * prior) / (trials + 20), 6), trials


async def counts(store: Store, account_id: str = "acc_1") -> list[tuple[str, str, int, int]]:
    sql = "SELECT model, task, score, trials FROM outcomes WHERE account_id = ?"
    found: list[tuple[str, str, int, int]] = await store.read(Query(sql, (account_id,)))
    return found


def imported(task: PromptTask, score: float, trials: int, model_id: str = "priced/tiny") -> CellCount:
    return CellCount(IMPORTED, model_id, task, round(score * SCORE_WHOLE), trials)


async def test_an_accounts_scores_move_its_own_choices_and_no_other_s(store: Store) -> None:
    book = await begun(store)
    assert expected(book.table_of("acc_1", None)) == (0.6, 0)
    await scored(book, store, [1.0] * 29)
    assert expected(book.table_of("acc_1", None)) == (0.6, 0)
    await scored(book, store, [0.25])
    assert expected(book.table_of("acc_1", None)) == drawn(29.25, 30)
    assert expected(book.table_of("acc_2", None)) == (0.6, 0)
    assert expected((await begun(store)).table_of("acc_1", None)) == drawn(29.25, 30)


async def test_a_table_stays_the_same_until_something_changes(store: Store) -> None:
    book = await begun(store)
    await scored(book, store, [1.0])
    own, others = book.table_of("acc_1", "a"), book.table_of("acc_2", "a")
    assert book.table_of("acc_1", "a") is own
    assert book.table_of("acc_3", "a") is others is not own
    assert book.table_of("acc_1", "b") is not own
    await scored(book, store, [1.0])
    assert book.table_of("acc_1", "a") is not own
    assert book.table_of("acc_2", "a") is others


@each("scores", list(permutations([0.0, 0.1, 1.0])))
async def test_the_last_score_of_a_request_counts_and_counts_once(store: Store, scores: tuple[float, ...]) -> None:
    book, account_id = await begun(store), f"acc_{scores}"
    request_id = await routed(store, account_id)
    for score in (*scores, scores[-1]):
        assert await book.score(account_id, request_id, score, is_of_test_key=False)
        assert await counts(store, account_id) == [("priced/tiny", "code", round(score * SCORE_WHOLE), 1)]
    kept = await store.read(Query("SELECT score FROM routed_requests WHERE id = ?", (request_id,)))
    assert kept == [(round(scores[-1] * SCORE_WHOLE),)]


async def test_scores_are_summed_in_whole_millionths(store: Store) -> None:
    book = await begun(store)
    await scored(book, store, [0.1, 0.2, 0.3, 1 / 3, 0.7, 1.0])
    assert await counts(store) == [("priced/tiny", "code", 100_000 + 200_000 + 300_000 + 333_333 + 1_700_000, 6)]


async def test_what_was_counted_stays_when_its_request_is_deleted(store: Store) -> None:
    book = await begun(store)
    request_id = await routed(store)
    assert await book.score("acc_1", request_id, 0.5, is_of_test_key=False)
    await store.write(changing("DELETE FROM requests WHERE id = ?", (request_id,)))
    with pytest.raises(GatewayError) as raised:
        await book.score("acc_1", request_id, 1.0, is_of_test_key=False)
    assert raised.value.code == "not_found"
    assert await counts(store) == [("priced/tiny", "code", 500_000, 1)]


async def test_what_cannot_count_is_kept_with_its_request_alone(store: Store) -> None:
    book = await begun(store)
    for request_id in (await routed(store, task="unknown"), await routed(store, model=None)):
        assert not await book.score("acc_1", request_id, 0.5, is_of_test_key=False)
    assert await store.read(Query("SELECT score FROM routed_requests")) == [(500_000,), (500_000,)]
    assert await counts(store) == []


async def test_a_test_key_moves_no_score_of_a_live_one(store: Store) -> None:
    book = await begun(store)
    request_id = await routed(store)
    assert await book.score("acc_1", request_id, 1.0, is_of_test_key=False)
    assert not await book.score("acc_1", request_id, 0.0, is_of_test_key=True)
    assert await counts(store) == [("priced/tiny", "code", SCORE_WHOLE, 1)]


@each("named", ["acc_2", "acc_1"])
async def test_only_a_request_that_was_routed_can_be_scored(store: Store, named: str) -> None:
    book = await begun(store)
    await routed(store, "acc_2")
    plain = recorded(1_000)
    await write_records(store, plain)
    request_id = plain.id if named == "acc_1" else "req_none"
    with pytest.raises(GatewayError) as raised:
        await book.score("acc_1", request_id, 1.0, is_of_test_key=False)
    assert raised.value.code == "not_found"
    assert await counts(store) == []


async def test_where_no_feedback_is_wanted_none_is_kept_and_none_that_was_kept_counts(store: Store) -> None:
    await scored(await begun(store), store, [1.0] * 30)
    book = await begun(store, "off")
    request_id = await routed(store)
    with pytest.raises(GatewayError) as raised:
        await book.score("acc_1", request_id, 1.0, is_of_test_key=False)
    assert raised.value.code == "insufficient_permissions"
    assert expected(book.table_of("acc_1", None)) == (0.6, 0)
    await book.bring([imported("code", 30, 30)], in_place=False)
    await book.catch_up()
    assert expected(book.table_of("acc_1", None)) == drawn(30, 30)


async def test_where_all_share_no_account_has_more_than_a_tenth_of_the_weight(store: Store) -> None:
    book = await begun(store, "all")
    for number in range(9):
        await scored(book, store, [0.0] * 4, f"acc_{number}")
    assert expected(book.table_of("acc_1", None)) == (0.6, 0)  # nine accounts alone come to nothing
    await scored(book, store, [1.0] * 40, "acc_9")
    for account_id in ("acc_9", "acc_0", "acc_other"):
        assert expected(book.table_of(account_id, None)) == drawn(4, 40)
    assert book.table_of("acc_9", None) is book.table_of("acc_0", None)
    assert expected((await begun(store, "all")).table_of("acc_9", None)) == drawn(4, 40)


@each("feedback", ["own", "all", "off"])
async def test_what_another_process_imports_is_seen(tmp_path: Path, feedback: MovedByFeedback) -> None:
    database = migrated(tmp_path / feedback)
    server, desk = await open_store(database), await open_store(database)
    book, others = await begun(server, feedback), OutcomeBook(desk, PRIORS, feedback)
    assert expected(book.table_of("acc_1", None)) == (0.6, 0)
    await others.bring([imported("code", 20, 40), imported("code", 3, 3)], in_place=False)
    await book.catch_up()
    assert expected(book.table_of("acc_1", None)) == drawn(23, 43)
    kept = book.table_of("acc_1", None)
    await book.catch_up()
    assert book.table_of("acc_1", None) is kept
    await others.bring([imported("math", 1, 99)], in_place=True)
    await book.catch_up()
    assert expected(book.table_of("acc_1", None))[1] == 0
    await server.close()
    await desk.close()


async def test_an_accounts_scores_stand_beside_what_was_imported(store: Store) -> None:
    book = await begun(store)
    await scored(book, store, [1.0] * 3)
    await book.bring([imported("code", 10, 40)], in_place=True)
    await book.catch_up()
    assert expected(book.table_of("acc_1", None)) == drawn(13, 43)
    assert expected(book.table_of("acc_2", None)) == drawn(10, 40)


async def test_more_counts_than_there_is_room_for_move_nothing_and_cost_no_memory(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    book = await begun(store)
    await book.bring([imported("math", 9, 9)], in_place=False)
    await scored(book, store, [1.0] * 30, "acc_few")
    await scored(book, store, [1.0] * 40, "acc_many")
    small = await begun(store, most_cells=2)
    assert "move nothing" in caplog.text
    assert expected(small.table_of("acc_many", None)) == drawn(40, 40)
    assert expected(small.table_of("acc_few", None)) == (0.6, 0)
    await scored(small, store, [0.0], "acc_new")
    await scored(small, store, [0.0], "acc_many")
    assert expected(small.table_of("acc_many", None)) == drawn(40, 41)
    assert set(small._counts) == {IMPORTED, "acc_many"}


async def test_so_many_tables_are_kept_and_no_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.core.routing.outcome_book._MOST_TABLES", 2)
    book = await begun(store)
    for number in range(4):
        await scored(book, store, [1.0], f"acc_{number}")
        book.table_of(f"acc_{number}", None)
    assert len(book._tables) == 2


def test_a_count_is_told_as_outcomes() -> None:
    assert imported("code", 1.5, 2).outcomes == Outcomes(1.5, 2)
